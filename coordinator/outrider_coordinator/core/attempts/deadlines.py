"""Bounds on a task's whole time: the queue timeout before its first start, and the deadline on everything.

Times are the coordinator's own line (`clock`), which a step of the wall clock does not move, so none expires anything.
An attempt that runs when its task's deadline passes is stopped, and its end decides; one whose agent is out of contact,
or that does not end within ``stop_overdue_us``, is fenced. What is left of the deadline travels with each assignment,
so that an agent that hears nothing any more keeps it too. It must not know what else could end a task.
"""

from __future__ import annotations

from outrider_coordinator.core.agents.liveness import held_until_us
from outrider_coordinator.core.attempts.outcome import end_task
from outrider_coordinator.core.attempts.stopping import stop_attempt
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.failure import encode_error
from outrider_coordinator.core.model import Agent, Task
from outrider_coordinator.core.state import State, TimerKind
from outrider_coordinator.core.states import Intent, Reason, TaskState


def watch(state: State, task: Task) -> None:
    """Set the timers of a task, new or read back from the store."""
    spec = task.spec
    if spec.queue_timeout_us and task.attempts_made == 0:
        state.set_timer(task.created_us + spec.queue_timeout_us, TimerKind.QUEUE_TIMEOUT, task.id)
    if spec.deadline_us:
        state.set_timer(task.created_us + spec.deadline_us, TimerKind.DEADLINE, task.id)


def left_us(state: State, task: Task) -> int:
    """What is left of the deadline of a task that has one, at least 1."""
    return max(1, task.created_us + task.spec.deadline_us - state.now_us)


def queue_timed_out(state: State, effects: Effects, task: Task) -> None:
    """A task waited for its first start for longer than it may."""
    if task.attempts_made == 0 and task.state in (TaskState.PENDING, TaskState.QUEUED):
        error = encode_error(Reason.QUEUE_TIMEOUT, "did not start within its queue timeout")
        end_task(state, effects, task, TaskState.EXPIRED, reason=Reason.QUEUE_TIMEOUT, error=error)


def deadline_passed(state: State, effects: Effects, task: Task) -> None:
    """All the time a task may take is over, or an attempt that was stopped for that has had its time to end."""
    attempt = task.attempt
    if task.is_terminal or task.cancel_requested:
        return
    agent = state.agents.get(attempt.agent_id) if attempt is not None else None
    waits_until_us = _may_end_until_us(state, task, agent)
    if attempt is None or state.now_us >= waits_until_us:
        error = encode_error(Reason.DEADLINE_EXCEEDED, _text(task))
        end_task(state, effects, task, TaskState.EXPIRED, reason=Reason.DEADLINE_EXCEEDED, error=error)
        return
    stop_attempt(state, effects, task, attempt, Intent.DEADLINE, _text(task))
    state.set_timer(waits_until_us, TimerKind.DEADLINE, task.id)


def _may_end_until_us(state: State, task: Task, agent: Agent | None) -> int:
    """How long the attempt's agent may take to say how it ended; 0 when it is not there to say anything."""
    if agent is None:
        return 0
    if agent.is_online:
        return task.created_us + task.spec.deadline_us + state.settings.stop_overdue_us
    return held_until_us(state, agent)


def _text(task: Task) -> str:
    return f"not done within its deadline of {task.spec.deadline_us / 1e6:g} s"
