"""One end of a Unix stream socket in the keeper's or the link's loop, without tasks and without copies in between.

Owns reading when there is something, writing when there is room, and the end of the other side. It must not know what
the bytes mean. `write` takes everything at once and never blocks; whoever writes much looks at `pending_bytes` and
waits for ``on_room``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

#: Below the size from which the C library gives a buffer pages of its own: reading into those takes five times as long.
READ_BYTES = 64 * 1024
#: ``on_room`` is called when less than this is left to write.
ROOM_BYTES = 256 * 1024


class Pipe:
    """Callbacks run in the loop: ``on_bytes`` with what came, ``on_end`` once, ``on_room`` when writing can go on."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_bytes: Callable[[bytes], None],
        on_end: Callable[[], None],
        on_room: Callable[[], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._socket = sock
        self._on_bytes = on_bytes
        self._on_end = on_end
        self._on_room = on_room
        self._unwritten = bytearray()
        self._is_reading = False
        self._is_open = True
        self.resume()

    @property
    def pending_bytes(self) -> int:
        """What the other side has not taken yet."""
        return len(self._unwritten)

    def write(self, data: bytes) -> None:
        """Send now what the socket takes, the rest later. On a closed pipe it does nothing."""
        if not self._is_open:
            return
        if self._unwritten:
            self._unwritten += data
            return
        taken = self._send(data)
        if taken < len(data) and self._is_open:
            self._unwritten += memoryview(data)[taken:]
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def pause(self) -> None:
        """Read no more until `resume`; the other side will block."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._socket.fileno())

    def resume(self) -> None:
        """Read again."""
        if self._is_open and not self._is_reading:
            self._is_reading = True
            self._loop.add_reader(self._socket.fileno(), self._readable)

    def drain(self) -> None:
        """Take in everything that has arrived, for a process that is known to be dead."""
        while self._is_open:
            try:
                data = self._socket.recv(READ_BYTES)
            except OSError:
                return
            if not data:
                return
            self._on_bytes(data)

    def close(self) -> None:
        """Close the socket; no callback comes after this."""
        if self._is_open:
            self.pause()
            self._is_open = False
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            # The other side is gone; its end is noticed by reading, in order with what it said before.
            return len(data)

    def _writable(self) -> None:
        del self._unwritten[: self._send(self._unwritten)]
        if not self._unwritten:
            self._loop.remove_writer(self._socket.fileno())
        if self._on_room is not None and len(self._unwritten) < ROOM_BYTES:
            self._on_room()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._on_bytes(data)
            return
        self.pause()
        self._on_end()
