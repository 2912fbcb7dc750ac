"""The worker's end of the keeper's socket: sends at once, from any thread, in order."""

from __future__ import annotations

import contextlib
import mmap
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

from outrider.worker.messages import LEASE_OFFSET, RUNNING_PAGE_BYTES, FromWorker, encode

if TYPE_CHECKING:
    from outrider.worker.redaction import Redactor

_NUMBER = struct.Struct("<Q")


class KeeperChannel:
    """Sends messages to the keeper and publishes which attempt runs.

    Everything is sent before `send` returns, so what an attempt said is out of the process when it dies. Only what is
    held waits for the next `send` or `release`, which must follow before any user code runs.
    """

    def __init__(self, connection: socket.socket, running_fd: int) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._unless_gone = contextlib.suppress(OSError)
        self._held: list[FromWorker] = []
        #: Key of the attempt that runs, 0 for none.
        self.running = 0
        #: Takes the values of secrets out of what is said; None while there are none.
        self.redactor: Redactor | None = None
        self._page = mmap.mmap(running_fd, RUNNING_PAGE_BYTES)

    def send(self, *messages: FromWorker) -> None:
        """Send messages as one frame. A keeper that is gone ends the process elsewhere; it is no error here."""
        if self.redactor is not None:
            messages = tuple(map(self.redactor.of_message, messages))
        with self._lock:
            if self._held:
                messages = (*self._held, *messages)
                self._held.clear()
            with self._unless_gone:
                self._connection.sendall(encode(messages))

    def hold(self, *messages: FromWorker) -> None:
        """Send messages in one frame with those that follow at once: a frame costs more than what is in it."""
        if self.redactor is not None:
            messages = tuple(map(self.redactor.of_message, messages))
        with self._lock:
            self._held += messages

    def release(self) -> None:
        """Send what is held, if anything."""
        if self._held:
            self.send()

    def publish_running(self, key: int) -> None:
        """Say which attempt runs from now on; 0 for none."""
        self.running = key
        _NUMBER.pack_into(self._page, 0, key)

    def lease_end_us(self) -> int:
        """When the lease of exclusive attempts ends, as the keeper says now; microseconds of the boot clock."""
        end_us: int = _NUMBER.unpack_from(self._page, LEASE_OFFSET)[0]
        return end_us


def now_ns() -> int:
    """Wall clock in ns: the time of a message."""
    return time.time_ns()
