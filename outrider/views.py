"""What clients read: events, progress, explanations and outcomes, as plain Python values made from wire messages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp

from outrider import errors
from outrider.v1 import event_pb2, run_service_pb2, task_pb2, task_service_pb2

__all__ = ["Explanation", "Milestone", "Progress", "RunProgress", "TaskEvent", "TaskState", "Verdict", "Wait"]


class TaskState(StrEnum):
    """Where a task is in its life."""

    PENDING = "PENDING"
    QUEUED = "QUEUED"
    ASSIGNED = "ASSIGNED"
    RUNNING = "RUNNING"
    BLOCKED = "BLOCKED"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True, slots=True)
class Progress:
    """``completed`` of ``total`` units (0: not known), and what the task is doing."""

    completed: float
    total: float
    status: str

    @classmethod
    def read(cls, message: task_pb2.Progress) -> Progress:
        """From the wire."""
        return cls(message.completed, message.total, message.status)


@dataclass(frozen=True, slots=True)
class Wait:
    """What a blocked task waits for. ``kind`` is clarification, dependency, external or complexity."""

    key: str
    kind: str
    text: str
    options: tuple[str, ...] = ()
    #: When it was asked, and when its budget ends; None where that is not known, or there is none.
    opened: dt.datetime | None = None
    expires: dt.datetime | None = None

    @classmethod
    def read(cls, message: task_pb2.BlockedReason) -> Wait:
        """From the wire."""
        kind = message.WhichOneof("reason") or "clarification"
        return cls(
            message.key,
            kind,
            wait_text(message),
            tuple(message.clarification.options),
            read_time(message.open_time) if message.HasField("open_time") else None,
            read_time(message.expire_time) if message.HasField("expire_time") else None,
        )


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One entry of the event log about a task. ``type`` is TASK_STARTED, TASK_PROGRESS, TASK_SUCCEEDED, ..."""

    cursor: int
    type: str
    time: dt.datetime
    task_id: str
    attempt: int
    agent: str
    text: str
    progress: Progress | None = None
    wait: Wait | None = None

    @classmethod
    def read(cls, message: event_pb2.Event) -> TaskEvent:
        """From the wire."""
        return cls(
            message.cursor,
            event_pb2.EventType.Name(message.type).removeprefix("EVENT_TYPE_"),
            read_time(message.create_time),
            message.task_id,
            message.attempt,
            message.agent_id,
            message.text or message.error.message,
            Progress.read(message.progress) if message.HasField("progress") else None,
            Wait.read(message.blocked) if message.HasField("blocked") else None,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why one agent does not take a task: the first ``rule`` that refused it; ``eligible`` when none did."""

    agent: str
    eligible: bool
    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task is where it is. ``str()`` of it is made for people."""

    state: TaskState
    summary: str
    agents: Sequence[Verdict]
    ahead_in_queue: int
    waiting_for: Sequence[str]
    suggestions: Sequence[str]
    #: What holds it back whatever the agent, one line each.
    held_back_by: Sequence[str] = ()
    #: Its place in the queue, 1 is next; 0 when it is not queued.
    queue_position: int = 0
    #: When it becomes ready by itself, and when it is likely to start; None where that is not known.
    ready: dt.datetime | None = None
    predicted_start: dt.datetime | None = None

    @classmethod
    def read(cls, message: task_service_pb2.ExplainResponse) -> Explanation:
        """From the wire."""
        return cls(
            state_of(message.state),
            message.summary,
            tuple(Verdict(item.agent_id, item.eligible, item.rule, item.text) for item in message.agents),
            message.ahead_in_queue,
            tuple(message.waiting_for_task_ids),
            tuple(message.suggestions),
            tuple(message.held_back_by),
            message.queue_position,
            read_time(message.ready_time) if message.HasField("ready_time") else None,
            read_time(message.predicted_start_time) if message.HasField("predicted_start_time") else None,
        )

    def __str__(self) -> str:
        lines = [self.summary]
        if self.queue_position:
            lines.append(f"  place in the queue: {self.queue_position}")
        if self.predicted_start is not None:
            left_s = (self.predicted_start - dt.datetime.now(dt.UTC)).total_seconds()
            lines.append(f"  likely to start in about {max(0.0, left_s):.0f} s")
        lines += [f"  held back: {text}" for text in self.held_back_by]
        lines += [f"  {one.agent}: {one.text or 'could take it now'}" for one in self.agents]
        lines += [f"  hint: {text}" for text in self.suggestions]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Milestone:
    """A named point of a run; ``reach_time`` None before it is reached."""

    name: str
    task_count: int
    succeeded_count: int
    reach_time: dt.datetime | None


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is. ``fraction`` is 0 to 1, by weight; ``speedup`` how long tasks ran per second since the start.

    ``estimated_end`` is None while nothing is known of how long its work takes, and once it is over.
    """

    total: int
    fraction: float
    completed: int
    in_progress: int
    pending: int
    blocked: int
    agents_active: int
    estimated_end: dt.datetime | None
    speedup: float
    milestones: tuple[Milestone, ...]
    is_over: bool

    @classmethod
    def read(cls, run: run_service_pb2.Run) -> RunProgress:
        """From a run on the wire that has its progress."""
        message = run.progress
        return cls(
            run.task_count,
            message.fraction,
            message.completed_count,
            message.in_progress_count,
            message.pending_count,
            message.blocked_count,
            message.agents_active,
            read_time(message.estimated_end_time) if message.HasField("estimated_end_time") else None,
            message.speedup,
            tuple(
                Milestone(
                    one.name,
                    one.task_count,
                    one.succeeded_count,
                    read_time(one.reach_time) if one.HasField("reach_time") else None,
                )
                for one in message.milestones
            ),
            run.HasField("end_time"),
        )

    def __str__(self) -> str:
        parts = [f"{self.completed}/{self.total} done ({self.fraction:.0%})", f"{self.in_progress} in progress"]
        parts += [f"{self.pending} pending", f"{self.blocked} blocked", f"{self.agents_active} agents active"]
        if self.estimated_end is not None:
            left_s = max(0.0, (self.estimated_end - dt.datetime.now(dt.UTC)).total_seconds())
            parts.append(f"about {dt.timedelta(seconds=round(left_s))} left")
        if self.speedup:
            parts.append(f"speedup {self.speedup:.1f}x")
        return ", ".join(parts)


def state_of(number: int) -> TaskState:
    """A state by its number on the wire."""
    return TaskState(task_pb2.TaskState.Name(task_pb2.TaskState.ValueType(number)).removeprefix("TASK_STATE_"))


def read_time(stamp: Timestamp) -> dt.datetime:
    """An aware datetime."""
    return stamp.ToDatetime(tzinfo=dt.UTC)


def wait_text(message: task_pb2.BlockedReason) -> str:
    """What is waited for, in one line."""
    kind = message.WhichOneof("reason")
    if kind == "dependency" and message.dependency.HasField("resource"):
        return f"limit {message.dependency.resource.key}"
    if kind == "dependency":
        return f"task {message.dependency.required_task_id}"
    if kind == "external":
        return f"{message.external.system}: {message.external.issue}"
    if kind == "complexity":
        return f"{message.complexity.additional_duration.ToSeconds()} s more time"
    return message.clarification.question


def payload_value(payload: task_pb2.Payload) -> Any:
    """JSON decoded, other types as bytes, None for no value."""
    data = payload.data
    if not data:
        return None
    return msgspec.json.decode(data) if payload.content_type in ("", "application/json") else data


_ENDINGS: dict[int, tuple[TaskState, type[errors.TaskNotSucceeded]]] = {
    event_pb2.EVENT_TYPE_TASK_FAILED: (TaskState.FAILED, errors.TaskFailed),
    event_pb2.EVENT_TYPE_TASK_CANCELLED: (TaskState.CANCELLED, errors.TaskCancelled),
    event_pb2.EVENT_TYPE_TASK_EXPIRED: (TaskState.EXPIRED, errors.TaskExpired),
    event_pb2.EVENT_TYPE_TASK_SKIPPED: (TaskState.SKIPPED, errors.TaskSkipped),
}


def final_state(event: event_pb2.Event) -> TaskState:
    """The state that a terminal event entered."""
    return _ENDINGS[event.type][0] if event.type in _ENDINGS else TaskState.SUCCEEDED


def failure_of(event: event_pb2.Event) -> errors.TaskNotSucceeded | None:
    """The exception that a terminal event stands for; None for a success."""
    ending = _ENDINGS.get(event.type)
    if ending is None:
        return None
    state, failed = ending
    error = event.error
    cause = error.reason or event.reason
    message = error.message or event.text or state.value.lower()
    if error.exception_type:
        message = f"{error.exception_type}: {message}"
    return failed(
        f"task {event.task_id[:16]} {state.value}: {message}",
        task_id=event.task_id,
        cause=task_pb2.TaskReason.Name(cause).removeprefix("TASK_REASON_") if cause else "",
        exception_type=error.exception_type,
        traceback=error.traceback,
        exit_code=error.exit_code if error.HasField("exit_code") else None,
    )
