"""How an attempt can end badly: the exceptions user code may see, and the one the worker reports from.

Owns the numbers of failure reasons and ended states, so that a worker need not load protobuf for them.
"""

from __future__ import annotations

from outrider.errors import OutriderError

#: TaskReason numbers of protos/outrider/v1/task.proto; a test compares them.
TASK_ERROR, RESULT_TOO_LARGE, INVALID_WORK, RESULT_NOT_SERIALIZABLE, CANCEL_REQUESTED = 1, 6, 8, 9, 10
#: TaskReason number of an exclusive attempt whose lease is over.
LEASE_EXPIRED = 24
#: TaskReason number of what the agent's own policy does not let run.
REFUSED_BY_POLICY = 27
#: TaskReason numbers with which a wait can end.
DEADLOCK, WAIT_REFUSED = 23, 25
#: TaskState number of a dependency that succeeded.
SUCCEEDED = 7
#: The other TaskStates that a task can end in.
ENDED_STATES = {8: "FAILED", 9: "CANCELLED", 10: "EXPIRED", 11: "SKIPPED"}


class TaskCancelled(BaseException):
    """Raised in a running function when its attempt is to stop. Clean up quickly and let it pass.

    Not an Exception, so that ``except Exception`` lets it through.
    """


class DependencyFailed(OutriderError):
    """The task waited for has ended without a result; ``state`` is its TaskState number."""

    reason, code = "DEPENDENCY_FAILED", "FAILED_PRECONDITION"

    def __init__(self, task_id: str, state: int) -> None:
        name = ENDED_STATES.get(state, f"in state {state}")
        super().__init__(f"task {task_id} ended {name} without a result; `outrider task show {task_id}` says why")
        self.task_id = task_id
        self.state = state


class AttemptFailed(Exception):
    """An attempt's end as its `Failed` message will say it."""

    def __init__(
        self,
        reason: int,
        message: str,
        *,
        recoverable: bool = False,
        exception_type: str = "",
        traceback: str = "",
        exit_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.recoverable = recoverable
        self.exception_type = exception_type
        self.traceback = traceback
        self.exit_code = exit_code
