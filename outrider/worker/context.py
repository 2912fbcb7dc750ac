"""What a task can say and ask while it runs: ``from outrider.worker import current``."""

from __future__ import annotations

import datetime as dt
import hashlib
import threading
from collections.abc import Iterable
from typing import Any

import msgspec

from outrider.errors import OutriderError
from outrider.worker.channel import KeeperChannel, now_ns
from outrider.worker.messages import Blocked, Input, LogOutput, Progress, Resolve, Run
from outrider.worker.waits import Waits

STREAM_LOG = 3
LOG_CHUNK_BYTES = 64 * 1024
_SUCCEEDED = 7
_GRANTS = frozenset(("yes", "y", "grant", "granted", "true", "ok", '"yes"'))


class TaskCancelled(BaseException):
    """Raised inside a function that must stop. Not an Exception, so that ``except Exception`` lets it through."""


class DependencyFailed(OutriderError):
    """The task that this one waited for did not succeed."""

    reason, code = "DEPENDENCY_FAILED", "FAILED_PRECONDITION"


class Attempt:
    """One attempt as user code sees it. Safe to use from any thread of the attempt."""

    def __init__(self, run: Run, channel: KeeperChannel) -> None:
        self._run = run
        self._channel = channel
        self._cancelled = threading.Event()
        self.waits = Waits(run.key, channel, self._check_cancelled)
        self.summary_text = ""
        self.remaining_issues: list[str] = []
        self.task_id = run.task_id
        self.attempt = run.attempt
        self.run_id = run.environment.get("OUTRIDER_RUN_ID", "")
        self.namespace = run.environment.get("OUTRIDER_NAMESPACE", "")
        self.agent = run.environment.get("OUTRIDER_AGENT", "")

    @property
    def inputs(self) -> dict[str, Any]:
        """Results of the task's dependencies, by their key, decoded from JSON."""
        return {item.key: decoded(item) for item in self._run.inputs}

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody wants this attempt to stop."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Mark as cancelled and wake what waits."""
        self._cancelled.set()
        self.waits.wake()

    def progress(self, completed: float, total: float = 0, status: str = "") -> None:
        """Say how far it is: ``completed`` of ``total`` units (0: not known), and what it is doing."""
        self._channel.send(Progress(self._run.key, now_ns(), completed, total, status))

    def log(self, text: str) -> None:
        """Write a line to the task's log."""
        data = (text if text.endswith("\n") else text + "\n").encode(errors="replace")
        for start in range(0, len(data), LOG_CHUNK_BYTES):
            chunk = data[start : start + LOG_CHUNK_BYTES]
            self._channel.send(LogOutput(self._run.key, now_ns(), STREAM_LOG, chunk))

    def summary(self, text: str) -> None:
        """One line for people, kept with the result."""
        self.summary_text = text

    def remaining(self, issue: str) -> None:
        """Something left to do, kept with the result."""
        self.remaining_issues.append(issue)

    def ask(
        self,
        question: str,
        options: Iterable[str] = (),
        *,
        key: str | None = None,
        context: str = "",
        timeout: float | None = None,
    ) -> str:
        """Ask a person (or another task) and wait for the answer; the slot is free meanwhile.

        The same ``key`` (default: made from the question) gets the same answer again, also after a retry. Raises
        BlockedTimeout after ``timeout`` seconds.
        """
        blocked = self.question(question, options, key=key, context=context)
        return text_of(self.waits.wait(blocked, timeout))

    def question(
        self, question: str, options: Iterable[str] = (), *, key: str | None = None, context: str = ""
    ) -> Blocked:
        """The wait that `ask` opens."""
        wait_key = key or "ask-" + hashlib.blake2b(question.encode(), digest_size=6).hexdigest()
        return Blocked(
            self._run.key,
            now_ns(),
            wait_key,
            "clarification",
            context,
            question=question,
            options=list(options),
        )

    def wait_for(self, task_id: str, timeout: float | None = None) -> Any:
        """Wait for another task and return its result. Raises DependencyFailed when it does not succeed."""
        blocked = Blocked(self._run.key, now_ns(), f"task-{task_id}", "dependency", required_task_id=task_id)
        resolution = self.waits.wait(blocked, timeout)
        if resolution.dependency_state != _SUCCEEDED:
            raise DependencyFailed(f"task {task_id} did not succeed; `outrider task show {task_id}` says why")
        return msgspec.json.decode(resolution.data) if resolution.data else None

    def wait_external(self, system: str, issue: str, retry_at: dt.datetime | float | None = None) -> None:
        """Wait for an outside system until ``retry_at`` (aware datetime or Unix seconds), or until somebody answers."""
        at_s = retry_at.timestamp() if isinstance(retry_at, dt.datetime) else retry_at or 0.0
        wait_key = f"external-{system}-{int(at_s)}"
        blocked = Blocked(
            self._run.key,
            now_ns(),
            wait_key,
            "external",
            system=system,
            issue=issue,
            retry_time_ns=int(at_s * 1e9),
        )
        self.waits.wait(blocked)

    def need_more_time(self, seconds: float, suggested_split: str = "") -> bool:
        """Ask for ``seconds`` beyond the timeout; True when they are granted."""
        wait_key = f"time-{self.attempt}-{int(seconds)}"
        blocked = Blocked(
            self._run.key,
            now_ns(),
            wait_key,
            "complexity",
            additional_s=seconds,
            suggested_split=suggested_split,
        )
        return text_of(self.waits.wait(blocked)).strip().lower() in _GRANTS

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise TaskCancelled


class Current:
    """Stands for the attempt that runs in this process; outside a task every use says so."""

    _attempt: Attempt | None = None

    def __getattr__(self, name: str) -> Any:
        if self._attempt is None:
            raise RuntimeError(f"outrider.worker.current.{name} works only inside a task that Outrider runs")
        return getattr(self._attempt, name)

    def bind(self, attempt: Attempt | None) -> None:
        """Let `current` stand for this attempt."""
        self._attempt = attempt


def decoded(item: Input) -> Any:
    """The value of an input: JSON decoded, other types as they are, None for no value."""
    if not item.data:
        return None
    is_json = item.content_type in ("", "application/json")
    return msgspec.json.decode(item.data) if is_json else item.data


def text_of(resolution: Resolve) -> str:
    """An answer as text: a JSON string is unwrapped, other JSON stays JSON."""
    text = resolution.data.decode(errors="replace")
    if resolution.content_type in ("", "application/json"):
        try:
            value = msgspec.json.decode(resolution.data) if resolution.data else ""
        except msgspec.DecodeError:
            return text
        return value if isinstance(value, str) else text
    return text
