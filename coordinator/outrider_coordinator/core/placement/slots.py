"""Which attempts hold a slot of their agent: the one place that counts them (I11).

An attempt holds a slot, or stands ahead of one (prefetched), or is parked (BLOCKED), or is a stray that the
coordinator no longer counts on. A parked one that was answered takes the next free slot before anything else does: its
agent resumes it then, so nothing new must count on that slot. Where an agent parks as many as it may, further ones wait
in their slots; they change places with one that was answered, and are parked as soon as there is room. The agent does
the same by the same rule.
"""

from __future__ import annotations

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.limits import caps, holdings
from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.placement import resources
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import AttemptState
from outrider_coordinator.core.trust import breaker

_OFFERED = AttemptState.OFFERED
_UNSTARTED = frozenset((AttemptState.OFFERED, AttemptState.ACCEPTED))


def take(state: State, agent: Agent, attempt: Attempt) -> None:
    """Count a new or resumed attempt."""
    agent.attempts[attempt.key] = attempt
    if attempt.resources:
        resources.take(agent, attempt)
    if attempt.victim_priority >= 0:
        state.fleet.victims[attempt.victim_priority][attempt.key] = attempt
    if attempt.prefetched and attempt.state is _OFFERED:
        attempt.holds_slot = False
        agent.ahead[attempt.key] = attempt
        state.fleet.lines[agent.id] = agent
    else:
        attempt.holds_slot = True
        agent.slots_used += 1


def release(state: State, effects: Effects, agent: Agent | None, attempt: Attempt) -> None:
    """An attempt stopped being live, in whatever way: give back everything it held. Again, it holds nothing.

    ``agent`` is None when it was removed from the fleet.
    """
    if attempt.is_probe:
        breaker.give_back(state, effects, attempt)
    if attempt.holding is not None:
        holdings.release(state, attempt)
    if attempt.caps:
        caps.leave(state, attempt)
    if agent is not None:
        _leave(state, effects, agent, attempt)


def _leave(state: State, effects: Effects, agent: Agent, attempt: Attempt) -> None:
    if agent.attempts.pop(attempt.key, None) is None:
        return
    if attempt.resources:
        resources.give_back(agent, attempt)
    if attempt.victim_priority >= 0:
        del state.fleet.victims[attempt.victim_priority][attempt.key]
    if attempt.holds_slot:
        give_back(state, effects, agent, attempt)
    elif attempt.prefetched and agent.ahead.pop(attempt.key, None) is not None:
        state.fleet.changed(agent)
    else:  # it is parked
        agent.parked -= 1
        agent.resuming.pop(attempt.key, None)
        state.fleet.changed(agent)
        _park_standing(state, effects, agent)


def give_back(state: State, effects: Effects, agent: Agent, attempt: Attempt) -> None:
    """Free the slot of an attempt; the first that was answered has it, otherwise the oldest prefetched one."""
    attempt.holds_slot = False
    agent.slots_used -= 1
    state.fleet.changed(agent)
    if agent.parked and agent.resuming and agent.slots_used < agent.slots:
        _occupy(state, effects, agent, agent.resuming[next(iter(agent.resuming))])
    elif state.fleet.lines:
        promote(agent)


def promote(agent: Agent) -> None:
    """Let the oldest prefetched attempts have the slots that are free."""
    while agent.ahead and agent.slots_used < agent.slots:
        promoted = agent.ahead.pop(next(iter(agent.ahead)))
        promoted.holds_slot = True
        agent.slots_used += 1


def started(state: State, agent: Agent, attempt: Attempt) -> None:
    """A prefetched attempt runs: it holds a slot now, even if the order differs from ours."""
    if attempt.prefetched and agent.ahead.pop(attempt.key, None) is not None:
        attempt.holds_slot = True
        agent.slots_used += 1
        state.fleet.changed(agent)
        _give_way(state, agent)


def park(state: State, effects: Effects, agent: Agent, attempt: Attempt) -> None:
    """A BLOCKED attempt gives its slot back, unless the agent parks as many as it may."""
    if attempt.caps:
        caps.leave(state, attempt)
    started(state, agent, attempt)
    if attempt.holds_slot and agent.parked < agent.parked_max:
        agent.parked += 1
        give_back(state, effects, agent, attempt)


def resume(state: State, effects: Effects, agent: Agent, attempt: Attempt) -> None:
    """A parked attempt was answered: it goes on in a free slot, or in the next one."""
    if attempt.holds_slot or attempt.state is not AttemptState.BLOCKED or attempt.key not in agent.attempts:
        return
    agent.resuming[attempt.key] = attempt
    may_change_places = agent.parked <= agent.parked_max and _standing(state, agent) is not None
    if agent.slots_used < agent.slots or may_change_places:
        _occupy(state, effects, agent, attempt)


def _standing(state: State, agent: Agent) -> Attempt | None:
    """The first that waits in its slot and has not been answered, by task id and number; None when nobody does."""
    found = [
        attempt
        for attempt in agent.attempts.values()
        if attempt.state is AttemptState.BLOCKED and attempt.holds_slot and _waits(state.tasks[attempt.task_id])
    ]
    return min(found, key=lambda attempt: attempt.key, default=None)


def _waits(task: Task) -> bool:
    """Whether it cannot use a slot now: an answer that it has not taken yet needs one."""
    stopping = [wait for wait in task.waits if wait.is_open and not wait.keeps_running]
    return bool(stopping) and not any(wait.is_resolved for wait in stopping)


def _park_standing(state: State, effects: Effects, agent: Agent) -> None:
    """There is room to park again: who waits in a slot gives it back."""
    while agent.parked < agent.parked_max and (attempt := _standing(state, agent)) is not None:
        agent.parked += 1
        effects.attempts[attempt.key] = attempt
        give_back(state, effects, agent, attempt)


def _occupy(state: State, effects: Effects, agent: Agent, attempt: Attempt) -> None:
    agent.resuming.pop(attempt.key, None)
    agent.parked -= 1
    agent.slots_used += 1
    attempt.holds_slot = True
    effects.attempts[attempt.key] = attempt
    state.fleet.changed(agent)
    _park_standing(state, effects, agent)


def unpark(state: State, effects: Effects, agent: Agent, attempt: Attempt) -> None:
    """An attempt that was blocked runs again and holds a slot."""
    task = state.tasks[attempt.task_id]
    if task.caps:
        caps.take(state, task, attempt)
    if not attempt.holds_slot:
        agent.resuming.pop(attempt.key, None)
        agent.parked -= 1
        agent.slots_used += 1
        attempt.holds_slot = True
        _park_standing(state, effects, agent)
        _give_way(state, agent)


def _give_way(state: State, agent: Agent) -> None:
    """Somebody took a slot that an unstarted prefetched attempt was counted on: that one stands first in line again."""
    if agent.slots_used <= agent.slots:
        return
    for attempt in reversed(agent.attempts.values()):
        if attempt.holds_slot and attempt.prefetched and attempt.state in _UNSTARTED:
            attempt.holds_slot = False
            agent.slots_used -= 1
            agent.ahead = {attempt.key: attempt, **agent.ahead}
            state.fleet.lines[agent.id] = agent
            return
