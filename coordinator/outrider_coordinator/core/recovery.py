"""Memory rebuilt from the store after a start: the same decisions go on where the disk says they were."""

from __future__ import annotations

from collections.abc import Iterable

from outrider_coordinator.core import breaker, caps, deadlines, drain, slots
from outrider_coordinator.core import limits as named_limits
from outrider_coordinator.core import schedules as schedule_times
from outrider_coordinator.core.blockage import forget, is_remembered, resume_answered, watch
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.eligibility import fits
from outrider_coordinator.core.limit_book import LimitKey, Pool
from outrider_coordinator.core.model import Agent, Attempt, Breaker, Run, Task, Wait
from outrider_coordinator.core.preemption import is_victim
from outrider_coordinator.core.schedule_book import Schedule
from outrider_coordinator.core.sessions import suspect
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import AttemptState, Blame, Connectivity, TaskState


def restore(
    state: State,
    *,
    tasks: Iterable[Task],
    attempts: Iterable[Attempt],
    waits: Iterable[tuple[str, Wait]],
    runs: Iterable[Run],
    agents: Iterable[Agent],
    breakers: Iterable[Breaker] = (),
    limits: Iterable[tuple[LimitKey, Pool]] = (),
    schedules: Iterable[Schedule] = (),
) -> Effects:
    """Fill an empty state. ``attempts`` of the given tasks are OFFERED to BLOCKED, or LOST, or have blame TASK.

    Every agent that holds something is suspect from ``startup_hold_us`` on: it gets that long to say hello before its
    graces begin. Returns effects with the events this made; nothing is offered before the first step.
    """
    effects = Effects()
    for agent in agents:
        state.agents[agent.id] = agent
        state.fleet.joined(agent, fits)
    for run in runs:
        state.runs[run.id] = run
    for task in tasks:
        state.add_task(task)
        state.requests.add(task.namespace, task.request_id, task.id, task.digest)
    for task_id, wait in waits:
        if is_remembered(wait):
            state.tasks[task_id].set_wait(wait)
    named_limits.restore(state, limits)
    for attempt in attempts:
        _attach(state, effects, attempt)
    named_limits.restored(state)
    for task in state.tasks.values():
        _link(state, effects, task)
    for known in breakers:
        breaker.restored(state, known)
    for run in state.runs.values():
        open_ids = [task_id for task_id in run.task_ids if task_id in state.tasks]
        run.open_count = len(open_ids)
        run.submitter = state.tasks[open_ids[0]].submitter if open_ids else ""
    for agent in state.agents.values():
        _agent(state, effects, agent)
    schedule_times.restore(state, schedules)
    state.requests.is_complete = False
    state.placement_is_due = True
    return effects


def _attach(state: State, effects: Effects, attempt: Attempt) -> None:
    task, agent = state.tasks[attempt.task_id], state.agents.get(attempt.agent_id)
    if attempt.blame is Blame.TASK and attempt.agent_id not in task.failed_on:
        task.failed_on = (*task.failed_on, attempt.agent_id)
    if attempt.state is AttemptState.CLOSED:
        return
    attempt.resources = task.spec.demands.resources
    if is_victim(state, task.spec):
        attempt.victim_priority = task.spec.priority
    if attempt.state is AttemptState.LOST:
        if not task.is_plain:
            return  # it decides nothing any more
        task.strays = (*task.strays, attempt)
        return
    task.attempt = attempt
    if agent is None:
        return
    holds_slot = attempt.holds_slot
    slots.take(state, agent, attempt)
    named_limits.hold(state, task, attempt)
    caps.take(state, task, attempt)
    if attempt.state is AttemptState.BLOCKED and not holds_slot:
        agent.parked += 1
        slots.give_back(state, effects, agent, attempt)


def _link(state: State, effects: Effects, task: Task) -> None:
    if task.state is TaskState.PENDING:
        task.waiting_for = {other for other in task.dependency_ids if other in state.tasks}
        for dependency_id in task.dependency_ids:
            if dependency_id in task.waiting_for:
                state.dependents.setdefault(dependency_id, []).append(task.id)
        if not task.waiting_for:
            state.set_timer(max(task.ready_us, state.now_us), TimerKind.READY, task.id)
    elif task.state is TaskState.QUEUED:
        state.queue.push(task)
    deadlines.watch(state, task)
    if task.waits:
        forget(task)
        resume_answered(state, effects, task)
    for wait in task.waits:
        if wait.is_pending:
            watch(state, effects, task, wait)


def _agent(state: State, effects: Effects, agent: Agent) -> None:
    agent.epoch = 0
    drain.watch(state, agent)
    if agent.attempts or agent.connectivity is Connectivity.ONLINE:
        suspect(state, effects, agent, state.now_us + state.settings.startup_hold_us)
        effects.agents[agent.id] = agent
