"""The next certificate in time: when it is due, the process that gets it, and moving the session over to it.

Owns when and how often; `joining` does the work in a process of its own, because the keeper has no gRPC. Failures are
tried again with growing pauses, for as long as it takes: a certificate that has ended can still be renewed for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from outrider.errors import InvalidRequest
from outrider_agent.descriptors import ended
from outrider_agent.identity import Cluster, IdentityFolder

#: Pauses between tries that failed, doubling, and how long one try may take.
RETRY_FIRST_S, RETRY_MAX_S, TRY_TIMEOUT_S = 5.0, 600.0, 60.0
#: The clock is looked at at least so often: a machine that slept is late.
LOOK_S = 30.0

_logger = logging.getLogger(__name__)


class Renewal:
    """One agent's identity, kept fresh. ``renewed`` is told after every new certificate."""

    def __init__(self, state_directory: Path, renewed: Callable[[], None]) -> None:
        self._folder = IdentityFolder(state_directory)
        self._state_directory = state_directory
        self._renewed = renewed
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pid = 0

    @property
    def pids(self) -> set[int]:
        """The process that is under way: nobody else may reap it."""
        return {self._pid} if self._pid else set()

    def start(self) -> None:
        """Begin, when this agent has joined a cluster at all."""
        if self._folder.cluster() is not None:
            self._task = asyncio.get_running_loop().create_task(self._keep())

    def now(self) -> None:
        """Do not wait until it is due: the coordinator says so."""
        self._wanted.set()

    async def close(self) -> None:
        """Stop; a process that is under way is ended."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep(self) -> None:
        pause_s = RETRY_FIRST_S
        while True:
            await self._due()
            self._wanted.clear()
            problem = await self._try()
            if not problem:
                pause_s = RETRY_FIRST_S
                _logger.info("this agent has a new certificate, good until %s", self._until())
                self._renewed()
                continue
            _logger.warning("cannot renew this agent's certificate (good until %s): %s", self._until(), problem)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            self._wanted.set()
            pause_s = min(RETRY_MAX_S, pause_s * 2)

    async def _due(self) -> None:
        """Wait until the next certificate is due, or wanted."""
        while not self._wanted.is_set():
            cluster = self._cluster()
            left_s = (cluster.renew_us - time.time_ns() // 1000) / 1e6 if cluster is not None else 0.0
            if left_s <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), min(left_s, LOOK_S))

    async def _try(self) -> str:
        """Get the next certificate; returns what is wrong, in one line."""
        process = _begun(self._state_directory)
        self._pid = process.pid
        assert process.stderr is not None, "asked for above"
        try:
            with process.stderr:
                await asyncio.wait_for(ended(process), TRY_TIMEOUT_S)
                lines = process.stderr.read().decode(errors="replace").strip().splitlines()
        except TimeoutError:
            return f"no answer within {TRY_TIMEOUT_S:g} s"
        finally:
            process.kill()
            process.wait()
            self._pid = 0
        return "" if process.returncode == 0 else (lines[-1] if lines else f"exit code {process.returncode}")

    def _cluster(self) -> Cluster | None:
        try:
            return self._folder.cluster()
        except InvalidRequest as error:
            _logger.error("%s", error)
            return None

    def _until(self) -> str:
        cluster = self._cluster()
        return (
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(cluster.expires_us / 1e6)) if cluster else "nobody knows"
        )


def _begun(state_directory: Path) -> subprocess.Popen[bytes]:
    """The process that renews."""
    hidden = {"NOTIFY_SOCKET", "OUTRIDER_PARENT_FD"}
    return subprocess.Popen(
        [sys.executable, "-m", "outrider_agent.joining", str(state_directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # a line or two: it fits into the pipe
        env={name: value for name, value in os.environ.items() if name not in hidden},
    )
