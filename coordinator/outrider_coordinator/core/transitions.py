"""The one table of legal steps of tasks, attempts and agents, each with its cause.

`State.move` takes the steps of tasks, the functions here take the others; nothing else assigns these states. A step
that is not in its table is a fault of ours and raises AssertionError. States may be skipped forward: an outcome can be
the first thing that is heard of an attempt. The tables must not know what else changes with a step. Invariants: nothing
leaves a terminal state (I1); every state can be reached from the first. docs/state-machines.md is drawn from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import TypeVar

from outrider_coordinator.core.model import Agent, Attempt, Breaker
from outrider_coordinator.core.states import TERMINAL, Admin, AttemptState, BreakerState, Connectivity, TaskState

StateT = TypeVar("StateT", bound=IntEnum)
#: What may follow each state, and the cause of the step in a few words.
Steps = Mapping[StateT, Mapping[StateT, str]]

_BEFORE_A_START = {
    TaskState.RUNNING: "an earlier try came back and runs on",
    TaskState.BLOCKED: "an earlier try came back and waits on",
    TaskState.SUCCEEDED: "an earlier try succeeded after all",
    TaskState.FAILED: "machines turned out to have died under its earlier tries",
    TaskState.CANCELLED: "cancelled, or its run failed",
    TaskState.EXPIRED: "its queue timeout or deadline ran out",
}
_WITH_AN_AGENT = {
    TaskState.PENDING: "its attempt failed; the next try comes after a backoff",
    TaskState.QUEUED: "its attempt was given back, lost or moved, or failed and is tried again at once",
    TaskState.CANCELLING: "somebody cancelled it",
    TaskState.SUCCEEDED: "an attempt succeeded",
    TaskState.FAILED: "its attempt failed for good",
    TaskState.CANCELLED: "its run failed and its attempt was stopped",
    TaskState.EXPIRED: "its deadline ran out",
}

TASK_STEPS: Steps[TaskState] = {
    TaskState.PENDING: {
        TaskState.QUEUED: "its dependencies and its time have come",
        TaskState.SKIPPED: "a dependency ended otherwise than it asks",
        **_BEFORE_A_START,
    },
    TaskState.QUEUED: {TaskState.ASSIGNED: "offered to an agent", **_BEFORE_A_START},
    TaskState.ASSIGNED: {
        TaskState.RUNNING: "its attempt started",
        TaskState.BLOCKED: "its attempt waits for something",
        **_WITH_AN_AGENT,
    },
    TaskState.RUNNING: {TaskState.BLOCKED: "its attempt waits for something", **_WITH_AN_AGENT},
    TaskState.BLOCKED: {TaskState.RUNNING: "its attempt goes on", **_WITH_AN_AGENT},
    TaskState.CANCELLING: {TaskState.CANCELLED: "its attempt has ended, however it ended"},
    **{state: {} for state in sorted(TERMINAL)},
}

_NOT_STARTED = {
    AttemptState.STARTED: "user code began",
    AttemptState.BLOCKED: "it waits for something",
    AttemptState.CLOSED: "its agent reported how it ended",
    AttemptState.REJECTED: "its agent refused it",
    AttemptState.REVOKED: "taken back before it started",
    AttemptState.LOST: "its agent is out of contact past the grace, or came back without it",
    AttemptState.FENCED: "its task was decided without it",
}
_UNDER_WAY = {state: _NOT_STARTED[state] for state in (AttemptState.CLOSED, AttemptState.LOST, AttemptState.FENCED)}

ATTEMPT_STEPS: Steps[AttemptState] = {
    AttemptState.OFFERED: {AttemptState.ACCEPTED: "its agent has it", **_NOT_STARTED},
    AttemptState.ACCEPTED: _NOT_STARTED,
    AttemptState.STARTED: {AttemptState.BLOCKED: "it waits for something", **_UNDER_WAY},
    AttemptState.BLOCKED: {AttemptState.STARTED: "what it waited for came", **_UNDER_WAY},
    AttemptState.LOST: {
        AttemptState.STARTED: "its agent came back before another try began",
        AttemptState.BLOCKED: "its agent came back before another try began, and it waits",
        AttemptState.CLOSED: "its agent reported late how it ended",
        AttemptState.FENCED: "another try began, or its task was decided without it",
    },
    AttemptState.CLOSED: {},
    AttemptState.REJECTED: {},
    AttemptState.REVOKED: {},
    AttemptState.FENCED: {},
}

CONNECTIVITY_STEPS: Steps[Connectivity] = {
    Connectivity.LEFT: {
        Connectivity.ONLINE: "it said hello",
        Connectivity.LOST: "an operator removed it",
    },
    Connectivity.ONLINE: {
        Connectivity.SUSPECT: "its stream ended without a goodbye or with work left, or its heartbeats stopped",
        Connectivity.LOST: "an operator removed it by force",
        Connectivity.LEFT: "it said goodbye and held nothing",
    },
    Connectivity.SUSPECT: {
        Connectivity.ONLINE: "it said hello",
        Connectivity.LOST: "it was silent for longer than any grace, or an operator removed it",
    },
    Connectivity.LOST: {Connectivity.ONLINE: "it said hello"},
}

ADMIN_STEPS: Steps[Admin] = {
    Admin.ACTIVE: {Admin.PAUSED: "an operator paused it", Admin.DRAINING: "an operator drains it"},
    Admin.PAUSED: {Admin.ACTIVE: "an operator resumed it", Admin.DRAINING: "an operator drains it"},
    Admin.DRAINING: {
        Admin.ACTIVE: "an operator resumed it, or it came back after it had left",
        Admin.PAUSED: "an operator paused it",
    },
}

BREAKER_STEPS: Steps[BreakerState] = {
    BreakerState.CLOSED: {BreakerState.OPEN: "too many failures that speak against it"},
    BreakerState.OPEN: {
        BreakerState.HALF_OPEN: "the reset timeout is over, or the task that opened it again was to blame",
        BreakerState.CLOSED: "an operator trusts it again, or the task that opened it was to blame",
    },
    BreakerState.HALF_OPEN: {
        BreakerState.OPEN: "a probe failed",
        BreakerState.CLOSED: "enough probes succeeded, or an operator trusts it again",
    },
}


def move_attempt(attempt: Attempt, to: AttemptState) -> None:
    """Take one step. Raises AssertionError on a step that the table does not have: a fault of ours."""
    assert to in ATTEMPT_STEPS[attempt.state], (
        f"attempt {attempt.task_id}/{attempt.number}: {attempt.state.name} -> {to.name} is no step"
    )
    attempt.state = to


def move_connectivity(agent: Agent, to: Connectivity) -> None:
    """Take one step, or none when the agent is there already. Raises AssertionError on one that is no step."""
    if agent.connectivity is not to:
        _check(CONNECTIVITY_STEPS, agent.connectivity, to)
        agent.connectivity = to
        agent.settle()


def move_admin(agent: Agent, to: Admin) -> None:
    """Take one step, or none when the agent is there already. Raises AssertionError on one that is no step."""
    if agent.admin is not to:
        _check(ADMIN_STEPS, agent.admin, to)
        agent.admin = to
        agent.settle()


def move_breaker(breaker: Breaker, to: BreakerState) -> None:
    """Take one step, or none when the breaker is there already. Raises AssertionError on one that is no step."""
    if breaker.state is not to:
        _check(BREAKER_STEPS, breaker.state, to)
        breaker.state = to


def _check(steps: Steps[StateT], was: StateT, to: StateT) -> None:
    assert to in steps[was], f"{type(was).__name__}: {was.name} -> {to.name} is no step"
