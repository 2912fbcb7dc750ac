"""The one table of legal steps of tasks and attempts; `State.move` takes those of tasks, `move_attempt` the others.

States may be skipped forward (an outcome can be the first thing that is heard of an attempt); nothing leaves a
terminal state. Invariant I1 rests here.
"""

from __future__ import annotations

from outrider_coordinator.core.model import Attempt
from outrider_coordinator.core.states import TERMINAL, AttemptState, TaskState

_LIVE_TASK = frozenset(
    (
        TaskState.PENDING,
        TaskState.QUEUED,
        TaskState.ASSIGNED,
        TaskState.RUNNING,
        TaskState.BLOCKED,
    )
)

TASK_STEPS: dict[TaskState, frozenset[TaskState]] = {
    TaskState.PENDING: frozenset((TaskState.QUEUED, TaskState.RUNNING, TaskState.BLOCKED)) | TERMINAL,
    TaskState.QUEUED: frozenset((TaskState.PENDING, TaskState.ASSIGNED, TaskState.RUNNING, TaskState.BLOCKED))
    | TERMINAL,
    TaskState.ASSIGNED: _LIVE_TASK | {TaskState.CANCELLING} | TERMINAL,
    TaskState.RUNNING: _LIVE_TASK | {TaskState.CANCELLING} | TERMINAL,
    TaskState.BLOCKED: _LIVE_TASK | {TaskState.CANCELLING} | TERMINAL,
    TaskState.CANCELLING: frozenset((TaskState.CANCELLED,)),
    **{state: frozenset() for state in TERMINAL},
}

_ENDS = frozenset(
    (AttemptState.CLOSED, AttemptState.REJECTED, AttemptState.REVOKED, AttemptState.LOST, AttemptState.FENCED)
)

ATTEMPT_STEPS: dict[AttemptState, frozenset[AttemptState]] = {
    AttemptState.OFFERED: frozenset((AttemptState.ACCEPTED, AttemptState.STARTED, AttemptState.BLOCKED)) | _ENDS,
    AttemptState.ACCEPTED: frozenset((AttemptState.STARTED, AttemptState.BLOCKED)) | _ENDS,
    AttemptState.STARTED: frozenset(
        (AttemptState.BLOCKED, AttemptState.CLOSED, AttemptState.LOST, AttemptState.FENCED)
    ),
    AttemptState.BLOCKED: frozenset(
        (AttemptState.STARTED, AttemptState.CLOSED, AttemptState.LOST, AttemptState.FENCED)
    ),
    AttemptState.LOST: frozenset(
        (AttemptState.STARTED, AttemptState.BLOCKED, AttemptState.CLOSED, AttemptState.FENCED)
    ),
    AttemptState.CLOSED: frozenset(),
    AttemptState.REJECTED: frozenset(),
    AttemptState.REVOKED: frozenset(),
    AttemptState.FENCED: frozenset(),
}


def move_attempt(attempt: Attempt, to: AttemptState) -> None:
    """Take one step. Raises AssertionError on a step that the table does not have: a fault of ours."""
    assert to in ATTEMPT_STEPS[attempt.state], (
        f"attempt {attempt.task_id}/{attempt.number}: {attempt.state.name} -> {to.name} is no step"
    )
    attempt.state = to
