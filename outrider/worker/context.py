"""What a task can say and ask while it runs: ``from outrider.worker import current``."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import os
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from outrider.claims import Claim
from outrider.errors import WaitRefused
from outrider.worker.channel import KeeperChannel, now_ns
from outrider.worker.endings import SUCCEEDED, DependencyFailed, TaskCancelled
from outrider.worker.messages import AnswerGiven, Blocked, Input, LogOutput, Progress, Resolve, Run
from outrider.worker.waits import Waits

STREAM_LOG = 3
LOG_CHUNK_BYTES = 64 * 1024
#: What one text told to people may be long; the rest is cut off.
TEXT_CHARS_MAX = 8192
ISSUES_MAX = 64
_GRANTS = frozenset(("yes", "y", "grant", "granted", "true", "ok", '"yes"'))


class Attempt:
    """One attempt as user code sees it. Safe to use from any thread of the attempt."""

    def __init__(self, run: Run, channel: KeeperChannel) -> None:
        self._run = run
        self._channel = channel
        self._redactor = channel.redactor
        #: Whether somebody wants this attempt to stop.
        self.is_cancelled = False
        self.waits = Waits(run.key, channel, self._check_cancelled, run.earlier)
        self._waits_made = itertools.count(1)
        self.summary_text = ""
        self.remaining_issues: list[str] = []
        self.task_id = run.task_id
        self.attempt = run.attempt
        self.run_id = run.environment.get("OUTRIDER_RUN_ID", "")
        self.namespace = run.environment.get("OUTRIDER_NAMESPACE", "")
        self.agent = run.environment.get("OUTRIDER_AGENT", "")

    @property
    def inputs(self) -> dict[str, Any]:
        """Results of the task's dependencies, by their key; see `value_of`."""
        return {item.key: decoded(item) for item in self._run.inputs}

    @property
    def answers(self) -> dict[str, str]:
        """What earlier attempts of the task were answered, by the key of the question."""
        return {one.wait_key: text_of(one) for one in self._run.earlier if not one.error_reason}

    @property
    def expired_waits(self) -> list[str]:
        """Keys of waits that ran out of time on other agents: why the task was moved here."""
        return list(self._run.expired_waits)

    def cancel(self) -> None:
        """Mark as cancelled and wake what waits."""
        self.is_cancelled = True
        self.waits.wake()

    def progress(self, completed: float, total: float = 0, status: str = "") -> None:
        """Say how far it is: ``completed`` of ``total`` units (0: not known), and what it is doing."""
        self._channel.send(Progress(self._run.key, now_ns(), float(completed), float(total), self._told(status)))

    def log(self, text: str) -> None:
        """Write a line to the task's log."""
        data = (self._clean(str(text)).removesuffix("\n") + "\n").encode(errors="replace")
        for start in range(0, len(data), LOG_CHUNK_BYTES):
            chunk = data[start : start + LOG_CHUNK_BYTES]
            self._channel.send(LogOutput(self._run.key, now_ns(), STREAM_LOG, chunk))

    def summary(self, text: str) -> None:
        """One line for people, kept with the result."""
        self.summary_text = self._told(text)

    def remaining(self, issue: str) -> None:
        """Something left to do, kept with the result; the first `ISSUES_MAX` count."""
        if len(self.remaining_issues) < ISSUES_MAX:
            self.remaining_issues.append(self._told(issue))

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
        BlockedTimeout after ``timeout`` seconds, WaitRefused when somebody refuses to answer.
        """
        blocked = self.question(question, options, key=key, context=context)
        return text_of(self.waits.wait(blocked, timeout))

    def question(
        self, question: str, options: Iterable[str] = (), *, key: str | None = None, context: str = ""
    ) -> Blocked:
        """The wait that `ask` opens."""
        question = self._told(question)
        wait_key = key or "ask-" + hashlib.blake2b(question.encode(), digest_size=6).hexdigest()
        return Blocked(
            self._run.key,
            now_ns(),
            self._told(wait_key),
            "clarification",
            self._told(context),
            question=question,
            options=[self._told(option) for option in options],
        )

    def wait_for(self, task_id: str, timeout: float | None = None) -> Any:
        """Wait for another task and return its result.

        Raises DependencyFailed when it does not succeed, Deadlock when it waits for this one in turn, BlockedTimeout
        after ``timeout`` seconds.
        """
        blocked = Blocked(
            self._run.key, now_ns(), f"task-{self._told(task_id)}", "dependency", required_task_id=self._told(task_id)
        )
        resolution = self.waits.wait(blocked, timeout)
        if resolution.dependency_state != SUCCEEDED:
            raise DependencyFailed(task_id, resolution.dependency_state)
        return value_of(resolution.data, resolution.content_type)

    def hold(self, limit: str | Claim, timeout: float | None = None) -> None:
        """Wait for a named limit (``"db:main"``, ``"file:a.py:shared"``, ``"api:5"``) and hold it to the attempt's end.

        The slot is free meanwhile. What the task claims already it has at once; more units of a semaphore or a rate are
        taken beside those before. Raises Deadlock when it would never get it, as others that hold it wait for this
        task; BlockedTimeout after ``timeout`` seconds.
        """
        claim = Claim.parse(limit) if isinstance(limit, str) else limit.checked()
        key = self._told(claim.key)
        wait_key = f"limit-{key}-{self.attempt}-{next(self._waits_made)}"
        blocked = Blocked(
            self._run.key,
            now_ns(),
            wait_key,
            "dependency",
            resource=key,
            resource_shared=claim.shared,
            resource_units=claim.units,
        )
        self.waits.wait(blocked, timeout)

    def wait_external(
        self,
        system: str,
        issue: str,
        retry_at: dt.datetime | float | None = None,
        timeout: float | None = None,
    ) -> None:
        """Wait for an outside system.

        Over at ``retry_at`` (aware datetime or Unix seconds), when the system is known to work again, or when somebody
        answers. Each call without a time is a wait of its own; a time that has been waited for is over at once. Raises
        WaitRefused when somebody says that it will not come back, BlockedTimeout after ``timeout`` seconds.
        """
        at_s = retry_at.timestamp() if isinstance(retry_at, dt.datetime) else retry_at or 0.0
        system = self._told(system)
        which = f"{at_s:.0f}" if at_s else f"{self.attempt}-{next(self._waits_made)}"
        wait_key = f"external-{system}-{which}"
        blocked = Blocked(
            self._run.key,
            now_ns(),
            wait_key,
            "external",
            system=system,
            issue=self._told(issue),
            retry_time_ns=int(at_s * 1e9),
        )
        self.waits.wait(blocked, timeout)

    def need_more_time(self, seconds: float, suggested_split: str = "", timeout: float | None = None) -> bool:
        """Ask for ``seconds`` beyond the timeout; True when some are granted, False when they are refused.

        What the task's policy allows is granted at once, beyond that a person decides. Each call asks anew. Raises
        BlockedTimeout after ``timeout`` seconds.
        """
        wait_key = f"time-{self.attempt}-{next(self._waits_made)}"
        blocked = Blocked(
            self._run.key,
            now_ns(),
            wait_key,
            "complexity",
            additional_s=float(seconds),
            suggested_split=self._told(suggested_split),
        )
        try:
            resolution = self.waits.wait(blocked, timeout)
        except WaitRefused:
            return False
        return resolution.granted_s > 0 or text_of(resolution).strip().lower() in _GRANTS

    def answer(self, task_id: str, value: Any, key: str = "") -> None:
        """Answer what another task asks (``key`` empty: whatever it waits for) with a JSON value.

        Nothing happens when that task does not wait for it.
        """
        data = msgspec.json.encode(value)
        self._channel.send(AnswerGiven(self._run.key, now_ns(), self._told(task_id), self._told(key), data))

    def secret(self, variable: str) -> str:
        """The value of the secret that the task asked for under this variable. Raises KeyError for any other.

        What is no UTF-8 in it comes as `os.environ` has it.
        """
        for secret in self._run.secrets:
            if secret.variable == variable:
                return os.fsdecode(secret.value)
        names = ", ".join(secret.variable for secret in self._run.secrets) or "none"
        raise KeyError(f"this task asked for no secret as {variable}; it has {names}")

    def _told(self, text: object) -> str:
        return told(self._clean(str(text)))

    def _clean(self, text: str) -> str:
        """The text without the values of secrets: before it is cut, or made into a key."""
        return text if self._redactor is None else self._redactor.of_text(text)

    def _check_cancelled(self) -> None:
        if self.is_cancelled:
            raise TaskCancelled


class Running(Protocol):
    """What runs, and makes its `Attempt` when user code first asks for it."""

    @property
    def attempt(self) -> Attempt:
        """The same one every time."""


class Current:
    """Stands for the attempt that runs in this process; outside a task every use says so."""

    _active: Running | None = None

    def __getattr__(self, name: str) -> Any:
        active = self._active
        if active is None:
            raise RuntimeError(f"outrider.worker.current.{name} works only inside a task that Outrider runs")
        return getattr(active.attempt, name)

    def bind(self, active: Running | None) -> None:
        """Let `current` stand for this attempt."""
        self._active = active


def decoded(item: Input) -> Any:
    """The value of an input. Raises ValueError, naming it, when its JSON is broken."""
    try:
        return value_of(item.data, item.content_type)
    except ValueError as error:
        raise ValueError(
            f"the result of {item.task_id}, input {item.key!r}, is not {item.content_type}: {error}"
        ) from None


def value_of(data: bytes, content_type: str) -> Any:
    """A result as Python sees it: JSON decoded, text as str, other types as bytes, None for no data."""
    kind = content_type.partition(";")[0].strip().lower()
    if not data:
        return None
    if kind in ("", "application/json") or kind.endswith("+json"):
        return msgspec.json.decode(data)
    return data.decode(errors="replace") if kind.startswith("text/") else data


def told(text: object) -> str:
    """Text of user code as a message takes it."""
    return printable(str(text)[:TEXT_CHARS_MAX])


def printable(text: str) -> str:
    """The text with lone surrogates, as undecodable file names have them, escaped: only so can it travel."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


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
