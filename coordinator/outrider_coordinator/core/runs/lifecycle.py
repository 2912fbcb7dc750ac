"""Runs as a whole: how many of their tasks are open, which phase is on, which milestones are reached, when they stop.

It must not know how a task ends or becomes ready: it is told of ends, and leaves errands for what follows.

Invariants: ``open_count`` is the number of members in memory; a phase begins when every task of all lower ones has
ended (I9); a run that stops makes nothing ready any more; RUN_ENDED comes once, last.
"""

from __future__ import annotations

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.events import ReplyTo
from outrider_coordinator.core.model import Milestone, Run, Task
from outrider_coordinator.core.runs.errands import Consequence, RunStop
from outrider_coordinator.core.spec import Condition
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import EventType, Reason, TaskState

_FAILURES = (TaskState.FAILED, TaskState.EXPIRED)


def member_ended(state: State, effects: Effects, task: Task) -> None:
    """A task of a run has just become terminal."""
    run = state.runs[task.run_id]
    run.open_count -= 1
    run.weight_done += task.spec.weight
    if run.milestone_of:
        _count_milestone(state, effects, run, task)
    if run.open_count == 0:
        run.ended_us = state.now_us
        state.run_event(effects, EventType.RUN_ENDED, run)
        effects.runs[run.id] = run
        return
    if run.fails_fast and task.state in _FAILURES and not run.stop_reason:
        message = f"task {task.run_key} ended {task.state.name} and the run fails fast"
        stop(state, effects, run, Reason.RUN_FAILED, message)
    if run.phase_open:
        _count_phase(state, run, run.phase_of(task.id))


def stop(state: State, effects: Effects, run: Run, reason: Reason, message: str, reply: ReplyTo | None = None) -> None:
    """Cancel everything of a run that is open, last ones first; nothing of it becomes ready from now on."""
    if not run.stop_reason:
        run.stop_reason, run.stop_message = reason, message
        effects.runs[run.id] = run
    state.errands.append(stopping(state, run, reason, message, reply))


def stopping(state: State, run: Run, reason: Reason, message: str, reply: ReplyTo | None = None) -> RunStop:
    """The errand that cancels what is open of a run."""
    open_ids = [task_id for task_id in reversed(run.members.values()) if task_id in state.tasks]
    return RunStop(run, open_ids, reason, message, reply)


def is_stopping(state: State, task: Task) -> bool:
    """Whether the task's run is being cancelled."""
    run = state.runs.get(task.run_id)
    return run is not None and run.stop_reason is not Reason.NONE


def outsiders(state: State, task: Task, dependent_ids: list[str]) -> list[str]:
    """Those of these tasks that are open and not of the task's own run."""
    open_tasks = (state.tasks.get(task_id) for task_id in dependent_ids)
    return [other.id for other in open_tasks if other is not None and other.run_id != task.run_id]


def hold(run: Run, task: Task) -> None:
    """Let a task of a later phase wait for its run."""
    if task.waiting_for is None:
        task.waiting_for = {}
    task.waiting_for[run.id] = Condition.ALWAYS


def enter(run: Run, task_id: str, phase: int, milestone: str, weight: float) -> None:
    """Count a new member that is open."""
    if phase and not run.phase_open and run.open_count:
        run.phase_open[0] = run.open_count
    run.open_count += 1
    run.weight_total += weight
    if run.phase_open or phase:
        run.phase_open[phase] = run.phase_open.get(phase, 0) + 1
        if phase:
            run.phases[task_id] = phase
    if milestone:
        run.milestone_of[task_id] = milestone
        if milestone not in run.milestones:
            run.milestones[milestone] = Milestone()
        run.milestones[milestone].task_count += 1


def _count_milestone(state: State, effects: Effects, run: Run, task: Task) -> None:
    name = run.milestone_of.get(task.id)
    if name is None or task.state is not TaskState.SUCCEEDED:
        return
    milestone = run.milestones[name]
    milestone.succeeded_count += 1
    if milestone.succeeded_count == milestone.task_count and not milestone.reached_us:
        milestone.reached_us = state.now_us
        state.run_event(effects, EventType.RUN_MILESTONE, run, name)
        effects.runs[run.id] = run


def _count_phase(state: State, run: Run, phase: int) -> None:
    """One task of a phase less; when that was the last one of the lowest phase, the next one begins."""
    was = run.phase
    run.phase_open[phase] -= 1
    if run.phase_open[phase]:
        return
    del run.phase_open[phase]
    begun = run.phase
    if begun != was:
        waiting = [task_id for task_id, its in run.phases.items() if its == begun and task_id in state.tasks]
        label = f"phase {was}"
        state.errands.append(Consequence(run.id, label, TaskState.SUCCEEDED, Reason.NONE, waiting))
