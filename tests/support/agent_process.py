"""A real agent as a child process of a test, with everything about it that a test may want to see or kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from support.waiting import eventually


class AgentProcess:
    """Use as a context manager; whatever is left of the agent is killed at the end, by pid."""

    def __init__(
        self,
        folder: Path,
        coordinator: str,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        name: str = "a",
        before: Sequence[str] = (),
    ) -> None:
        """``before`` is what stands before the agent's command line, like `unshare`; it must become the agent."""
        self.folder = folder
        self.state = folder / f"state-{name}"
        self.log = folder / f"agent-{name}.log"
        self._flags = ("--coordinator", coordinator, "--name", name, "--state-directory", str(self.state), *flags)
        self._environment = {**os.environ, "PYTHONPATH": str(folder), **(environment or {})}
        self._before = before
        self._seen: set[psutil.Process] = set()
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> AgentProcess:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.tree()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for process in self._seen:
            if process.is_running():
                process.kill()

    @property
    def pid(self) -> int:
        """The keeper's pid."""
        return self.process.pid

    def start(self) -> None:
        """Start it (again), in the test's folder, so that modules there can be imported by tasks."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._before, sys.executable, "-m", "outrider_agent", *self._flags],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def tree(self) -> list[psutil.Process]:
        """Everything below the keeper now."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self._seen.update(found)
        return found

    def link(self) -> psutil.Process:
        """The link process."""
        return eventually(lambda: next(iter(self._running("outrider_agent.link")), None), what="the link")

    def workers(self) -> list[psutil.Process]:
        """The worker processes."""
        return self._running("outrider.worker")

    def kill(self) -> None:
        """SIGKILL the keeper, and note first who was below it."""
        self.tree()
        self.process.kill()
        self.process.wait(10)

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to stop."""
        self.tree()
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 20.0) -> int:
        """Its exit code."""
        return self.process.wait(timeout_s)

    def suspend(self) -> None:
        """SIGSTOP the keeper and its link: nothing is said any more, while what runs runs on."""
        for process in (psutil.Process(self.pid), self.link()):
            process.suspend()

    def resume(self) -> None:
        """SIGCONT them."""
        for process in (psutil.Process(self.pid), self.link()):
            process.resume()

    def survivors(self) -> list[psutil.Process]:
        """Who of those seen below the keeper is still alive."""
        return [process for process in self._seen if _is_alive(process)]

    def log_text(self) -> str:
        """What it has logged."""
        return self.log.read_text()

    def _running(self, module: str) -> list[psutil.Process]:
        return [process for process in self.tree() if _runs(process, module)]


def is_gone(pid: int) -> bool:
    """Whether a process is dead; a zombie that its new parent has not fetched yet is."""
    try:
        return not _is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


def _runs(process: psutil.Process, module: str) -> bool:
    try:
        return process.cmdline()[1:3] == ["-m", module]
    except psutil.Error:
        return False


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
