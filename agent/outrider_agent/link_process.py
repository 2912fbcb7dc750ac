"""The keeper's side of the link: starts it, talks to it, and starts it again when it dies.

Owns the child process and its socket. It must not know what frames mean. Everything the link held is lost with it, and
nobody but the session needs to know.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Protocol

from outrider_agent import clock
from outrider_agent.link_frames import FrameBuffer, Kind, encode
from outrider_agent.pipe import Pipe

#: A link that lived at least this long is replaced at once; one that dies young waits, doubling up to the maximum.
YOUNG_US = 2_000_000
RESPAWN_FIRST_S, RESPAWN_MAX_S = 0.05, 3.0

_logger = logging.getLogger(__name__)


class LinkListener(Protocol):
    """Who hears the link."""

    def link_said(self, kind: Kind, body: bytes) -> None:
        """One frame of the link."""

    def link_lost(self) -> None:
        """The link died and took the stream with it; another one is there."""

    def link_has_room(self) -> None:
        """The link has taken most of what was written."""


class LinkProcess:
    """One link at a time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: LinkListener,
        instance_id: str,
        environment: Mapping[str, str],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._instance_id = instance_id
        # It must never find itself by the marker it sweeps for, nor answer for the keeper to the service manager.
        hidden = {"NOTIFY_SOCKET", "OUTRIDER_PARENT_FD", "OUTRIDER_KEEPER", "OUTRIDER_ATTEMPT_KEY"}
        self._environment = {name: value for name, value in environment.items() if name not in hidden}
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Pipe
        self._started_us = 0
        self._early_deaths = 0
        self._is_closing = False

    @property
    def pid(self) -> int:
        """Its process id; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def pending_bytes(self) -> int:
        """What the link has not taken yet."""
        return self._pipe.pending_bytes

    def start(self) -> None:
        """Start the process; what is sent to it waits in the socket until it is up."""
        if self._is_closing:
            return
        ours, theirs = socket.socketpair()
        self._started_us = clock.boot_us()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "outrider_agent.link", "--fd", str(theirs.fileno())),
                *("--keeper-pid", str(os.getpid()), "--instance", self._instance_id),
            ],
            stdin=subprocess.DEVNULL,
            env=self._environment,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        frames = FrameBuffer()

        def heard(data: bytes) -> None:
            for kind, body in frames.feed(data):
                self._listener.link_said(kind, body)

        self._pipe = Pipe(self._loop, ours, heard, _ignore, self._listener.link_has_room)
        pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(pidfd, self._gone, self._process, pidfd)

    def send(self, kind: Kind, body: bytes = b"") -> None:
        """One frame to the link."""
        self._pipe.write(encode(kind, body))

    def send_encoded(self, frame: bytes) -> None:
        """One frame that is encoded already."""
        self._pipe.write(frame)

    def close(self) -> None:
        """End the link: it exits when its socket ends."""
        self._is_closing = True
        self._pipe.close()

    def wait(self, timeout_s: float) -> None:
        """After `close`: wait for the process to end, and kill it when it takes too long."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _gone(self, process: subprocess.Popen[bytes], pidfd: int) -> None:
        if process.poll() is None:
            return
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        self._process = None
        if self._is_closing:
            return
        self._pipe.drain()
        self._pipe.close()
        self._early_deaths = self._early_deaths + 1 if clock.boot_us() - self._started_us < YOUNG_US else 0
        delay_s = min(RESPAWN_MAX_S, RESPAWN_FIRST_S * 2.0**self._early_deaths) if self._early_deaths > 1 else 0.0
        _logger.warning("the link ended with code %d; starting another", process.returncode)
        if delay_s:
            self._loop.call_later(delay_s, self._restart)
        else:
            self._restart()

    def _restart(self) -> None:
        """A new link first: whoever hears that the old one is lost will talk to it at once."""
        self.start()
        if not self._is_closing:
            self._listener.link_lost()


def _ignore() -> None:
    """The end of the socket: the end of the process says the same."""
