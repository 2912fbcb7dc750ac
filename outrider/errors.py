"""The one exception tree, and the gRPC status and reason each class travels as.

This module imports no gRPC: the worker and the keeper use it too. `outrider.status` turns these classes into
statuses and back.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AgentNameTaken",
    "AgentRemoved",
    "BlockedTimeout",
    "Deadlock",
    "Draining",
    "FieldViolation",
    "GraphCycle",
    "IllegalTransition",
    "Internal",
    "InvalidRequest",
    "NotFound",
    "OutriderError",
    "PermissionDenied",
    "QueueFull",
    "RateLimited",
    "RequestIdReused",
    "SessionSuperseded",
    "StoreUnavailable",
    "TaskCancelled",
    "TaskExpired",
    "TaskFailed",
    "TaskNotSucceeded",
    "TaskSkipped",
    "TooLarge",
    "Unauthenticated",
    "Unreachable",
    "WaitFailed",
    "WaitRefused",
    "WatchTooSlow",
]


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request: its path (``tasks[3].spec.priority``) and what is wrong with it."""

    field: str
    description: str


class OutriderError(Exception):
    """Base of everything Outrider raises on purpose. The message says what is wrong and what to do next."""

    #: UPPER_SNAKE reason in ErrorInfo.
    reason = "INTERNAL"
    #: Name of the gRPC status code it travels as.
    code = "INTERNAL"
    #: Seconds after which a retry makes sense; None where a retry does not help.
    retry_after_s: float | None = None

    def __init__(self, message: str, *, violations: tuple[FieldViolation, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.violations = violations


class Internal(OutriderError):
    """A fault of ours; the message carries a trace id, never a traceback."""


class InvalidRequest(OutriderError):
    """A field of the request is wrong; `violations` names it."""

    reason, code = "INVALID_REQUEST", "INVALID_ARGUMENT"


class GraphCycle(InvalidRequest):
    """The tasks of a run depend on each other in a circle, which the message names."""

    reason = "CYCLE"


class NotFound(OutriderError):
    """No such task, run or agent."""

    reason, code = "NOT_FOUND", "NOT_FOUND"


class RequestIdReused(OutriderError):
    """The request id was used for another body."""

    reason, code = "REQUEST_ID_REUSED", "ALREADY_EXISTS"


class IllegalTransition(OutriderError):
    """The thing is not in a state in which this can be done."""

    reason, code = "ILLEGAL_TRANSITION", "FAILED_PRECONDITION"


class SessionSuperseded(OutriderError):
    """A newer session of the same agent took over."""

    reason, code = "SESSION_SUPERSEDED", "FAILED_PRECONDITION"


class AgentNameTaken(OutriderError):
    """Another machine holds this agent name."""

    reason, code = "AGENT_NAME_TAKEN", "FAILED_PRECONDITION"


class AgentRemoved(OutriderError):
    """An operator removed this agent while it was connected."""

    reason, code = "AGENT_REMOVED", "FAILED_PRECONDITION"


class QueueFull(OutriderError):
    """As many tasks are open as the coordinator takes."""

    reason, code, retry_after_s = "QUEUE_FULL", "RESOURCE_EXHAUSTED", 1.0


class RateLimited(OutriderError):
    """The caller calls more often than it may; ``retry_after_s`` says when to come back."""

    reason, code, retry_after_s = "RATE_LIMITED", "RESOURCE_EXHAUSTED", 1.0


class TooLarge(OutriderError):
    """A payload, a message or a graph is over its limit."""

    reason, code = "TOO_LARGE", "RESOURCE_EXHAUSTED"


class WatchTooSlow(OutriderError):
    """The reader of a watch fell behind; resume after the last cursor it saw."""

    reason, code, retry_after_s = "WATCH_TOO_SLOW", "ABORTED", 0.1


class Draining(OutriderError):
    """The coordinator is stopping."""

    reason, code, retry_after_s = "DRAINING", "UNAVAILABLE", 1.0


class StoreUnavailable(OutriderError):
    """The coordinator cannot write, for example because its disk is full."""

    reason, code, retry_after_s = "STORE_UNAVAILABLE", "UNAVAILABLE", 5.0


class Unreachable(OutriderError):
    """Nobody answers at the coordinator's address."""

    reason, code, retry_after_s = "UNREACHABLE", "UNAVAILABLE", 1.0


class Untrusted(Unreachable):
    """What answers at the address shows no certificate, or not the right one; the message says what to do."""

    reason = "UNTRUSTED"


class Unauthenticated(OutriderError):
    """The coordinator does not know who calls."""

    reason, code = "UNAUTHENTICATED", "UNAUTHENTICATED"


class PermissionDenied(OutriderError):
    """The caller may not do this."""

    reason, code = "PERMISSION_DENIED", "PERMISSION_DENIED"


class BlockedTimeout(OutriderError):
    """Raised inside a task: nobody resolved the wait within the time the task gave."""

    reason, code = "BLOCKED_TIMEOUT", "DEADLINE_EXCEEDED"


class WaitFailed(OutriderError):
    """Raised inside a task: a wait ended without what it waited for."""

    reason, code = "WAIT_FAILED", "FAILED_PRECONDITION"


class Deadlock(WaitFailed):
    """Raised inside a task: the wait could never end, because what it waits for waits for this task in turn."""

    reason = "DEADLOCK"


class WaitRefused(WaitFailed):
    """Raised inside a task: somebody refused what it waits for."""

    reason = "WAIT_REFUSED"


class TaskNotSucceeded(OutriderError):
    """A task ended without a result. `task_id`, `state`, `cause` and the rest say what happened to it."""

    reason, code = "TASK_NOT_SUCCEEDED", "FAILED_PRECONDITION"

    def __init__(
        self,
        message: str,
        *,
        task_id: str = "",
        cause: str = "",
        exception_type: str = "",
        traceback: str = "",
        exit_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.task_id = task_id
        #: UPPER_SNAKE reason: TASK_ERROR, TIMED_OUT, INVALID_WORK, AGENT_LOST, ...
        self.cause = cause
        #: Class of the exception that the function raised; empty for other failures.
        self.exception_type = exception_type
        #: The remote traceback; empty when there is none.
        self.traceback = traceback
        #: Exit code of a command, negative for a signal; None for functions.
        self.exit_code = exit_code


class TaskFailed(TaskNotSucceeded):
    """Every try failed; the message is that of the last one."""

    reason = "TASK_FAILED"


class TaskCancelled(TaskNotSucceeded):
    """Somebody cancelled it."""

    reason = "TASK_CANCELLED"


class TaskExpired(TaskNotSucceeded):
    """Its queue timeout ran out before it started."""

    reason = "TASK_EXPIRED"


class TaskSkipped(TaskNotSucceeded):
    """A task it depends on did not succeed."""

    reason = "TASK_SKIPPED"
