"""Process trees of attempts: who belongs to one, who was left behind, and how a tree is brought down for good.

Owns the kill ladder: SIGTERM, the grace, SIGKILL, and the proof that nothing is left. It must not know attempts'
states, sockets or reports. The keeper is a child subreaper, so whatever loses its parent becomes the keeper's child.

Invariant: `KillLadder.run` returns True only when neither the attempt's marker nor its descendants can be found.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from outrider import sweep

_PR_SET_CHILD_SUBREAPER = 36
_POLL_FIRST_S, _POLL_MAX_S = 0.01, 0.2
#: After SIGKILL a process that does not go away is in the kernel's hands (a dead disk); this long it is waited for.
GONE_TIMEOUT_S = 5.0
#: From SIGTERM to SIGKILL for processes that a cancelled function left behind.
LEFTOVER_GRACE_S = 1.0


def become_subreaper() -> bool:
    """Let orphans below this process become its children; False where the kernel refuses."""
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def children() -> set[int]:
    """Pids of this process's children, zombies included."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (thread / "children").read_text().split()))
        except OSError:
            # A kernel without CONFIG_PROC_CHILDREN.
            return {child.pid for child in psutil.Process().children()}
    return found


def orphans(known: Iterable[int]) -> set[int]:
    """Children of this process that it did not start itself: left behind by attempts. Dead ones are reaped here."""
    return {pid for pid in children().difference(known) if not _reaped(pid)}


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def descendants(pid: int) -> list[psutil.Process]:
    """Everything below a process, at this moment."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def kill_orphans(pids: Iterable[int]) -> None:
    """SIGKILL these processes and everything below them."""
    for pid in pids:
        for process in [*descendants(pid), *_process(pid)]:
            _signal(process, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Target:
    """One attempt's processes. ``command_pid`` leads the command's process group; 0 for a function, or not known."""

    worker_pid: int
    attempt_key: str
    is_command: bool
    command_pid: int = 0


class KillLadder:
    """Brings one attempt's tree down. The caller has sent `Stop` and sets ``ended`` when the worker says it is over."""

    def __init__(self, target: Target) -> None:
        self.ended = asyncio.Event()
        self._target = target
        self._markers = sweep.attempt_markers(target.attempt_key)
        self._seen: set[psutil.Process] = set()
        self._deadline_s = float("inf")

    def hurry(self, grace_s: float) -> None:
        """SIGKILL after so long from now, unless it comes sooner."""
        self._deadline_s = min(self._deadline_s, time.monotonic() + grace_s)

    async def run(self, grace_s: float) -> bool:
        """Climb it. True: nothing of the attempt is left; False: something outlived SIGKILL."""
        self.hurry(grace_s)
        await asyncio.to_thread(self._terminate)
        await self._wait_ended()
        if self.ended.is_set() and not self._target.is_command:
            # The function has cleaned up; what it left running has nobody who waits for it.
            self.hurry(LEFTOVER_GRACE_S)
            await asyncio.to_thread(sweep.send, self._markers, signal.SIGTERM)
        while self.ended.is_set() and time.monotonic() < self._deadline_s:
            if not await asyncio.to_thread(self._left):
                return True
            await asyncio.sleep(min(_POLL_MAX_S, max(_POLL_FIRST_S, self._deadline_s - time.monotonic())))
        return await self._kill()

    async def _kill(self) -> bool:
        deadline_s = time.monotonic() + GONE_TIMEOUT_S
        pause_s = _POLL_FIRST_S
        while time.monotonic() < deadline_s:
            left = await asyncio.to_thread(self._kill_once, time.monotonic() > deadline_s - GONE_TIMEOUT_S / 2)
            if not left and self.ended.is_set():
                return True
            await asyncio.sleep(pause_s)
            pause_s = min(_POLL_MAX_S, pause_s * 2)
        return False

    async def _wait_ended(self) -> None:
        """Until it has ended or the deadline, which may come nearer meanwhile."""
        while not self.ended.is_set() and (left_s := self._deadline_s - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), min(left_s, _POLL_MAX_S))

    # --- in a thread: each of these walks /proc ----------------------------------------------------------------

    def _terminate(self) -> None:
        """SIGTERM what the worker does not reach: it signals the command's process group itself."""
        if self._target.is_command and self._target.command_pid:
            # A process that has cleared its environment is still found below the worker.
            for process in self._below():
                if not self._is_workers_business(process.pid):
                    _signal(process, signal.SIGTERM)
            sweep.send(self._markers, signal.SIGTERM, spare=self._is_workers_business)

    def _left(self) -> bool:
        return bool(sweep.find(self._markers)) or any(_is_alive(process) for process in self._seen)

    def _kill_once(self, is_worker_stuck: bool) -> bool:
        """SIGKILL everything there is; True when there was something."""
        below = [process for process in self._below() if _is_alive(process)]
        for process in below:
            _signal(process, signal.SIGKILL)
        count = sweep.send(self._markers, signal.SIGKILL)
        # A function cannot be killed without its worker; a command can, unless its worker hangs.
        if not self.ended.is_set() and (not self._target.is_command or is_worker_stuck):
            for process in _process(self._target.worker_pid):
                _signal(process, signal.SIGKILL)
        return bool(below) or count > 0

    def _below(self) -> set[psutil.Process]:
        """The worker's descendants, now and at earlier looks, while the attempt is the worker's business."""
        if not self.ended.is_set():
            self._seen.update(descendants(self._target.worker_pid))
        return self._seen

    def _is_workers_business(self, pid: int) -> bool:
        try:
            return pid == self._target.worker_pid or os.getpgid(pid) == self._target.command_pid
        except OSError:
            return True


def _process(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid)]
    except psutil.Error:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    # psutil looks at the start time first, so a reused pid is never hit.
    try:
        process.send_signal(number)
    except (psutil.Error, OSError):
        return
