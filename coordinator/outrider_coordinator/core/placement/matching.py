"""Who runs what: ready tasks in their order, each to the agent that its strategy chooses, as long as there is room.

What cannot be placed never blocks what can: a task that finds no agent puts its whole need to sleep, one that must wait
for a limit or an outside system its whole class. Asked in this order: an agent, then limits, then systems. While a slot
is free that could take it, nothing that has not started waits in a line elsewhere.
"""

from __future__ import annotations

from outrider_coordinator.core.attempts import deadlines
from outrider_coordinator.core.effects import Effects, PushAssign, PushRevoke
from outrider_coordinator.core.limits import caps, holdings, lines
from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.placement import preemption, slots, strategies
from outrider_coordinator.core.placement.eligibility import fits, mismatch
from outrider_coordinator.core.placement.fleet import Hard, Ranking
from outrider_coordinator.core.placement.queue import Need
from outrider_coordinator.core.spec import NO_DEMANDS
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import AttemptState, EventType, TaskState
from outrider_coordinator.core.trust import breaker, systems
from outrider_coordinator.core.waits.blockage import attempt_ended
from outrider_coordinator.core.waits.budgets import carried

_new = tuple.__new__
_OFFERED, _ASSIGNED, _TASK_ASSIGNED = AttemptState.OFFERED, TaskState.ASSIGNED, EventType.TASK_ASSIGNED

#: So many agents read for a new reach, or write scopes compared with a task's, cost as much as one offer.
AGENTS_READ, SCOPES_READ = 16, 10


def place(state: State, effects: Effects, units: int) -> None:
    """Offer ready tasks while somebody can take them. A class that nobody can take holds up no other.

    An offer is a unit, as is a need that finds nobody; what is left after so many has the next step.
    """
    state.placement_is_due = False
    lines.begin_pass(state)
    _wake(state)
    if state.queue.active:
        _place_queue(state, effects, units)
    lines.end_pass(state, effects)
    if state.queue.urgent:
        preemption.make_room(state, effects)
    if state.fleet.lines:
        _rebalance(state, effects)


def _wake(state: State) -> None:
    """Agents that changed find their place in every index, and wake the needs that found nobody before."""
    fleet, queue = state.fleet, state.queue
    dirty, fleet.dirty = fleet.dirty, {}
    for agent in dirty.values():
        for reach in agent.reaches:
            has_room = False
            for index in reach.indexes.values():
                has_room |= index.note(agent)
            if has_room and reach.asleep:
                asleep, reach.asleep = reach.asleep, {}
                for need in asleep:
                    queue.wake(need)


def _place_queue(state: State, effects: Effects, left: int) -> None:
    queue = state.queue
    queue.begin(state.now_us)
    reaches = state.fleet.reaches_made
    while queue.active:
        if left <= 0:
            state.placement_is_due = True
            return
        left -= 1
        strand = queue.next()
        if strand is None:
            return
        assert strand.known is not None
        task = strand.known[2]
        need: Need = strand.group.need
        choice = strategies.choose(state, need, task)
        if reaches != state.fleet.reaches_made:
            left -= len(state.agents) // AGENTS_READ
            reaches = state.fleet.reaches_made
        if choice is None:
            _put_to_sleep(state, need)
        elif need.may_be_held and _is_held_back(state, effects, task):
            left -= _scopes_read(state, task)
            queue.hold(strand.group, task.spec.priority)
        else:
            if need.may_be_held:
                left -= _scopes_read(state, task)
            offer(state, effects, task, choice[0], prefetched=choice[1])
            queue.started(strand, task.spec.priority)


def _put_to_sleep(state: State, need: Need) -> None:
    state.queue.sleep(need)
    assert need.reach is not None
    need.reach.asleep[need] = None


def _is_held_back(state: State, effects: Effects, task: Task) -> bool:
    """Whether something that is not an agent keeps a task waiting, and with it its class.

    Limits come last: what something else holds up has none kept for it.
    """
    if state.systems and systems.held_back(state, task.spec.demands) is not None:
        return True
    if task.caps and caps.held_back(state, task) is not None:
        return True
    return lines.held_back(state, effects, task) is not None


def _scopes_read(state: State, task: Task) -> int:
    """The units that it took to compare a task's write scopes with those that are held or kept for others."""
    if not task.spec.demands.scopes:
        return 0
    book = state.limits
    return (len(book.scopes.get(task.namespace, ())) + len(book.reserved_scopes)) // SCOPES_READ


def offer(state: State, effects: Effects, task: Task, agent: Agent, *, prefetched: bool) -> None:
    """Make a new attempt: its row is written in this step, the assignment leaves after the commit."""
    number = task.attempts_made = task.attempts_made + 1
    fence, now_us = state.next_fence(), state.now_us
    attempt = Attempt(task.id, number, agent.id, fence, _OFFERED, now_us, prefetched)
    attempt.resources = task.spec.demands.resources
    if preemption.is_victim(state, task.spec):
        attempt.victim_priority = task.spec.priority
    task.attempt = attempt
    if task.waits:
        # Those of a stray were left open, for it might have come back first.
        attempt_ended(state, effects, task)
    breaker.offered(state, effects, agent, task, attempt)
    slots.take(state, agent, attempt)
    state.fleet.turn = agent.turn = state.fleet.turn + 1
    if task.caps:
        caps.take(state, task, attempt)
    if task.spec.demands is not NO_DEMANDS:
        holdings.take(state, effects, task, attempt)
        if state.systems:
            systems.offered(state, effects, task, attempt)
    state.move(task, _ASSIGNED, effects)
    effects.attempts[attempt.key] = attempt
    state.event(effects, _TASK_ASSIGNED, task, attempt)
    state.offered(attempt)
    state.retries.dispatched += 1
    spec = task.spec
    effects.sends.append(
        _new(
            PushAssign,
            (
                agent.epoch,
                agent.id,
                task.id,
                number,
                fence,
                spec.body,
                _inputs(task) if task.dependency_ids else (),
                prefetched,
                task.namespace,
                task.run_id,
                task.trace,
                spec.title,
                task.created_us,
                task.ready_us,
                now_us,
                deadlines.left_us(state, task) if spec.deadline_us else 0,
                carried(task) if task.waits else None,
            ),
        )
    )


def _inputs(task: Task) -> tuple[tuple[str, str], ...]:
    """(key, task id) of everything whose result the task gets."""
    return tuple(zip(task.dependency_keys or task.dependency_ids, task.dependency_ids, strict=True))


def _rebalance(state: State, effects: Effects) -> None:
    """While a slot that could take it is free, nothing that has not started waits in a line elsewhere."""
    fleet = state.fleet
    everybody = fleet.reach(Hard(), state.agents, fits)
    index = everybody.index("slots", lambda: Ranking(strategies.slot_key))
    assert isinstance(index, Ranking)
    if index.first(state.agents) is None:
        return
    fleet.lines = {agent_id: agent for agent_id, agent in fleet.lines.items() if agent.ahead}
    waiting = sum(len(agent.ahead) for agent in fleet.lines.values())
    free = [agent for agent in index.best(state.agents, waiting) if not agent.ahead]
    room = {agent.id: agent.free_slots for agent in free}
    for agent in sorted(fleet.lines.values(), key=lambda agent: (-len(agent.ahead), agent.id)):
        if not free:
            return
        if agent.is_online:
            _shorten(state, effects, agent, free, room)


def _shorten(state: State, effects: Effects, agent: Agent, free: list[Agent], room: dict[str, int]) -> None:
    """Ask for the last attempts of a line back, one for each free slot that could take it."""
    for attempt in reversed(list(agent.ahead.values())[-sum(room.values()) :]):
        if attempt.revoke_sent:
            continue
        spec = state.tasks[attempt.task_id].spec
        taker = next((other for other in free if mismatch(other, spec.demands) is None), None)
        if taker is None:
            continue
        attempt.revoke_sent = True
        effects.sends.append(PushRevoke(agent.epoch, agent.id, *attempt.key, attempt.fence))
        room[taker.id] -= 1
        if room[taker.id] <= 0:
            free.remove(taker)
            if not free:
                return
