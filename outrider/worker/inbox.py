"""Who reads what the keeper says: the main thread while it has nothing to run, a second one while an attempt runs long.

Waking another thread takes longer than a short function. So the main thread reads itself, when it has nothing to run
and now and then between attempts. The second thread only looks every `TICK_S` whether the same attempt still runs, and
reads from then on, so that a stop, a recall, an answer and the end of the socket are noticed meanwhile; it gives the
socket back once the main thread waits.

Invariants: only the thread that holds `_reading` reads, and it handles what it has read before it lets go, so messages
are handled once and in order; while the main thread waits, one of the two reads.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from time import sleep, time_ns
from typing import Final

from outrider.worker.active import Active
from outrider.worker.channel import KeeperChannel
from outrider.worker.messages import ToWorker, reader_in_worker

#: Less than what makes malloc map and unmap memory for every read.
RECEIVE_BYTES: Final = 64 * 1024
#: The second thread reads for an attempt that has run this long, at the latest twice this.
TICK_S: Final = 0.002
#: After so many looks without an attempt the second thread sleeps until there is one.
QUIET_TICKS: Final = 50
#: How long the main thread runs what has arrived without a look at the socket.
GLANCE_NS: Final = 1_000_000


class _Again:
    """Among the attempts: the main thread may read for itself again."""


class Inbox:
    """The attempts that arrive. ``handle`` gets every message; ``gone`` is called at the socket's end, once."""

    def __init__(
        self,
        connection: socket.socket,
        channel: KeeperChannel,
        handle: Callable[[ToWorker], None],
        gone: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._handle = handle
        self._gone = gone
        self._frames = reader_in_worker()
        self._reading = threading.Lock()
        self._read_ns = 0
        self._arrived: queue.SimpleQueue[Active | _Again | None] = queue.SimpleQueue()
        self._is_awaited = False
        self._is_napping = False
        self._alarm: queue.SimpleQueue[None] = queue.SimpleQueue()

    def start(self) -> None:
        """Look after attempts that run long from now on."""
        threading.Thread(target=self._look_on, name="outrider-keeper", daemon=True).start()

    def put(self, active: Active | None) -> None:
        """Queue an attempt; None: leave after those before it."""
        self._arrived.put(active)

    # --- the main thread

    def next(self) -> Active | None:
        """The attempt to run next, or None to leave; waits for it, after sending what the channel holds."""
        while True:
            if self._arrived.empty():
                self._channel.release()
                if self._reading.acquire(blocking=False):
                    self._read()
                    self._read_ns = time_ns()
                    self._reading.release()
                    continue
                self._is_awaited = True
            found = self._arrived.get()
            self._is_awaited = False
            if not isinstance(found, _Again):
                return found

    def is_empty(self) -> bool:
        """Whether `next` will wait, as far as is known now."""
        return self._arrived.empty()

    def begin(self) -> None:
        """An attempt runs, as the channel says: somebody must be ready to read."""
        if self._is_napping:
            self._is_napping = False
            self._alarm.put(None)

    def glance(self, now_ns: int) -> None:
        """Handle what the keeper has said, if nobody has looked for a while. ``now_ns``: wall clock."""
        if not 0 <= now_ns - self._read_ns < GLANCE_NS and self._reading.acquire(blocking=False):
            self._read(socket.MSG_DONTWAIT)
            self._read_ns = now_ns
            self._reading.release()

    # --- the second thread

    def _look_on(self) -> None:
        seen = quiet = 0
        while True:
            sleep(TICK_S)
            key = self._channel.running
            if key and key == seen and self._reading.acquire(blocking=False):
                self._read_on()
            quiet = 0 if key else quiet + 1
            if quiet > QUIET_TICKS:
                self._nap()
                quiet = 0
            seen = key

    def _read_on(self) -> None:
        while not self._is_awaited:
            self._read()
        self._reading.release()
        self._arrived.put(_Again())

    def _nap(self) -> None:
        self._is_napping = True
        # Looked at again, because an attempt may have begun just before the line above, and called nobody.
        if not self._channel.running:
            self._alarm.get()
        self._is_napping = False

    # --- whoever holds `_reading`

    def _read(self, flags: int = 0) -> None:
        try:
            data = self._connection.recv(RECEIVE_BYTES, flags)
            for message in self._frames.feed(data):
                self._handle(message)
        except BlockingIOError:
            return
        except Exception:  # a socket that fails, or says what nobody understands, is the same as its end
            data = b""
        if not data:
            self._gone()
