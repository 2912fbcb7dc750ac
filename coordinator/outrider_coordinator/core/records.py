"""What a step writes: immutable, one class per kind of row of the store; `snapshots` makes them."""

from __future__ import annotations

from typing import NamedTuple


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
    submitter: str
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
    blame: int


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
    opened_us: int
    expires_us: int
    expired_on: str
    system: str
    claim_key: str
    claim_shared: bool
    claim_units: int
    additional_us: int
    granted_us: int
    held_by: int
    moved_from: tuple[str, ...]


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
    boot_id: str
    first_fence: int
    is_quarantined: bool
    drain_us: int


class DeleteAgent(NamedTuple):
    """An agent was removed, with its outbox positions and its breakers."""

    id: str


class PutBreaker(NamedTuple):
    """A circuit breaker that is not CLOSED: of an agent, of an agent for a kind of work, or of an outside system.

    The names that do not apply are empty. ``probe_attempt`` 0: it has leased no attempt.
    """

    agent_id: str
    kind: str
    system: str
    state: int
    opened_count: int
    reset_us: int
    opened_fence: int
    culprit: str
    probe_task_id: str
    probe_attempt: int


class DeleteBreaker(NamedTuple):
    """A circuit breaker is CLOSED again."""

    agent_id: str
    kind: str
    system: str


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


class PutEpoch(NamedTuple):
    """The coordinator has gone on as a later start of the store than the store knew."""

    epoch: int


class PutSchedule(NamedTuple):
    """A schedule, new or changed; times as in `schedules.book.Schedule`."""

    namespace: str
    name: str
    body: bytes
    submitter: str
    created_us: int
    is_paused: bool
    next_us: int
    last_us: int
    last_id: str
    queued_us: int
    fired_count: int
    skipped_count: int


class DeleteSchedule(NamedTuple):
    """A schedule is forgotten."""

    namespace: str
    name: str


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
    | PutBreaker
    | DeleteBreaker
    | PutOutbox
    | PutEpoch
    | PutLimit
    | DeleteLimit
    | PutSchedule
    | DeleteSchedule
    | InsertLog
    | InsertEvidence
    | InsertEvent
)
