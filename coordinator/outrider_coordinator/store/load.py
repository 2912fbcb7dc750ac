"""Memory from rows: what a start of the coordinator needs of its store."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat

from outrider_coordinator.core import effects, records, recovery
from outrider_coordinator.core.limits.book import Definition, LimitKind, Pool
from outrider_coordinator.core.model import Agent, Attempt, Breaker, Milestone, Run, Task, Trace, Wait
from outrider_coordinator.core.runs import lifecycle as run_book
from outrider_coordinator.core.schedules.book import Schedule
from outrider_coordinator.core.spec import Claim, Condition, Spec
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import (
    Admin,
    AttemptState,
    Blame,
    BreakerState,
    Connectivity,
    Intent,
    Reason,
    TaskState,
)
from outrider_coordinator.store.reader import Reader

ReadSpec = Callable[[records.InsertTask], Spec]
ReadSchedule = Callable[[records.PutSchedule], Schedule]


def restore(
    state: State, reader: Reader, read_spec: ReadSpec, read_schedule: ReadSchedule | None = None
) -> effects.Effects:
    """Fill an empty state from the store; ``read_spec`` gives the scheduling facts of a stored task.

    ``read_schedule`` gives a stored schedule with its times and its work; without it schedules are left alone.
    """
    state.cursor_next = reader.cursors()[1] + 1
    state.order_next = reader.last_sequence() + 1
    return recovery.restore(
        state,
        tasks=(_task(row, read_spec) for row in reader.open_tasks()),
        attempts=(_attempt(row) for row in reader.open_attempts()),
        waits=((row.task_id, _wait(row)) for row in reader.open_waits()),
        runs=_runs(reader),
        ended=reader.task_ends,
        agents=_agents(reader),
        breakers=(_breaker(row) for row in reader.breakers()),
        limits=(((row.namespace, row.key), _limit(row)) for row in reader.limits()),
        schedules=map(read_schedule, reader.schedules()) if read_schedule is not None else (),
    )


def _task(row: records.InsertTask, read_spec: ReadSpec) -> Task:
    return Task(
        id=row.id,
        namespace=row.namespace,
        spec=read_spec(row),
        order=row.order,
        created_us=row.created_us,
        state=TaskState(row.state),
        reason=Reason(row.reason),
        run_id=row.run_id,
        run_key=row.run_key,
        client_id=row.client_id,
        submitter=row.submitter,
        request_id=row.request_id,
        digest=row.digest,
        trace=Trace(row.trace_parent, row.trace_state),
        dependency_ids=row.dependency_ids,
        dependency_conditions=tuple(map(Condition, row.dependency_conditions)),
        dependency_keys=row.dependency_keys,
        retry_of_task_id=row.retry_of_task_id,
        ready_us=row.ready_us,
        attempts_made=row.attempts_made,
        attempts_counted=row.attempts_counted,
        worker_deaths=row.worker_deaths,
        start_us=row.start_us,
        progress=row.progress,
        error=row.error,
        is_stored=True,
    )


def _attempt(row: records.PutAttempt) -> Attempt:
    return Attempt(
        task_id=row.task_id,
        number=row.number,
        agent_id=row.agent_id,
        fence=row.fence,
        state=AttemptState(row.state),
        offered_us=row.offered_us,
        prefetched=bool(row.prefetched),
        counted=bool(row.counted),
        started_us=row.started_us,
        ended_us=row.ended_us,
        reason=Reason(row.reason),
        error=row.error,
        holds_slot=bool(row.holds_slot),
        is_probe=bool(row.is_probe),
        last_number=row.last_number,
        intent=Intent(row.intent),
        blame=Blame(row.blame),
    )


def _wait(row: records.PutWait) -> Wait:
    return Wait(
        row.key,
        row.kind,
        row.body,
        bool(row.keeps_running),
        row.required_task_id,
        row.retry_us,
        row.resolution,
        row.dependency_state,
        bool(row.is_open),
        row.opened_us,
        row.expires_us,
        row.expired_on,
        row.system,
        Claim(row.claim_key, bool(row.claim_shared), row.claim_units) if row.claim_key else None,
        row.additional_us,
        row.granted_us,
        row.held_by,
        row.moved_from,
    )


def _runs(reader: Reader) -> list[Run]:
    found = {row.id: _run(row) for row in reader.open_runs()}
    for part in reader.open_run_parts():
        run = found[part.run_id]
        facts = (part.phases or repeat(0), part.milestones or repeat(""), part.weights or repeat(1.0))
        for task_id, phase, milestone, weight in zip(part.task_ids, *facts, strict=False):
            run_book.enter(run, task_id, phase, milestone, weight)
        run.members.update(zip(part.task_keys, part.task_ids, strict=True))
        run.part_count += 1
    return list(found.values())


def _run(row: records.PutRun) -> Run:
    return Run(
        id=row.id,
        namespace=row.namespace,
        title=row.title,
        description=row.description,
        created_us=row.created_us,
        request_id=row.request_id,
        digest=row.digest,
        client_id=row.client_id,
        trace=Trace(row.trace_parent, row.trace_state),
        retry_of_run_id=row.retry_of_run_id,
        fails_fast=bool(row.fails_fast),
        max_parallel=row.max_parallel,
        is_sequential=bool(row.is_sequential),
        stop_reason=Reason(row.stop_reason),
        stop_message=row.stop_message,
        milestones={name: Milestone(reached_us=reached_us) for name, reached_us in row.milestones},
    )


def _limit(row: records.PutLimit) -> Pool:
    definition = Definition(LimitKind(row.kind), row.capacity, row.per_second, row.burst)
    return Pool(definition, is_defined=True, full_us=row.full_us, taken_us=row.taken_us)


def _agents(reader: Reader) -> list[Agent]:
    agents = {row.id: _agent(row) for row in reader.agents()}
    for row in reader.outboxes():
        if row.agent_id in agents:
            agents[row.agent_id].applied[row.outbox_id] = row.applied_seq
    return list(agents.values())


def _agent(row: records.PutAgent) -> Agent:
    return Agent(
        id=row.id,
        machine_id=row.machine_id,
        connectivity=Connectivity(row.connectivity),
        admin=Admin(row.admin),
        labels=row.labels,
        resources=row.resources,
        task_types=row.task_types,
        runners=row.runners,
        slots=row.slots,
        prefetch_credit=row.prefetch_credit,
        parked_max=row.parked_max,
        version=row.version,
        host=row.host,
        instance_id=row.instance_id,
        instance_start_ms=row.instance_start_ms,
        last_heard_us=row.last_heard_us,
        session_start_us=row.session_start_us,
        boot_id=row.boot_id,
        first_fence=row.first_fence,
        is_quarantined=bool(row.is_quarantined),
        drain_us=row.drain_us,
    )


def _breaker(row: records.PutBreaker) -> Breaker:
    return Breaker(
        agent_id=row.agent_id,
        kind=row.kind,
        system=row.system,
        state=BreakerState(row.state),
        opened_count=row.opened_count,
        reset_us=row.reset_us,
        opened_fence=row.opened_fence,
        culprit=row.culprit,
        probe=(row.probe_task_id, row.probe_attempt) if row.probe_attempt else None,
    )
