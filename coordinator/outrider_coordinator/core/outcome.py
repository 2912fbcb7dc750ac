"""The end of a task: written once, and what follows from it for everything that waited for it."""

from __future__ import annotations

from outrider_coordinator.core import blockage, slots, wishes
from outrider_coordinator.core.effects import Effects, PushCancel
from outrider_coordinator.core.failure import encode_error
from outrider_coordinator.core.model import Attempt, Run, Task
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import TERMINAL, AttemptState, EventType, Reason, TaskState
from outrider_coordinator.core.transitions import move_attempt

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
    """Decide a task, and every task that this decides in turn (I1, I15, I18).

    Attempts still running are fenced. Dependents become ready or are skipped, in the order they were submitted.
    """
    _end_one(state, effects, task, to, reason, outcome, error, attempt)
    if task.id in state.dependents:
        if attempt is not None:
            wishes.remember(state, task, attempt.agent_id)
        _decide_dependents(state, effects, task)


def _decide_dependents(state: State, effects: Effects, task: Task) -> None:
    ended = [task]
    while ended:
        done = ended.pop()
        for dependent_id in state.dependents.pop(done.id, ()):
            dependent = state.tasks.get(dependent_id)
            if dependent is None or dependent.is_terminal:
                continue
            if done.state is TaskState.SUCCEEDED:
                if dependent.waiting_for:
                    dependent.waiting_for.discard(done.id)
                if not dependent.waiting_for:
                    make_ready(state, effects, dependent)
            else:
                message = f"dependency {done.run_key or done.id} ended {done.state.name}"
                skipped = encode_error(Reason.UPSTREAM_FAILED, message)
                _end_one(state, effects, dependent, TaskState.SKIPPED, Reason.UPSTREAM_FAILED, b"", skipped, None)
                ended.append(dependent)


def make_ready(state: State, effects: Effects, task: Task) -> None:
    """A task's dependencies hold: queue it, or let it wait for its time."""
    if task.ready_us > state.now_us:
        state.move(task, TaskState.PENDING, effects)
        state.set_timer(task.ready_us, TimerKind.READY, task.id)
        return
    task.ready_us = state.now_us
    state.move(task, TaskState.QUEUED, effects)
    state.event(effects, EventType.TASK_QUEUED, task)


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


def _end_one(
    state: State,
    effects: Effects,
    task: Task,
    to: TaskState,
    reason: Reason,
    outcome: bytes,
    error: bytes,
    attempt: Attempt | None,
) -> None:
    state.move(task, to, effects, reason)
    if to is TaskState.CANCELLED:
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
        _count_in_run(state, effects, state.runs.get(task.run_id), to)


def _fence_others(state: State, effects: Effects, task: Task, attempt: Attempt | None, to: TaskState) -> None:
    """Tries that are still out decide nothing any more."""
    for live in (task.attempt, *task.strays):
        if live is not None and live is not attempt:
            fence(state, effects, live, f"task ended {to.name}")
    task.attempt, task.strays = None, ()


def _wake_waiters(state: State, effects: Effects, task: Task) -> None:
    for waiter_id, key in state.waiters.pop(task.id, ()):
        blockage.dependency_ended(state, effects, waiter_id, key, task.state)


def _count_in_run(state: State, effects: Effects, run: Run | None, to: TaskState) -> None:
    if run is None:
        return
    run.counts[to] = run.counts.get(to, 0) + 1
    run.open_count -= 1
    if run.open_count == 0:
        run.ended_us = state.now_us
        state.run_event(effects, EventType.RUN_ENDED, run)
        effects.runs[run.id] = run


def forget_ended(state: State, effects: Effects) -> None:
    """Drop what became terminal in this step from memory; the rows of the step hold it."""
    for task in effects.tasks.values():
        if task.state in TERMINAL and state.tasks.pop(task.id, None) is not None:
            state.counts[task.state] -= 1
    for run in effects.runs.values():
        if run.ended_us:
            state.runs.pop(run.id, None)
