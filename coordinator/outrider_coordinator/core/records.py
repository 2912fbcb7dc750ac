"""What a step writes: immutable snapshots of records, one class per kind of row of the store."""

from __future__ import annotations

from typing import NamedTuple

from outrider_coordinator.core.limit_book import LimitKey, Pool
from outrider_coordinator.core.model import Agent, Attempt, Run, Task, Wait


class InsertTask(NamedTuple):
    """A new task with its state at the end of the step."""

    id: str
    namespace: str
    body: bytes
    kind: str
    title: str
    priority: int
    order: int
    run_id: str
    run_key: str
    client_id: str
    request_id: str
    digest: bytes
    trace_parent: str
    trace_state: str
    dependency_ids: tuple[str, ...]
    dependency_conditions: tuple[int, ...]
    dependency_keys: tuple[str, ...]
    retry_of_task_id: str
    created_us: int
    state: int
    reason: int
    ready_us: int
    attempts_made: int
    attempts_counted: int
    worker_deaths: int
    start_us: int
    end_us: int
    progress: bytes
    outcome: bytes
    error: bytes


class UpdateTask(NamedTuple):
    """A known task's state at the end of the step."""

    id: str
    state: int
    reason: int
    ready_us: int
    attempts_made: int
    attempts_counted: int
    worker_deaths: int
    start_us: int
    end_us: int
    progress: bytes
    outcome: bytes
    error: bytes


class PutAttempt(NamedTuple):
    """An attempt, new or changed."""

    task_id: str
    number: int
    agent_id: str
    fence: int
    state: int
    prefetched: bool
    counted: bool
    offered_us: int
    started_us: int
    ended_us: int
    reason: int
    error: bytes
    holds_slot: bool
    is_probe: bool
    last_number: int
    intent: int


class PutWait(NamedTuple):
    """A wait of a task, new or changed."""

    task_id: str
    key: str
    kind: str
    body: bytes
    keeps_running: bool
    required_task_id: str
    retry_us: int
    resolution: bytes
    dependency_state: int
    is_open: bool


class PutRun(NamedTuple):
    """A run, new or changed. ``milestones`` are (name, time reached); ``ended_us`` 0 while it is open."""

    id: str
    namespace: str
    title: str
    description: str
    created_us: int
    ended_us: int
    milestones: tuple[tuple[str, int], ...]
    request_id: str
    digest: bytes
    client_id: str
    trace_parent: str
    trace_state: str
    retry_of_run_id: str
    fails_fast: bool
    max_parallel: int
    is_sequential: bool
    stop_reason: int
    stop_message: str


class InsertRunPart(NamedTuple):
    """Tasks that entered a run together, in order: part 0 with its submit, later ones added.

    ``phases``, ``milestones`` and ``weights`` stand beside ``task_ids``; empty means phase 0, none, and weight 1.
    ``request_id`` and ``digest`` are those of an addition.
    """

    run_id: str
    number: int
    namespace: str
    task_ids: tuple[str, ...]
    task_keys: tuple[str, ...]
    phases: tuple[int, ...]
    milestones: tuple[str, ...]
    weights: tuple[float, ...]
    parent_task_id: str
    request_id: str
    digest: bytes
    created_us: int


class PutAgent(NamedTuple):
    """An agent's durable facts, new or changed."""

    id: str
    machine_id: str
    connectivity: int
    admin: int
    breaker_state: int
    breaker_opened_count: int
    breaker_reset_us: int
    labels: dict[str, str]
    resources: dict[str, float]
    task_types: tuple[str, ...]
    runners: tuple[str, ...]
    slots: int
    prefetch_credit: int
    parked_max: int
    version: str
    host: str
    instance_id: str
    instance_start_ms: int
    last_heard_us: int
    session_start_us: int


class DeleteAgent(NamedTuple):
    """An agent was removed, with its outbox positions."""

    id: str


class PutOutbox(NamedTuple):
    """How far one outbox of an agent is applied."""

    agent_id: str
    outbox_id: str
    applied_seq: int


class PutLimit(NamedTuple):
    """A limit that somebody defined. A rate's bucket was going to be full at ``full_us`` when ``taken_us`` was."""

    namespace: str
    key: str
    kind: int
    capacity: int
    per_second: float
    burst: int
    full_us: int
    taken_us: int


class DeleteLimit(NamedTuple):
    """The definition of a limit is forgotten."""

    namespace: str
    key: str


class InsertLog(NamedTuple):
    """Captured output of an attempt; ``body`` is the serialized Log."""

    task_id: str
    attempt: int
    number: int
    time_us: int
    body: bytes


class InsertEvidence(NamedTuple):
    """A report that could not be applied, kept as it came: ``cause`` says why."""

    agent_id: str
    outbox_id: str
    seq: int
    time_us: int
    cause: str
    task_id: str
    attempt: int
    fence: int
    kind: int
    body: bytes


class InsertEvent(NamedTuple):
    """One entry of the event log; ``body`` is the serialized detail that belongs to the type.

    The result of TASK_SUCCEEDED is not stored twice: ``outcome`` is for live watchers, later readers find it in the
    task's row.
    """

    cursor: int
    type: int
    time_us: int
    namespace: str = ""
    task_id: str = ""
    run_id: str = ""
    client_id: str = ""
    attempt: int = 0
    agent_id: str = ""
    reason: int = 0
    text: str = ""
    body: bytes = b""
    outcome: bytes = b""


Write = (
    InsertTask
    | UpdateTask
    | PutAttempt
    | PutWait
    | PutRun
    | InsertRunPart
    | PutAgent
    | DeleteAgent
    | PutOutbox
    | PutLimit
    | DeleteLimit
    | InsertLog
    | InsertEvidence
    | InsertEvent
)


def task_row(task: Task) -> InsertTask | UpdateTask:
    """A task as it is now: InsertTask the first time, UpdateTask afterwards."""
    if task.is_stored:
        return UpdateTask._make((task.id, *_changing(task)))
    return inserted(task)


def inserted(task: Task) -> InsertTask:
    """The row of a new task."""
    task.is_stored = True
    spec = task.spec
    return InsertTask._make(
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
            *_changing(task),
        )
    )


def _changing(task: Task) -> tuple[int | bytes, ...]:
    """The fields that both rows end with, in their order: what a task's life changes."""
    return (
        int(task.state),
        int(task.reason),
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
    return PutAttempt._make(
        (
            attempt.task_id,
            attempt.number,
            attempt.agent_id,
            attempt.fence,
            int(attempt.state),
            attempt.prefetched,
            attempt.counted,
            attempt.offered_us,
            attempt.started_us,
            attempt.ended_us,
            int(attempt.reason),
            attempt.error,
            attempt.holds_slot,
            attempt.is_probe,
            attempt.last_number,
            int(attempt.intent),
        )
    )


def wait_row(task_id: str, wait: Wait) -> PutWait:
    """A wait as it is now."""
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
    breaker = agent.breaker
    return PutAgent(
        agent.id,
        agent.machine_id,
        int(agent.connectivity),
        int(agent.admin),
        int(breaker.state),
        breaker.opened_count,
        breaker.reset_us,
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
