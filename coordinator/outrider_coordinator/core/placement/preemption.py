"""Room for what cannot wait: a CRITICAL task that finds no slot takes that of a task that can be stopped.

By policy: `PREEMPTIBLE` stops only tasks that say they may be stopped, `LOWER` any of a lower priority, `NEVER` none.
The victim is the youngest attempt of the lowest priority whose end would let the task run: least is lost. It is queued
again and uses up no try. One victim for each needy task, and not another while that one is being stopped. What may not
be started twice is no victim, nor is what waits in a line or is parked: that holds no slot.

A task that was passed over for so long that it would start first is no victim either, and one that is stopped ages anew
from then on. Otherwise the two could stop each other for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from outrider_coordinator.core.attempts.stopping import stop_attempt
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.limits import caps, holdings
from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.placement.eligibility import is_open
from outrider_coordinator.core.placement.queue import Need
from outrider_coordinator.core.placement.resources import EPSILON
from outrider_coordinator.core.settings import Preemption
from outrider_coordinator.core.spec import Spec
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import AttemptState, Intent
from outrider_coordinator.core.trust import breaker, systems

CRITICAL = 10
_LOWER, _NEVER = Preemption.LOWER, Preemption.NEVER
#: Needy tasks, and attempts for each of them, that one step looks at.
NEEDY_MAX, LOOKED_AT_MAX = 16, 64


def is_victim(state: State, spec: Spec) -> bool:
    """Whether attempts of such a task may be stopped for a more urgent one."""
    policy = state.settings.preemption
    if not spec.preemptible and policy is not _LOWER:
        return False
    return policy is not _NEVER and spec.priority < CRITICAL and not spec.at_most_once


def make_room(state: State, effects: Effects) -> None:
    """Stop one attempt for each CRITICAL task that waits for an agent."""
    if state.settings.preemption is Preemption.NEVER:
        return
    for task in list(islice(state.queue.urgent.values(), NEEDY_MAX)):
        group = task.strand.group
        need: Need = group.need
        if need.is_awake or group.is_held or _is_served(state, task) or _must_wait_anyway(state, task):
            continue
        attempt = next(_victims(state, need, task), None)
        if attempt is not None:
            victim = state.tasks[attempt.task_id]
            text = f"task {task.id} of priority {task.spec.priority} takes its slot"
            if stop_attempt(state, effects, victim, attempt, Intent.PREEMPT, text):
                task.victim_key = attempt.key
                victim.rank_us = None


def _must_wait_anyway(state: State, task: Task) -> bool:
    """Whether an agent would not help: a limit, a cap or an outside system keeps the task waiting."""
    if state.systems and systems.held_back(state, task.spec.demands) is not None:
        return True
    return bool(task.caps and caps.held_back(state, task) is not None) or not holdings.may_take(state, task)


def _is_served(state: State, task: Task) -> bool:
    """Whether somebody is being stopped for this task."""
    key = task.victim_key
    if key is None:
        return False
    other = state.tasks.get(key[0])
    if other is not None and other.attempt is not None and other.attempt.key == key:
        return True
    task.victim_key = None
    return False


def _victims(state: State, need: Need, task: Task) -> Iterator[Attempt]:
    """Attempts whose end would let the task run, lowest priority first, youngest of these first."""
    left = LOOKED_AT_MAX
    for of_priority in state.fleet.victims:
        for attempt in islice(reversed(of_priority.values()), left):
            left -= 1
            agent = state.agents.get(attempt.agent_id)
            is_later = (state.tasks[attempt.task_id].rank_us or 0) > (task.rank_us or 0)
            if agent is not None and is_later and _would_fit(need, agent, attempt, task):
                yield attempt


def _would_fit(need: Need, agent: Agent, attempt: Attempt, task: Task) -> bool:
    if not attempt.holds_slot or attempt.intent or attempt.state is AttemptState.BLOCKED or agent.ahead:
        return False
    if need.reach is None or agent.id not in need.reach.members or not is_open(agent):
        return False
    given = dict(attempt.resources)
    return breaker.may_offer(agent, need.kind) and all(
        wanted <= agent.resources.get(name, 0.0) - agent.resources_used.get(name, 0.0) + given.get(name, 0.0) + EPSILON
        for name, wanted in task.spec.demands.resources
    )
