"""What the core wants done, in the imperative: records to write, and things to send once they are durable.

The contract of the shell: all ``writes`` of one step go into one transaction, in order; ``sends`` and ``loads`` are
carried out in order, and only after the transaction that was current when they were made has committed, also when
the step wrote nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from outrider_coordinator.core import records, snapshots
from outrider_coordinator.core.events import ReplyTo
from outrider_coordinator.core.limits.book import LimitKey, Pool
from outrider_coordinator.core.model import Agent, Attempt, Breaker, Run, Task, Trace, Wait
from outrider_coordinator.core.schedules.book import Schedule, ScheduleKey
from outrider_coordinator.core.states import Reason, TaskState

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
    """The new session. ``verdicts``: (task id, attempt, fence, Verdict number); ``applied``: outbox id to seq.

    ``heartbeat_us`` is how often the agent is to report.
    """

    epoch: int
    applied: dict[str, int]
    verdicts: list[tuple[str, int, int, int]]
    paused: bool
    heartbeat_us: int


VERDICT_RESUME, VERDICT_FENCE, VERDICT_CLOSE = 1, 2, 3

# --- things to send --------------------------------------------------------------------------------------------


class Reply(NamedTuple):
    """Call ``reply(value)``."""

    reply: ReplyTo
    value: Any


class Carried(NamedTuple):
    """What an attempt should know of those before it: Resolutions, and BlockedReasons that ran out, serialized."""

    answers: tuple[bytes, ...]
    expired: tuple[bytes, ...]


class PushAssign(NamedTuple):
    """Hand an attempt to its agent's session. ``inputs`` are (key, task id) whose results the shell attaches.

    ``remaining_us`` is what is left of the task's deadline, 0 when it has none.
    """

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
    remaining_us: int = 0
    carried: Carried | None = None


class PushCancel(NamedTuple):
    """Kill an attempt; ``fenced`` means that nobody wants its reports any more.

    ``reason`` is what the attempt is to report; NONE for a cancel that somebody asked for.
    """

    epoch: int
    agent_id: str
    task_id: str
    attempt: int
    fence: int
    message: str
    fenced: bool = False
    reason: Reason = Reason.NONE


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
    """Read how these tasks ended and bring it back as `OutcomesLoaded`, save for those that have not."""

    task_ids: tuple[str, ...]


Send = Reply | PushAssign | PushCancel | PushRevoke | PushAnswer | PushAck | PushControl | EndSession | LoadOutcomes


@dataclass(slots=True)
class Effects:
    """Everything one step wants, in order. Handlers mark what they changed; `rows` takes one snapshot of each."""

    sends: list[Send] = field(default_factory=list)
    inserts: list[records.Write] = field(default_factory=list)
    events: list[records.InsertEvent] = field(default_factory=list)
    tasks: dict[str, Task] = field(default_factory=dict)
    attempts: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    waits: dict[tuple[str, str], Wait] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    breakers: dict[tuple[str, str, str], Breaker] = field(default_factory=dict)
    outboxes: dict[tuple[str, str], int] = field(default_factory=dict)
    limits: dict[LimitKey, Pool] = field(default_factory=dict)
    schedules: dict[ScheduleKey, Schedule] = field(default_factory=dict)
    acks: dict[tuple[str, str], PushAck] = field(default_factory=dict)
    epoch: int = 0


_new, _PutOutbox = tuple.__new__, records.PutOutbox


def rows(effects: Effects) -> list[records.Write]:
    """Snapshots of everything the step changed, in the order in which a store may write them.

    Inserts come first: a `DeleteAgent` among them must not undo the put of an agent that came back in the same step.
    """
    writes: list[records.Write] = list(effects.inserts)
    writes += [snapshots.task_row(task) for task in effects.tasks.values()]
    writes += [snapshots.attempt_row(attempt) for attempt in effects.attempts.values()]
    writes.extend(snapshots.wait_row(task_id, wait) for (task_id, _), wait in effects.waits.items())
    writes.extend(snapshots.run_row(run) for run in effects.runs.values())
    writes.extend(snapshots.agent_row(agent) for agent in effects.agents.values())
    writes.extend(snapshots.breaker_row(breaker) for breaker in effects.breakers.values())
    writes += [_new(_PutOutbox, (agent_id, outbox_id, seq)) for (agent_id, outbox_id), seq in effects.outboxes.items()]
    if effects.limits:
        writes += [snapshots.limit_row(key, pool) for key, pool in effects.limits.items()]
    if effects.epoch:
        writes.append(records.PutEpoch(effects.epoch))
    if effects.schedules:
        writes += [snapshots.schedule_row(schedule) for schedule in effects.schedules.values()]
    writes.extend(effects.events)
    return writes
