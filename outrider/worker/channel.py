"""The worker's end of the keeper's socket: sends at once, from any thread, in order."""

from __future__ import annotations

import mmap
import socket
import struct
import threading
import time

from outrider.worker.messages import RUNNING_PAGE_BYTES, FromWorker, encode

_KEY = struct.Struct("<Q")


class KeeperChannel:
    """Sends messages to the keeper and publishes which attempt runs.

    Everything is sent before `send` returns, so what an attempt said is out of the process when it dies.
    """

    def __init__(self, connection: socket.socket, running_fd: int) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._page = mmap.mmap(running_fd, RUNNING_PAGE_BYTES)

    def send(self, *messages: FromWorker) -> None:
        """Send messages as one frame. A keeper that is gone ends the process elsewhere; it is no error here."""
        frame = encode(messages)
        with self._lock:
            try:
                self._connection.sendall(frame)
            except OSError:
                return

    def publish_running(self, key: int) -> None:
        """Say which attempt runs from now on; 0 for none."""
        _KEY.pack_into(self._page, 0, key)


def now_ns() -> int:
    """Wall clock in ns: the time of a message."""
    return time.time_ns()
