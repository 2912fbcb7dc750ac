"""The end of a task: written once, and what follows from it for everything that waited for it."""

from __future__ import annotations

from outrider_coordinator.core.effects import Effects, PushCancel
from outrider_coordinator.core.events import End
from outrider_coordinator.core.failure import encode_error
from outrider_coordinator.core.model import Attempt, Task
from outrider_coordinator.core.placement import slots, wishes
from outrider_coordinator.core.runs import lifecycle
from outrider_coordinator.core.runs.errands import Consequence
from outrider_coordinator.core.spec import Condition
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import TERMINAL, AttemptState, EventType, Reason, TaskState
from outrider_coordinator.core.transitions import move_attempt
from outrider_coordinator.core.waits import blockage

_QUEUED, _CANCELLED, _TASK_QUEUED = TaskState.QUEUED, TaskState.CANCELLED, EventType.TASK_QUEUED
_EVENTS = {
    TaskState.SUCCEEDED: EventType.TASK_SUCCEEDED,
    TaskState.FAILED: EventType.TASK_FAILED,
    TaskState.CANCELLED: EventType.TASK_CANCELLED,
    TaskState.EXPIRED: EventType.TASK_EXPIRED,
    TaskState.SKIPPED: EventType.TASK_SKIPPED,
}


def end_task(
    state: State,
    effects: Effects,
    task: Task,
    to: TaskState,
    *,
    reason: Reason = Reason.NONE,
    outcome: bytes = b"",
    error: bytes = b"",
    attempt: Attempt | None = None,
) -> None:
    """Decide a task (I1, I15). What this decides in turn follows in `slices`, in this step where it is little (I18).

    Attempts still running are fenced. Dependents become ready or are skipped, in the order they were submitted.
    """
    state.move(task, to, effects, reason)
    if to is _CANCELLED:
        error = error or task.error  # what the cancel said
    task.outcome, task.error, task.end_us = outcome, error, state.now_us
    if task.attempt is not None or task.strays:
        _fence_others(state, effects, task, attempt, to)
    if task.waits:
        blockage.close_all(state, effects, task)
    state.ended_count += 1
    state.event(effects, _EVENTS[to], task, attempt, reason=reason, body=error, outcome=outcome)
    if task.id in state.waiters:
        _wake_waiters(state, effects, task)
    if task.run_id:
        lifecycle.member_ended(state, effects, task)
    dependent_ids = state.dependents.pop(task.id, None)
    if dependent_ids is not None and task.run_id and lifecycle.is_stopping(state, task):
        dependent_ids = lifecycle.outsiders(state, task, dependent_ids)
    if dependent_ids:
        agent_id = attempt.agent_id if attempt is not None else ""
        state.errands.append(Consequence(task.id, task.run_key or task.id, to, reason, dependent_ids, agent_id))


def dependency_ended(state: State, effects: Effects, task: Task, cause: Consequence) -> None:
    """Something that an open task waited for has ended: it is skipped, or goes on waiting, or is ready."""
    assert task.waiting_for is not None, f"task {task.id} does not wait for {cause.ended_id}"
    condition = task.waiting_for.pop(cause.ended_id)
    if cause.agent_id:
        wishes.remember(task, cause.ended_id, cause.agent_id)
    if lifecycle.is_stopping(state, task):
        return
    against = unmet(condition, cause.state, cause.reason)
    if against:
        skip(state, effects, task, against, cause.label, cause.state)
    elif not task.waiting_for:
        make_ready(state, effects, task)


def unmet(condition: Condition, ended: TaskState, reason: Reason) -> Reason:
    """Why a dependency that ended so lets no task with this condition start; NONE when it does."""
    if condition is Condition.ALWAYS or (condition is Condition.SUCCESS) == (ended is TaskState.SUCCEEDED):
        return Reason.NONE
    if condition is Condition.FAILURE or reason is Reason.CONDITION_NOT_MET:
        return Reason.CONDITION_NOT_MET
    return Reason.UPSTREAM_FAILED


def skip(state: State, effects: Effects, task: Task, reason: Reason, label: str, ended: TaskState) -> None:
    """End a task because a dependency ended otherwise than it asks."""
    error = encode_error(reason, f"dependency {label} ended {ended.name}")
    end_task(state, effects, task, TaskState.SKIPPED, reason=reason, error=error)


def give_up(state: State, effects: Effects, task: Task) -> None:
    """End a task that nobody runs, because its run stops."""
    run = state.runs[task.run_id]
    error = encode_error(run.stop_reason, run.stop_message) if run.stop_message else b""
    end_task(state, effects, task, TaskState.CANCELLED, reason=run.stop_reason, error=error)


def make_ready(state: State, effects: Effects, task: Task) -> None:
    """A task's dependencies hold: queue it, or let it wait for its time. What its run has given up is cancelled."""
    if task.run_id and lifecycle.is_stopping(state, task):
        give_up(state, effects, task)
        return
    if task.ready_us > state.now_us:
        state.move(task, TaskState.PENDING, effects)
        state.set_timer(task.ready_us, TimerKind.READY, task.id)
        return
    task.ready_us = state.now_us
    state.move(task, _QUEUED, effects)
    state.event(effects, _TASK_QUEUED, task)


def fence(state: State, effects: Effects, attempt: Attempt, message: str) -> None:
    """Nobody wants this attempt any more: stop counting it and tell its agent."""
    agent = state.agents.get(attempt.agent_id)
    slots.release(state, effects, agent, attempt)
    if agent is not None and agent.is_online:
        effects.sends.append(
            PushCancel(agent.epoch, agent.id, attempt.task_id, attempt.number, attempt.fence, message, fenced=True)
        )
    move_attempt(attempt, AttemptState.FENCED)
    attempt.ended_us = state.now_us
    effects.attempts[attempt.key] = attempt
    state.placement_is_due = True


def _fence_others(state: State, effects: Effects, task: Task, attempt: Attempt | None, to: TaskState) -> None:
    """Tries that are still out decide nothing any more."""
    for live in (task.attempt, *task.strays):
        if live is not None and live is not attempt:
            fence(state, effects, live, f"task ended {to.name}")
    task.attempt, task.strays = None, ()


def _wake_waiters(state: State, effects: Effects, task: Task) -> None:
    for waiter_id, key in state.waiters.pop(task.id, ()):
        blockage.dependency_ended(state, effects, waiter_id, key, End(task.state, task.namespace))


def forget_ended(state: State, effects: Effects) -> None:
    """Drop what became terminal in this step from memory; the rows of the step hold it."""
    for task in effects.tasks.values():
        if task.state in TERMINAL and state.tasks.pop(task.id, None) is not None:
            state.counts[task.state] -= 1
            if task.submitter:
                state.count_of(task.submitter, -1)
    for run in effects.runs.values():
        if run.ended_us:
            state.runs.pop(run.id, None)
