"""What happens to a task when one of its attempts ends without success: again, elsewhere, or over."""

from __future__ import annotations

from outrider_coordinator.core.attempts import stopping
from outrider_coordinator.core.attempts.outcome import end_task, make_ready
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.failure import encode_error
from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.placement import slots
from outrider_coordinator.core.spec import Spec
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import AttemptState, EventType, Reason, TaskState
from outrider_coordinator.core.transitions import move_attempt
from outrider_coordinator.core.trust import blame
from outrider_coordinator.core.waits import blockage, budgets

#: Failures that are not the task's own: tried again even without a retry policy.
_LOST = frozenset((Reason.AGENT_LOST, Reason.WORKER_DIED, Reason.AGENT_STOPPED, Reason.LEASE_EXPIRED))
INFRASTRUCTURE = _LOST | {Reason.SECRET_UNAVAILABLE}
#: Of these, those that say nothing of an attempt that had not started.
_GONE = _LOST - {Reason.WORKER_DIED}
#: After these nobody knows how far an attempt came.
_UNCLEAR = frozenset((Reason.AGENT_LOST, Reason.LEASE_EXPIRED, Reason.PREEMPTED, Reason.MOVED))


def attempt_failed(
    state: State,
    effects: Effects,
    agent: Agent,
    task: Task,
    attempt: Attempt,
    reason: Reason,
    *,
    error: bytes,
    message: str,
    recoverable: bool,
    ended_us: int,
) -> None:
    """An attempt ended without success: close it, judge the agent, and decide about the task.

    A cancel decides the task whatever the attempt says, and what it was stopped for comes next. A stray's failure
    decides nothing: another try is under way.
    """
    was_started, was_current = attempt.started_us > 0, task.attempt is attempt
    stop = stopping.decider(attempt, reason)
    _close(state, effects, agent, task, attempt, reason, error, ended_us)
    if was_current:  # what a stray turns out to have been comes too late: its task was given another try (I3)
        is_own = stop is None and not task.cancel_requested
        attempt.counted = is_own and (was_started or reason not in _GONE)
    if stop is None and not task.cancel_requested:
        blame.failed(state, effects, agent, task, attempt, reason)
    agent.failed_count += stop is None
    if not was_current:
        return
    if task.cancel_requested:
        end_task(state, effects, task, TaskState.CANCELLED, reason=Reason.CANCEL_REQUESTED, attempt=attempt)
        return
    if stop is not None:
        _stopped(state, effects, task, attempt, stop, error if reason is stop.reason else b"", message)
        return
    task.attempts_counted += attempt.counted
    task.worker_deaths += reason is Reason.WORKER_DIED
    _decide(state, effects, task, attempt, reason, error, message, recoverable)


def attempt_returned(
    state: State,
    effects: Effects,
    agent: Agent,
    task: Task,
    attempt: Attempt,
    to: AttemptState,
    message: str,
    lease_over_us: int = 0,
    failure: bytes = b"",
) -> None:
    """An attempt never started (rejected, revoked, lost on the way): nothing is counted, the task is offered again.

    ``lease_over_us`` is when it is certain that no lease lets it run, for exclusive tasks; 0 when it is certain now.
    With a ``failure``, a TaskError, the task fails with that and the attempt's reason instead of being offered again.
    """
    slots.release(state, effects, agent, attempt)
    move_attempt(attempt, to)
    attempt.ended_us = state.now_us
    effects.attempts[attempt.key] = attempt
    state.placement_is_due = True
    task.attempt = None
    if task.cancel_requested:
        end_task(state, effects, task, TaskState.CANCELLED, reason=Reason.CANCEL_REQUESTED, attempt=attempt)
        return
    stop = stopping.STOPS.get(attempt.intent)
    if stop is not None and stop.ends is not None:
        _stopped(state, effects, task, attempt, stop, b"", message)
        return
    if failure:
        end_task(state, effects, task, TaskState.FAILED, reason=attempt.reason, error=failure, attempt=attempt)
        return
    effects.tasks[task.id] = task
    task.ready_us = max(state.now_us, lease_over_us if task.spec.exclusive else 0)
    make_ready(state, effects, task)


def stray_or_lose(
    state: State,
    effects: Effects,
    agent: Agent,
    task: Task,
    attempt: Attempt,
    message: str,
    lease_over_us: int = 0,
) -> None:
    """An attempt's agent is out of contact past the grace: the task goes elsewhere, a late success still wins.

    Not so for an exclusive task: it waits until ``lease_over_us``, and what was lost decides nothing any more.
    """
    stop = stopping.decider(attempt, Reason.AGENT_LOST)
    slots.release(state, effects, agent, attempt)
    move_attempt(attempt, AttemptState.LOST)
    attempt.reason, attempt.ended_us = Reason.AGENT_LOST, state.now_us
    attempt.counted = stop is None and not task.cancel_requested and attempt.started_us > 0
    attempt.error = encode_error(Reason.AGENT_LOST, message)
    effects.attempts[attempt.key] = attempt
    state.placement_is_due = True
    blame.lost(state, effects, agent, attempt)
    task.attempt = None
    if task.spec.exclusive:
        blockage.attempt_ended(state, effects, task)
    if task.cancel_requested:
        end_task(state, effects, task, TaskState.CANCELLED, reason=Reason.CANCEL_REQUESTED, attempt=attempt)
        return
    if attempt.started_us:
        agent.strayed.append(attempt.key)
    if task.spec.exclusive:
        task.ready_us = lease_over_us
    else:
        task.strays = (*task.strays, attempt)
    if stop is not None:
        _stopped(state, effects, task, attempt, stop, b"", message)
        return
    task.attempts_counted += attempt.counted
    _decide(state, effects, task, attempt, Reason.AGENT_LOST, attempt.error, message, recoverable=True)


def may_have_started(task: Task, attempt: Attempt) -> bool:
    """Whether user code may have begun, from what the agent has said; of one that it has lost more may be true."""
    return attempt.started_us > 0 or (task.spec.at_most_once and attempt.last_number > 0)


def struck_by_machine(state: State, effects: Effects, agent: Agent, *, is_dead: bool) -> None:
    """It is known what became of an agent that was out of contact: if its machine died, those that ran are suspects."""
    strayed, agent.strayed = agent.strayed, []
    for task_id, _ in strayed if is_dead else ():
        task = state.tasks.get(task_id)
        if task is None or task.is_terminal or task.cancel_requested:
            continue
        task.worker_deaths += 1
        effects.tasks[task.id] = task
        if task.worker_deaths >= state.settings.poison_limit:
            _poisoned(state, effects, task, None, f"agent {agent.id} died while it ran")


def attempts_max(state: State, spec: Spec, reason: Reason) -> int:
    """Counted attempts allowed when one just failed for this reason."""
    if spec.max_attempts:
        return spec.max_attempts
    return state.settings.lost_attempts_max if reason in INFRASTRUCTURE else 1


def backoff_us(spec: Spec, attempts_counted: int) -> int:
    """Wait before the next try: exponential in the counted tries so far, capped, without jitter."""
    try:
        factor = spec.backoff_multiplier ** max(0, attempts_counted - 1)
    except OverflowError:
        return spec.max_backoff_us if spec.initial_backoff_us else 0
    return int(min(spec.initial_backoff_us * factor, spec.max_backoff_us))


def _close(
    state: State,
    effects: Effects,
    agent: Agent,
    task: Task,
    attempt: Attempt,
    reason: Reason,
    error: bytes,
    ended_us: int,
) -> None:
    slots.release(state, effects, agent, attempt)
    move_attempt(attempt, AttemptState.CLOSED)
    attempt.reason, attempt.error, attempt.ended_us = reason, error, ended_us
    effects.attempts[attempt.key] = attempt
    state.placement_is_due = True
    if task.attempt is attempt:
        task.attempt = None
        blockage.attempt_ended(state, effects, task)
    else:
        task.drop_stray(attempt)
        blockage.stray_gone(state, effects, task)


def _stopped(
    state: State, effects: Effects, task: Task, attempt: Attempt, stop: stopping.Stop, error: bytes, message: str
) -> None:
    """The attempt is over because it was to be: end the task as that says, or queue it again without a try used."""
    effects.tasks[task.id] = task
    if stop.ends is None and task.spec.at_most_once and (attempt.state is AttemptState.LOST or attempt.started_us):
        _never_again(state, effects, task, attempt, stop.reason, b"", message)
        return
    if stop.ends is None:
        task.ready_us = max(state.now_us, task.ready_us)
        moves = budgets.moves_made(task) if stop.reason is Reason.MOVED and task.waits else 0
        if moves > 1:  # the first move is made at once
            task.ready_us = max(task.ready_us, state.now_us + backoff_us(task.spec, moves - 1))
        state.event(effects, EventType.TASK_RETRYING, task, attempt=attempt, reason=stop.reason, text=message)
        make_ready(state, effects, task)
        return
    error = error or encode_error(stop.reason, stop.text)
    end_task(state, effects, task, stop.ends, reason=stop.reason, error=error, attempt=attempt)


def _poisoned(state: State, effects: Effects, task: Task, attempt: Attempt | None, message: str) -> None:
    """Three strikes: quarantine the task."""
    text = f"killed its worker or its machine {task.worker_deaths} times; last: {message}"
    error = encode_error(Reason.POISONED, text)
    blame.acquit_agents(state, effects, task)
    over = attempt if attempt is not task.attempt else None
    end_task(state, effects, task, TaskState.FAILED, reason=Reason.POISONED, error=error, attempt=over)


def _never_again(
    state: State, effects: Effects, task: Task, attempt: Attempt, reason: Reason, error: bytes, message: str
) -> None:
    """A task that runs at most once may have started (I12): how that ended is all there is to say."""
    if reason in _UNCLEAR:
        text = f"may have started on agent {attempt.agent_id}, and a task that runs at most once is not started again"
        reason = Reason.MAY_HAVE_STARTED
        error = encode_error(reason, f"{text}: {message}")
    end_task(state, effects, task, TaskState.FAILED, reason=reason, error=error, attempt=attempt)


def _decide(
    state: State,
    effects: Effects,
    task: Task,
    attempt: Attempt,
    reason: Reason,
    error: bytes,
    message: str,
    recoverable: bool,
) -> None:
    effects.tasks[task.id] = task
    if task.worker_deaths >= state.settings.poison_limit:
        _poisoned(state, effects, task, attempt, message)
        return
    if task.spec.at_most_once and (attempt.state is AttemptState.LOST or attempt.started_us):
        _never_again(state, effects, task, attempt, reason, error, message)
        return
    if not recoverable or task.attempts_counted >= attempts_max(state, task.spec, reason):
        end_task(state, effects, task, TaskState.FAILED, reason=reason, error=error, attempt=attempt)
        return
    if blame.fails_everywhere(state, task):
        blame.acquit_agents(state, effects, task)
        text = f"failed on {len(task.failed_on)} different agents, so the task is at fault; last: {message}"
        at_fault = encode_error(Reason.FAILS_EVERYWHERE, text)
        end_task(
            state, effects, task, TaskState.FAILED, reason=Reason.FAILS_EVERYWHERE, error=at_fault, attempt=attempt
        )
        return
    again_at_once = reason in _LOST and task.worker_deaths == 0
    wait_us = 0 if again_at_once else backoff_us(task.spec, task.attempts_counted)
    task.ready_us = max(state.now_us + wait_us, task.ready_us)
    if reason is Reason.AGENT_LOST:
        task.ready_us = max(task.ready_us, state.watch.alarm_until_us)
    if reason is not Reason.AGENT_LOST or not state.retries.is_exempt(attempt.agent_id, state.now_us):
        task.ready_us = state.retries.take(task.id, task.ready_us, state.now_us)
    state.event(effects, EventType.TASK_RETRYING, task, attempt=attempt, reason=reason, text=message, body=error)
    make_ready(state, effects, task)
