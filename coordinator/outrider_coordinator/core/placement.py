"""Who runs what: the first rule that refuses an agent, and the least-loaded agent that no rule refuses."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from outrider_coordinator.core import breaker, deadlines, limits, resources, slots
from outrider_coordinator.core.effects import Effects, PushAssign, PushRevoke
from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.queue import ClassKey
from outrider_coordinator.core.rules import Rule
from outrider_coordinator.core.spec import NO_DEMANDS, Constraint, Demands, Operator
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import Admin, AttemptState, Connectivity, EventType, TaskState

_assign = PushAssign._make
_ABSENT = {
    Connectivity.SUSPECT: "it has not been heard for a while",
    Connectivity.LOST: "it is lost: out of contact for long",
    Connectivity.LEFT: "it has left",
}


def closed_to_work(agent: Agent) -> Rule | None:
    """The first rule by which an agent gets no new work at all (I10), None when it may."""
    if not agent.is_online:
        return Rule("NOT_ONLINE", _ABSENT[agent.connectivity])
    if agent.admin is Admin.PAUSED:
        return Rule("PAUSED", f"an operator paused it; `outrider agent resume {agent.id}` ends that")
    if agent.admin is Admin.DRAINING or agent.facts.is_leaving:
        return Rule("DRAINING", "it finishes its work and leaves")
    if not breaker.may_offer(agent):
        return Rule("BREAKER_OPEN", f"its circuit breaker is {agent.breaker.state.name} after repeated failures")
    return None


def mismatch(agent: Agent, demands: Demands) -> Rule | None:
    """The first demand that an agent as it is could never meet, however idle: None when it could meet all."""
    if demands is NO_DEMANDS:
        return None
    rule = _label_rule(agent, demands.constraints)
    if rule is None and demands.runner and demands.runner not in agent.runners:
        rule = Rule("RUNNER", f"it offers no runner {demands.runner!r}")
    if rule is None and demands.task_type and demands.task_type not in agent.task_types:
        rule = Rule("TASK_TYPE", f"it offers no task type {demands.task_type!r}")
    return rule or resources.lacking(agent, demands.resources)


def _label_rule(agent: Agent, constraints: tuple[Constraint, ...]) -> Rule | None:
    for constraint in constraints:
        value = agent.labels.get(constraint.key)
        if not _holds(constraint, value):
            there = f"no label {constraint.key}" if value is None else f"{constraint.key}={value}"
            return Rule("LABELS", f"{describe(constraint)} does not hold; it has {there}")
    return None


def refusal(agent: Agent, task: Task) -> Rule | None:
    """The first rule by which this agent cannot take this task now, None when it can."""
    demands = task.spec.demands
    rule = mismatch(agent, demands) or closed_to_work(agent) or resources.in_use(agent, demands.resources)
    if rule is None and agent.free_slots == 0:
        rule = Rule("NO_FREE_SLOT", f"all {agent.slots} slots are in use")
    return rule


def describe(constraint: Constraint) -> str:
    """A label constraint as people write it."""
    values = ", ".join(constraint.values)
    return {
        Operator.IN: f"{constraint.key} in ({values})" if len(constraint.values) > 1 else f"{constraint.key}={values}",
        Operator.NOT_IN: f"{constraint.key} not in ({values})",
        Operator.EXISTS: f"{constraint.key} present",
        Operator.NOT_EXISTS: f"{constraint.key} absent",
    }[constraint.operator]


def place(state: State, effects: Effects) -> None:
    """Offer ready tasks while somebody can take them. A class that nobody can take holds up no other."""
    state.placement_is_due = False
    if state.queue:
        _place_queue(state, effects)
    _rebalance(state, effects)


@dataclass(slots=True)
class Candidates:
    """Open agents that match one class, as heaps by load; where loads have changed, by what they were before.

    ``line_max`` is how many attempts per slot may wait in line on an agent before one of the class joins them; 0 for
    none.
    """

    line_max: float
    slots: list[tuple[float, str]] = field(default_factory=list)
    lines: list[tuple[float, str]] = field(default_factory=list)

    def best(self, agents: dict[str, Agent]) -> Agent | None:
        """The agent to offer to next: least of its slots in use, or the shortest line of prefetched attempts."""
        agent = _least(self.slots, agents, _slot_load)
        if agent is not None or not self.line_max:
            return agent
        agent = _least(self.lines, agents, _line_load)
        return agent if agent is not None and self.lines[0][0] < self.line_max else None


def _least(
    heap: list[tuple[float, str]], agents: dict[str, Agent], load: Callable[[Agent], float | None]
) -> Agent | None:
    """The first agent once loads that have changed are put right; those that can take nothing more are dropped."""
    while heap:
        known, agent_id = heap[0]
        agent = agents[agent_id]
        now = load(agent)
        if now == known:
            return agent
        if now is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (now, agent_id))
    return None


def _slot_load(agent: Agent) -> float | None:
    """Share of the slots in use; None when no attempt may take one."""
    return agent.slots_used / agent.slots if agent.slots_used < agent.slots and breaker.may_offer(agent) else None


def _line_load(agent: Agent) -> float | None:
    """Attempts in line per slot; None when the agent's credit is used up."""
    length = len(agent.ahead)
    return length / agent.slots if length < agent.prefetch_credit and breaker.may_offer(agent) else None


def _candidates(state: State, agents: list[Agent], key: ClassKey) -> Candidates:
    candidates = Candidates(_line_max(state, key))
    for agent in agents:
        if mismatch(agent, key.demands) is None and resources.in_use(agent, key.demands.resources) is None:
            for heap, load in ((candidates.slots, _slot_load(agent)), (candidates.lines, _line_load(agent))):
                if load is not None:
                    heapq.heappush(heap, (load, agent.id))
    return candidates


def _place_queue(state: State, effects: Effects) -> None:
    open_agents = [agent for agent in state.agents.values() if closed_to_work(agent) is None]
    if not open_agents:
        return
    queue, agents = state.queue, state.agents
    limits.begin_pass(state)
    heads = queue.heads()
    classes: dict[ClassKey, Candidates] = {}
    while heads:
        (_, _, task_id), key = heads[0]
        candidates = classes.get(key)
        if candidates is None:
            candidates = classes[key] = _candidates(state, open_agents, key)
        agent = candidates.best(agents)
        if agent is not None and key.demands.resources and resources.in_use(agent, key.demands.resources):
            classes[key] = candidates = _candidates(state, open_agents, key)
            agent = candidates.best(agents)
        if agent is None or (key.is_limited and limits.held_back(state, queue.tasks[task_id]) is not None):
            heapq.heappop(heads)
            continue
        offer(state, effects, queue.tasks[task_id], agent, prefetched=agent.slots_used >= agent.slots)
        head = queue.head(key)
        if head is None:
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, (head, key))


def offer(state: State, effects: Effects, task: Task, agent: Agent, *, prefetched: bool) -> None:
    """Make a new attempt: its row is written in this step, the assignment leaves after the commit."""
    number = task.attempts_made = task.attempts_made + 1
    fence, now_us = state.next_fence(), state.now_us
    attempt = Attempt(task.id, number, agent.id, fence, AttemptState.OFFERED, now_us, prefetched)
    attempt.resources = task.spec.demands.resources
    task.attempt = attempt
    breaker.offered(agent, attempt)
    slots.take(agent, attempt)
    if task.spec.demands is not NO_DEMANDS:
        limits.take(state, effects, task, attempt)
    state.move(task, TaskState.ASSIGNED, effects)
    effects.attempts[attempt.key] = attempt
    state.event(effects, EventType.TASK_ASSIGNED, task, attempt)
    state.offered(attempt)
    spec = task.spec
    effects.sends.append(
        _assign(
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
            )
        )
    )


def accept_timed_out(state: State, effects: Effects, attempt: Attempt) -> None:
    """An offer was not accepted in time: ask for it back, and again until the agent says what became of it."""
    task, agent = state.tasks.get(attempt.task_id), state.agents.get(attempt.agent_id)
    if task is None or task.attempt is not attempt:
        return
    if agent is not None and agent.is_online:
        effects.sends.append(PushRevoke(agent.epoch, agent.id, task.id, attempt.number, attempt.fence))
        state.offered(attempt)


def _inputs(task: Task) -> tuple[tuple[str, str], ...]:
    """(key, task id) of everything whose result the task gets."""
    return tuple(zip(task.dependency_keys or task.dependency_ids, task.dependency_ids, strict=True))


def _line_max(state: State, key: ClassKey) -> float:
    """Plain functions whose kind has always ended fast may wait in line, as many as end within the line's time.

    What holds limits goes to a free slot only: in a line it would hold them without need.
    """
    known = state.durations_us.get(key.kind) if key.is_plain else None
    if known is None or known > state.settings.short_function_us:
        return 0.0
    return state.settings.line_us / max(1.0, known)


def _rebalance(state: State, effects: Effects) -> None:
    """While a slot is free somewhere, nothing that has not started waits in a line elsewhere."""
    lines = [agent for agent in state.agents.values() if agent.ahead and agent.is_online]
    if not lines:
        return
    free = sum(agent.free_slots for agent in state.agents.values() if not agent.ahead and closed_to_work(agent) is None)
    for agent in sorted(lines, key=lambda agent: (-len(agent.ahead), agent.id)):
        for attempt in reversed(list(agent.ahead.values())[-free:] if free else ()):
            if not attempt.revoke_sent:
                attempt.revoke_sent = True
                free -= 1
                effects.sends.append(PushRevoke(agent.epoch, agent.id, *attempt.key, attempt.fence))


def _holds(constraint: Constraint, value: str | None) -> bool:
    if constraint.operator is Operator.IN:
        return value in constraint.values
    if constraint.operator is Operator.NOT_IN:
        return value not in constraint.values
    return (value is not None) == (constraint.operator is Operator.EXISTS)
