"""Memory rebuilt from the store after a start: the same decisions go on where the disk says they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import repeat

from outrider_coordinator.core.agents import drain, lease
from outrider_coordinator.core.agents.sessions import suspect
from outrider_coordinator.core.attempts import deadlines, outcome, refusals
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.limits import caps
from outrider_coordinator.core.limits import holdings as named_limits
from outrider_coordinator.core.limits.book import LimitKey, Pool
from outrider_coordinator.core.model import Agent, Attempt, Breaker, Run, Task, Wait
from outrider_coordinator.core.placement import slots
from outrider_coordinator.core.placement.eligibility import fits
from outrider_coordinator.core.placement.preemption import is_victim
from outrider_coordinator.core.runs.errands import Decision
from outrider_coordinator.core.runs.lifecycle import hold, stopping
from outrider_coordinator.core.schedules import firing as schedule_times
from outrider_coordinator.core.schedules.book import Schedule
from outrider_coordinator.core.spec import Condition
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import AttemptState, Blame, Connectivity, Reason, TaskState
from outrider_coordinator.core.trust import breaker
from outrider_coordinator.core.waits.blockage import forget, is_remembered, resume_answered, watch

#: How tasks ended, and why.
Ends = Mapping[str, tuple[TaskState, Reason]]


def _nothing_ended_badly(task_ids: list[str]) -> Ends:
    """What a store says that has no ended tasks."""
    return {}


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
    ended: Callable[[list[str]], Ends] = _nothing_ended_badly,
    schedules: Iterable[Schedule] = (),
) -> Effects:
    """Fill an empty state. ``attempts`` of the given tasks are OFFERED to BLOCKED, or LOST, or have blame TASK,
    or were REJECTED by policy.

    ``runs`` come with `runs.lifecycle.enter` done for all their members; ``ended`` is asked once how tasks that are not
    open ended, and leaves out those that SUCCEEDED if it likes, save for members of a milestone.

    Every agent that holds something is suspect from ``startup_hold_us`` on: it gets that long to say hello before its
    graces begin. Returns effects with the events this made; nothing is offered before the first step.
    """
    effects = Effects()
    for agent in agents:
        state.agents[agent.id] = agent
        state.fleet.joined(agent, fits)
        state.watch.online_count += agent.is_online
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
    known_ends = ended(_asked_for(state))
    for run in state.runs.values():
        _run(state, run, known_ends)
    for task in state.tasks.values():
        _link(state, effects, task, known_ends)
    for known in breakers:
        breaker.restored(state, known)
    for agent in state.agents.values():
        _agent(state, effects, agent)
    schedule_times.restore(state, effects, schedules)
    state.requests.is_complete = False
    state.placement_is_due = True
    return effects


def _attach(state: State, effects: Effects, attempt: Attempt) -> None:
    task = state.tasks[attempt.task_id]
    if attempt.blame is Blame.TASK and attempt.agent_id not in task.failed_on:
        task.failed_on = tuple(sorted((*task.failed_on, attempt.agent_id)))
    if attempt.state is AttemptState.REJECTED:
        refusals.remember(task, attempt)
        return
    if attempt.state is AttemptState.CLOSED:
        return
    attempt.resources = task.spec.demands.resources
    if is_victim(state, task.spec):
        attempt.victim_priority = task.spec.priority
    if attempt.state is AttemptState.LOST:
        if not task.is_plain:  # it decides nothing any more, but may run on until its lease is over
            if task.spec.exclusive and task.state is TaskState.PENDING and task.ready_us > attempt.ended_us:
                task.ready_us = max(task.ready_us, lease.over_since_start_us(state))
            return
        task.strays = (*task.strays, attempt)
        return
    agent = state.agents[attempt.agent_id]  # one that is removed takes its attempts along
    task.attempt, holds_slot = attempt, attempt.holds_slot
    slots.take(state, agent, attempt)
    named_limits.hold(state, task, attempt)
    caps.take(state, task, attempt)
    if attempt.state is AttemptState.BLOCKED and not holds_slot:
        agent.parked += 1
        slots.give_back(state, effects, agent, attempt)


def _asked_for(state: State) -> list[str]:
    """Tasks that are over and whose end still matters: for those that depend on them, and for milestones."""
    pending = (task for task in state.tasks.values() if task.state is TaskState.PENDING)
    wanted = {other: None for task in pending for other in task.dependency_ids if other not in state.tasks}
    for run in state.runs.values():
        wanted |= {task_id: None for task_id in run.milestone_of if task_id not in state.tasks}
    return list(wanted)


def _run(state: State, run: Run, ended: Ends) -> None:
    """Count what is over, and go on with what was under way."""
    run.open_count = 0
    run.phase_open = {}
    for task_id in run.members.values():
        task = state.tasks.get(task_id)
        if task is not None:
            run.open_count += 1
            run.submitter = task.submitter
            run.weight_done -= task.spec.weight
            if run.phases:
                phase = run.phase_of(task_id)
                run.phase_open[phase] = run.phase_open.get(phase, 0) + 1
    run.weight_done += run.weight_total
    for task_id, name in run.milestone_of.items():
        run.milestones[name].succeeded_count += task_id in ended and ended[task_id][0] is TaskState.SUCCEEDED
    if run.stop_reason:
        state.errands.append(stopping(state, run, run.stop_reason, run.stop_message))


def _link_pending(state: State, task: Task, ended: Ends) -> None:
    """Wait for what is open. What decides against it ended before its consequences were written: they come now."""
    conditions = task.dependency_conditions or repeat(Condition.SUCCESS)
    labels = task.dependency_keys or task.dependency_ids
    waiting_for: dict[str, Condition] = {}
    for dependency_id, condition, label in zip(task.dependency_ids, conditions, labels, strict=False):
        if dependency_id in state.tasks:
            waiting_for[dependency_id] = condition
            state.dependents.setdefault(dependency_id, []).append(task.id)
            continue
        end, reason = ended.get(dependency_id, (TaskState.SUCCEEDED, Reason.NONE))
        against = outcome.unmet(condition, end, reason)
        if against:
            waiting_for[dependency_id] = condition
            state.errands.append(Decision([task.id], {task.id: (label, end, against)}))
    task.waiting_for = waiting_for or None
    run = state.runs.get(task.run_id)
    if run is not None and run.phase_of(task.id) > run.phase:
        hold(run, task)
    if not task.waiting_for:
        state.set_timer(max(task.ready_us, state.now_us), TimerKind.READY, task.id)


def _link(state: State, effects: Effects, task: Task, ended: Ends) -> None:
    if task.state is TaskState.PENDING:
        _link_pending(state, task, ended)
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
    # Of before this start, whatever the clock says: it may have been set back to where the store ends.
    agent.session_start_us = min(agent.session_start_us, state.started_us - 1)
    slots.promote(agent)
    drain.watch(state, agent)
    if agent.attempts or agent.connectivity is Connectivity.ONLINE:
        suspect(state, effects, agent, state.now_us + state.settings.startup_hold_us)
        effects.agents[agent.id] = agent
