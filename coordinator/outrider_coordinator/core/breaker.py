"""Trust in an agent: a circuit breaker over failures that are the agent's, not the task's.

CLOSED opens after ``breaker_failures`` of them in a row; OPEN waits ``breaker_reset_us``, doubled with each further
opening up to ``breaker_reset_max_us``; HALF_OPEN lets one probe at a time through and closes after
``breaker_probe_successes`` of them.
"""

from __future__ import annotations

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.model import Agent, Attempt
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import BreakerState, EventType, Reason

#: Reasons that speak against the agent.
BLAMED = frozenset((Reason.AGENT_LOST, Reason.WORKER_DIED, Reason.AGENT_REJECTED))


def may_offer(agent: Agent) -> bool:
    """Whether the breaker lets one more attempt through."""
    breaker = agent.breaker
    return breaker.state is BreakerState.CLOSED or (breaker.state is BreakerState.HALF_OPEN and breaker.probe is None)


def offered(agent: Agent, attempt: Attempt) -> None:
    """An attempt goes out: in HALF_OPEN it is the probe."""
    if agent.breaker.state is BreakerState.HALF_OPEN:
        agent.breaker.probe = attempt.key
        attempt.is_probe = True


def ended(state: State, effects: Effects, agent: Agent, attempt: Attempt, *, succeeded: bool, reason: Reason) -> None:
    """An attempt ended: judge the agent by it."""
    breaker = agent.breaker
    if succeeded and breaker.state is BreakerState.CLOSED:
        breaker.failures = 0
        return
    if breaker.probe == attempt.key:
        breaker.probe = None
        state.fleet.changed(agent)
        state.placement_is_due = True
    if reason in BLAMED:
        _failed(state, effects, agent, reason)
    elif succeeded or reason in (Reason.TASK_ERROR, Reason.INVALID_WORK):
        _worked(state, effects, agent)


def reset(state: State, effects: Effects, agent: Agent) -> None:
    """Trust the agent again, whatever was before: an operator said so."""
    agent.breaker.opened_count = 0
    _move(state, effects, agent, BreakerState.CLOSED)


def timer_fired(state: State, effects: Effects, agent: Agent) -> None:
    """The reset timeout is over."""
    if agent.breaker.state is BreakerState.OPEN and agent.breaker.reset_us <= state.now_us:
        _move(state, effects, agent, BreakerState.HALF_OPEN)


def _failed(state: State, effects: Effects, agent: Agent, reason: Reason) -> None:
    breaker = agent.breaker
    breaker.failures += 1
    over = breaker.failures >= state.settings.breaker_failures
    if breaker.state is BreakerState.HALF_OPEN or (breaker.state is BreakerState.CLOSED and over):
        wait_us = state.settings.breaker_reset_us * 2 ** min(breaker.opened_count, 20)
        breaker.reset_us = state.now_us + min(wait_us, state.settings.breaker_reset_max_us)
        breaker.opened_count += 1
        _move(state, effects, agent, BreakerState.OPEN, reason)
        state.set_timer(breaker.reset_us, TimerKind.BREAKER, agent.id)


def _worked(state: State, effects: Effects, agent: Agent) -> None:
    breaker = agent.breaker
    breaker.failures = 0
    if breaker.state is BreakerState.HALF_OPEN:
        breaker.successes += 1
        if breaker.successes >= state.settings.breaker_probe_successes:
            breaker.opened_count = 0
            _move(state, effects, agent, BreakerState.CLOSED)


def _move(state: State, effects: Effects, agent: Agent, to: BreakerState, reason: Reason = Reason.NONE) -> None:
    breaker = agent.breaker
    if breaker.state is to:
        return
    breaker.state, breaker.successes, breaker.probe = to, 0, None
    if to is BreakerState.CLOSED:
        breaker.failures = 0
    effects.agents[agent.id] = agent
    state.agent_event(effects, EventType.AGENT_BREAKER, agent.id, reason=reason, text=to.name)
    state.fleet.changed(agent)
    state.placement_is_due = True
