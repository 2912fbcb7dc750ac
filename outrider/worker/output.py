"""What functions print: file descriptors 1 and 2 of the worker as pipes, read while an attempt runs.

Owns the two pipes and the thread that reads them. It must not know what an attempt does. Invariant: what was written
before `drain` begins has been handed over when `drain` returns, whoever goes on printing; one lock keeps the order.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from typing import Protocol, TextIO

from outrider.worker.channel import KeeperChannel, now_ns
from outrider.worker.messages import LogOutput

CHUNK_BYTES = 64 * 1024
ATTEMPT_BYTES_MAX = 4 * 1024 * 1024
STDOUT, STDERR, AGENT = 1, 2, 4


class AttemptOutput:
    """Sends one attempt's output up to `ATTEMPT_BYTES_MAX`, then says so once and counts what it drops.

    The values of secrets that the channel knows when this is made are taken out first.
    """

    def __init__(self, channel: KeeperChannel, key: int) -> None:
        self._channel = channel
        self._key = key
        self._left_bytes = ATTEMPT_BYTES_MAX
        self.dropped_bytes = 0
        redactor = channel.redactor
        self._clean = {stream: redactor.stream() for stream in (STDOUT, STDERR)} if redactor is not None else {}

    def send(self, stream: int, data: bytes) -> bytes:
        """Send at most `CHUNK_BYTES` bytes of a stream; returns what may be known of them, and of what came before."""
        if self._clean:
            data = self._clean[stream].feed(data)
        self._send(stream, data)
        return data

    def end(self, stream: int) -> bytes:
        """Nothing follows in this stream: send what was kept back, as it might have become a secret, and return it."""
        data = self._clean[stream].end() if self._clean else b""
        self._send(stream, data)
        return data

    def _send(self, stream: int, data: bytes) -> None:
        for start in range(0, len(data), CHUNK_BYTES):
            self._send_chunk(stream, data[start : start + CHUNK_BYTES])

    def _send_chunk(self, stream: int, data: bytes) -> None:
        kept = data[: self._left_bytes]
        self._left_bytes -= len(kept)
        if kept:
            self._channel.send(LogOutput(self._key, now_ns(), stream, kept))
        if len(kept) < len(data):
            if not self.dropped_bytes:
                note = f"output truncated: the limit is {ATTEMPT_BYTES_MAX} bytes an attempt\n"
                self._channel.send(LogOutput(self._key, now_ns(), AGENT, note.encode()))
            self.dropped_bytes += len(data) - len(kept)


class Printing(Protocol):
    """What prints, and has an `AttemptOutput` from its first byte on."""

    @property
    def output(self) -> AttemptOutput:
        """The same one every time."""

    @property
    def is_secretive(self) -> bool:
        """Whether it has secrets, so that its output may be kept back."""


class Capture:
    """Takes over descriptors 1 and 2 of this process. What is printed between attempts goes to the old stderr.

    Not so behind an attempt with secrets, with which such a worker ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: Printing | None = None
        #: Once an attempt had secrets: what it has left behind may print them, and is not heard any more.
        self.is_closed = False
        self._old_stderr = os.dup(2)
        self._streams = {_replace(1): STDOUT, _replace(2): STDERR}
        self._poll = select.poll()
        for descriptor in self._streams:
            self._poll.register(descriptor, select.POLLIN)

    def start(self) -> None:
        """Begin to read while attempts run."""
        # New streams, because the old ones remember whether what is behind the descriptor can seek.
        sys.stdout = _text(1)
        sys.stderr = _text(2)
        threading.Thread(target=self._follow, name="outrider-output", daemon=True).start()

    def begin(self, active: Printing) -> None:
        """Output belongs to this attempt from now on."""
        self._active = active

    def drain(self) -> None:
        """Hand over everything printed so far; output belongs to no attempt afterwards."""
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except Exception:  # user code may have closed or replaced one
            _flush_each()
        for descriptor, _ in self._poll.poll(0):
            self._read(descriptor)  # once: a pipe holds no more than one read takes
        with self._lock:
            if self._active is not None and self._active.is_secretive:
                self.is_closed = True
                for stream in (STDOUT, STDERR):
                    self._active.output.end(stream)
            self._active = None

    def _follow(self) -> None:
        while True:
            for descriptor in select.select(list(self._streams), [], [])[0]:
                self._read(descriptor)

    def _read(self, descriptor: int) -> None:
        # Besides an empty pipe there is the agent's own stderr, which may be gone or full.
        with self._lock, contextlib.suppress(OSError):
            data = os.read(descriptor, CHUNK_BYTES)
            if self._active is not None:
                self._active.output.send(self._streams[descriptor], data)
            elif not self.is_closed:
                os.write(self._old_stderr, data)


def _replace(descriptor: int) -> int:
    """Put a pipe in the descriptor's place; returns its reading end, which does not block.

    The other end stays open besides, so that user code which closes the descriptor does not end the pipe.
    """
    reading, writing = os.pipe()
    os.dup2(writing, descriptor)
    os.set_blocking(reading, False)
    return reading


def _flush_each() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _text(descriptor: int) -> TextIO:
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
