"""What the core wants done, in the imperative: records to write, and things to send once they are durable.

The contract of the shell: all ``writes`` of one step go into one transaction, in order; ``sends`` and ``loads`` are
carried out in order, and only after the transaction that was current when they were made has committed, also when
the step wrote nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from outrider_coordinator.core.events import ReplyTo
from outrider_coordinator.core.model import (
    Admin,
    Agent,
    Attempt,
    AttemptState,
    BreakerState,
    Connectivity,
    EventType,
    Reason,
    Run,
    Task,
    TaskState,
    Trace,
    Wait,
)

# --- values of replies -----------------------------------------------------------------------------------------


class Accepted(NamedTuple):
    """A task or run is accepted; ``created`` is False when its request id was known."""

    id: str
    created: bool = True


class Refused(NamedTuple):
    """Why not: ``reason`` is an ErrorInfo reason (`outrider.errors`), the message says what to do."""

    reason: str
    message: str
    field: str = ""


class NeedTasks(NamedTuple):
    """These dependencies are not in memory: look them up in the store and submit again with ``ended``."""

    task_ids: tuple[str, ...]


class CancelVerdict(NamedTuple):
    """How a cancel and a completion were ordered; ``state`` None: not in memory, so terminal or unknown."""

    task_id: str
    state: TaskState | None
    cancelled: bool


class SessionAccepted(NamedTuple):
    """The new session. ``verdicts``: (task id, attempt, fence, Verdict number); ``applied``: outbox id to seq."""

    epoch: int
    applied: dict[str, int]
    verdicts: list[tuple[str, int, int, int]]
    paused: bool


VERDICT_RESUME, VERDICT_FENCE, VERDICT_CLOSE = 1, 2, 3

# --- records to write (rows of the store; immutable snapshots) -------------------------------------------------


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
    """A run, new or changed. ``counts`` are (state, count) of terminal tasks; ``ended_us`` 0 while it is open."""

    id: str
    namespace: str
    title: str
    description: str
    created_us: int
    ended_us: int
    task_ids: tuple[str, ...]
    task_keys: tuple[str, ...]
    counts: tuple[tuple[int, int], ...]
    request_id: str
    digest: bytes
    client_id: str
    trace_parent: str
    trace_state: str


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
    | PutAgent
    | DeleteAgent
    | PutOutbox
    | InsertLog
    | InsertEvidence
    | InsertEvent
)

# --- things to send --------------------------------------------------------------------------------------------


class Reply(NamedTuple):
    """Call ``reply(value)``."""

    reply: ReplyTo
    value: Any


class PushAssign(NamedTuple):
    """Hand an attempt to its agent's session. ``inputs`` are (key, task id) whose results the shell attaches."""

    epoch: int
    agent_id: str
    task_id: str
    attempt: int
    fence: int
    body: bytes
    inputs: tuple[tuple[str, str], ...]
    prefetched: bool
    namespace: str
    run_id: str
    trace: Trace
    title: str
    created_us: int
    ready_us: int
    offered_us: int


class PushCancel(NamedTuple):
    """Kill an attempt; ``fenced`` means that nobody wants its reports any more."""

    epoch: int
    agent_id: str
    task_id: str
    attempt: int
    fence: int
    message: str
    fenced: bool = False


class PushRevoke(NamedTuple):
    """Take an attempt back if it has not started."""

    epoch: int
    agent_id: str
    task_id: str
    attempt: int
    fence: int


class PushAnswer(NamedTuple):
    """Resolve a wait of an attempt. For a dependency the shell attaches the result of ``dependency_id``."""

    epoch: int
    agent_id: str
    task_id: str
    attempt: int
    fence: int
    key: str
    resolution: bytes
    dependency_id: str = ""
    dependency_state: int = 0


class PushAck(NamedTuple):
    """Everything of this outbox up to ``applied_seq`` is durable."""

    epoch: int
    agent_id: str
    outbox_id: str
    applied_seq: int


class PushControl(NamedTuple):
    """Pass an operator's order (`events.AgentOrder` PAUSE, RESUME or DRAIN) to the agent; 0 means no timeout."""

    epoch: int
    agent_id: str
    order: str
    timeout_us: int = 0


class EndSession(NamedTuple):
    """End a session's stream with this refusal."""

    epoch: int
    agent_id: str
    refused: Refused


class LoadOutcomes(NamedTuple):
    """Read the terminal states of these tasks and bring them back as `OutcomesLoaded`."""

    task_ids: tuple[str, ...]


Send = Reply | PushAssign | PushCancel | PushRevoke | PushAnswer | PushAck | PushControl | EndSession | LoadOutcomes


@dataclass(slots=True)
class Effects:
    """Everything one step wants, in order. Handlers mark what they changed; `rows` takes one snapshot of each."""

    sends: list[Send] = field(default_factory=list)
    inserts: list[Write] = field(default_factory=list)
    events: list[InsertEvent] = field(default_factory=list)
    tasks: dict[str, Task] = field(default_factory=dict)
    attempts: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    waits: dict[tuple[str, str], Wait] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    outboxes: dict[tuple[str, str], int] = field(default_factory=dict)
    acks: dict[tuple[str, str], PushAck] = field(default_factory=dict)


def rows(effects: Effects) -> list[Write]:
    """Snapshots of everything the step changed, in the order in which a store may write them."""
    writes: list[Write] = [_task_row(task) for task in effects.tasks.values()]
    writes.extend(_attempt_row(attempt) for attempt in effects.attempts.values())
    writes.extend(_wait_row(task_id, wait) for (task_id, _), wait in effects.waits.items())
    writes.extend(_run_row(run) for run in effects.runs.values())
    writes.extend(_agent_row(agent) for agent in effects.agents.values())
    writes.extend(PutOutbox(agent_id, outbox_id, seq) for (agent_id, outbox_id), seq in effects.outboxes.items())
    writes.extend(effects.inserts)
    writes.extend(effects.events)
    return writes


def _task_row(task: Task) -> InsertTask | UpdateTask:
    if task.is_stored:
        return UpdateTask(
            task.id,
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
    task.is_stored = True
    spec = task.spec
    return InsertTask(
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
        task.created_us,
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


def _attempt_row(attempt: Attempt) -> PutAttempt:
    return PutAttempt(
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
    )


def _wait_row(task_id: str, wait: Wait) -> PutWait:
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


def _run_row(run: Run) -> PutRun:
    return PutRun(
        run.id,
        run.namespace,
        run.title,
        run.description,
        run.created_us,
        run.ended_us,
        run.task_ids,
        run.task_keys,
        tuple(sorted((int(state), count) for state, count in run.counts.items())),
        run.request_id,
        run.digest,
        run.client_id,
        run.trace.parent,
        run.trace.state,
    )


def _agent_row(agent: Agent) -> PutAgent:
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


__all__ = [
    "Accepted",
    "Admin",
    "AttemptState",
    "BreakerState",
    "CancelVerdict",
    "Connectivity",
    "DeleteAgent",
    "Effects",
    "EndSession",
    "EventType",
    "InsertEvent",
    "InsertEvidence",
    "InsertLog",
    "InsertTask",
    "LoadOutcomes",
    "NeedTasks",
    "PushAck",
    "PushAnswer",
    "PushAssign",
    "PushCancel",
    "PushControl",
    "PushRevoke",
    "PutAgent",
    "PutAttempt",
    "PutOutbox",
    "PutRun",
    "PutWait",
    "Reason",
    "Refused",
    "Reply",
    "Send",
    "SessionAccepted",
    "UpdateTask",
    "Write",
    "rows",
]
