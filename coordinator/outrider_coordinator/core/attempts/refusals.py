"""Refusals by policy: an agent will never take a task, whoever asks it.

It is neither the task's failure nor held against the agent. The task goes to an agent that has not refused it, and
fails when none is connected, with what each said. Must not know what policies say. Invariants: a task is offered at
most once to an agent that refuses it; `Task.refusals` are its attempts REJECTED with REFUSED_BY_POLICY, by agent.
"""

from __future__ import annotations

from outrider_coordinator.core.attempts.retry import attempt_returned
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.failure import encode_error, message_of
from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.placement.eligibility import fits
from outrider_coordinator.core.placement.fleet import demands_of, hard_of
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import AttemptState, Connectivity, EventType, Reason

#: Refusals after which a task fails, whoever is left; how many are named then, and characters kept of each.
REFUSALS_MAX, NAMED_MAX, MESSAGE_CHARACTERS_MAX = 32, 8, 500

_REFUSED = Reason.REFUSED_BY_POLICY


def refused(state: State, effects: Effects, agent: Agent, task: Task, attempt: Attempt, message: str) -> None:
    """An agent's own policy refuses a task that was offered to it: on to another one, or the task is over."""
    message = message[:MESSAGE_CHARACTERS_MAX]
    attempt.reason, attempt.error = _REFUSED, encode_error(_REFUSED, message)
    _note(task, attempt)
    failure = b"" if _is_anybody_left(state, task) else encode_error(_REFUSED, _story(task))
    if not (failure or task.cancel_requested or attempt.intent):
        state.event(effects, EventType.TASK_RETRYING, task, attempt=attempt, reason=_REFUSED, text=message)
    attempt_returned(state, effects, agent, task, attempt, AttemptState.REJECTED, message, failure=failure)


def remember(task: Task, attempt: Attempt) -> None:
    """After a start: an attempt that its agent refused."""
    if attempt.reason is _REFUSED:
        _note(task, attempt)


def _note(task: Task, attempt: Attempt) -> None:
    task.refusals = tuple(sorted((*task.refusals, (attempt.agent_id, attempt.error))))


def _is_anybody_left(state: State, task: Task) -> bool:
    """Whether an agent that has not refused the task is connected, or was a moment ago, and has what it asks for."""
    if len(task.refusals) >= REFUSALS_MAX:
        return False
    reach = state.fleet.reach(hard_of(demands_of(task)), state.agents, fits)
    return any(
        agent.connectivity in (Connectivity.ONLINE, Connectivity.SUSPECT) and not agent.facts.is_leaving
        for agent in reach.members.values()
    )


def _story(task: Task) -> str:
    said = [f"{agent_id}: {message_of(error)}" for agent_id, error in task.refusals]
    more = f"; and {len(said) - NAMED_MAX} more" if len(said) > NAMED_MAX else ""
    return f"no agent takes it: {'; '.join(said[:NAMED_MAX])}{more}"
