"""Records of the core's memory as they are now: the snapshot of each that a step writes."""

from __future__ import annotations

from outrider_coordinator.core.limits.book import LimitKey, Pool
from outrider_coordinator.core.model import Agent, Attempt, Breaker, Run, Task, Wait
from outrider_coordinator.core.records import (
    DeleteBreaker,
    DeleteLimit,
    InsertTask,
    PutAgent,
    PutAttempt,
    PutBreaker,
    PutLimit,
    PutRun,
    PutSchedule,
    PutWait,
    UpdateTask,
)
from outrider_coordinator.core.schedules.book import Schedule
from outrider_coordinator.core.spec import Claim
from outrider_coordinator.core.states import BreakerState

#: A wait that is for no named limit.
_NO_CLAIM = Claim("")
#: Makes a NamedTuple of a tuple, without the call and the checks of its `_make`.
_new = tuple.__new__


def task_row(task: Task) -> InsertTask | UpdateTask:
    """A task as it is now: InsertTask the first time, UpdateTask afterwards."""
    if task.is_stored:
        return _new(UpdateTask, (task.id, *_changing(task)))
    return inserted(task)


def inserted(task: Task) -> InsertTask:
    """The row of a new task."""
    task.is_stored = True
    spec = task.spec
    return _new(
        InsertTask,
        (
            task.id,
            task.namespace,
            spec.body,
            spec.kind,
            spec.title,
            spec.priority,
            task.order,
            task.run_id,
            task.run_key,
            task.client_id,
            task.request_id,
            task.digest,
            task.trace.parent,
            task.trace.state,
            task.dependency_ids,
            task.dependency_conditions,
            task.dependency_keys,
            task.retry_of_task_id,
            task.created_us,
            task.submitter,
            *_changing(task),
        ),
    )


def _changing(task: Task) -> tuple[int | bytes, ...]:
    """The fields that both rows end with, in their order: what a task's life changes."""
    return (
        task.state._value_,
        task.reason._value_,
        task.ready_us,
        task.attempts_made,
        task.attempts_counted,
        task.worker_deaths,
        task.start_us,
        task.end_us,
        task.progress,
        task.outcome,
        task.error,
    )


def attempt_row(attempt: Attempt) -> PutAttempt:
    """An attempt as it is now."""
    return _new(
        PutAttempt,
        (
            attempt.task_id,
            attempt.number,
            attempt.agent_id,
            attempt.fence,
            attempt.state._value_,
            attempt.prefetched,
            attempt.counted,
            attempt.offered_us,
            attempt.started_us,
            attempt.ended_us,
            attempt.reason._value_,
            attempt.error,
            attempt.holds_slot,
            attempt.is_probe,
            attempt.last_number,
            attempt.intent._value_,
            attempt.blame._value_,
        ),
    )


def wait_row(task_id: str, wait: Wait) -> PutWait:
    """A wait as it is now."""
    claim = wait.claim or _NO_CLAIM
    return PutWait(
        task_id,
        wait.key,
        wait.kind,
        wait.body,
        wait.keeps_running,
        wait.required_task_id,
        wait.retry_us,
        wait.resolution,
        wait.dependency_state,
        wait.is_open,
        wait.opened_us,
        wait.expires_us,
        wait.expired_on,
        wait.system,
        claim.key,
        claim.shared,
        claim.units,
        wait.additional_us,
        wait.granted_us,
        wait.held_by,
        wait.moved_from,
    )


def run_row(run: Run) -> PutRun:
    """A run as it is now."""
    return PutRun(
        run.id,
        run.namespace,
        run.title,
        run.description,
        run.created_us,
        run.ended_us,
        tuple((name, milestone.reached_us) for name, milestone in run.milestones.items()),
        run.request_id,
        run.digest,
        run.client_id,
        run.trace.parent,
        run.trace.state,
        run.retry_of_run_id,
        run.fails_fast,
        run.max_parallel,
        run.is_sequential,
        int(run.stop_reason),
        run.stop_message,
    )


def agent_row(agent: Agent) -> PutAgent:
    """An agent as it is now."""
    return PutAgent(
        agent.id,
        agent.machine_id,
        int(agent.connectivity),
        int(agent.admin),
        dict(agent.labels),
        dict(agent.resources),
        agent.task_types,
        agent.runners,
        agent.slots,
        agent.prefetch_credit,
        agent.parked_max,
        agent.version,
        agent.host,
        agent.instance_id,
        agent.instance_start_ms,
        agent.last_heard_us,
        agent.session_start_us,
        agent.boot_id,
        agent.first_fence,
        agent.is_quarantined,
        agent.drain_us,
    )


def breaker_row(breaker: Breaker) -> PutBreaker | DeleteBreaker:
    """A breaker as it is now: what is CLOSED has no row."""
    if breaker.state is BreakerState.CLOSED:
        return DeleteBreaker(*breaker.key)
    probe = breaker.probe or ("", 0)
    return PutBreaker(
        *breaker.key,
        int(breaker.state),
        breaker.opened_count,
        breaker.reset_us,
        breaker.opened_fence,
        breaker.culprit,
        *probe,
    )


def limit_row(key: LimitKey, pool: Pool) -> PutLimit | DeleteLimit:
    """The definition of a limit as it is now, or that there is none."""
    if not pool.is_defined:
        return DeleteLimit(*key)
    definition = pool.definition
    return PutLimit(
        *key,
        int(definition.kind),
        definition.capacity,
        definition.per_second,
        definition.burst,
        pool.full_us,
        pool.taken_us,
    )


def schedule_row(schedule: Schedule) -> PutSchedule:
    """A schedule as it is now."""
    return PutSchedule(
        schedule.namespace,
        schedule.name,
        schedule.body,
        schedule.submitter,
        schedule.created_us,
        schedule.is_paused,
        schedule.next_us,
        schedule.last_us,
        schedule.last_id,
        schedule.queued_us,
        schedule.fired_count,
        schedule.skipped_count,
    )
