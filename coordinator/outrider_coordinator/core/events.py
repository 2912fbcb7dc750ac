"""What happened, in the past tense: the only way into the core. Those of schedules stand in `schedules.events`.

``reply`` is a callable of the shell; the core hands it back in a `Reply` effect, to be called with one value once
everything that the value rests on is durable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from outrider_coordinator.core.limits.book import Definition
from outrider_coordinator.core.model import NO_TRACE, HostFacts, Trace
from outrider_coordinator.core.spec import Claim, Condition, Spec
from outrider_coordinator.core.states import TERMINAL, AttemptState, Reason, TaskState

ReplyTo = Callable[[Any], None]
#: How tasks ended, and why.
Ends = dict[str, tuple[TaskState, Reason]]


@dataclass(slots=True)
class Submission:
    """One task to accept. ``task_id`` is made by the shell; ``digest`` identifies the normalised spec."""

    task_id: str
    namespace: str
    spec: Spec
    request_id: str = ""
    digest: bytes = b""
    client_id: str = ""
    trace: Trace = NO_TRACE
    dependency_ids: tuple[str, ...] = ()
    dependency_conditions: tuple[Condition, ...] = ()
    dependency_keys: tuple[str, ...] = ()
    retry_of_task_id: str = ""
    submitter: str = ""


@dataclass(slots=True)
class TasksSubmitted:
    """Tasks arrived. ``ended`` says of dependencies that the store knows as terminal how they ended.

    ``known_requests`` maps (namespace, request id) to (task id, digest) as found in the store. Reply: a list with one
    `Accepted` or `Refused` per submission, or one `NeedTasks`. With ``atomic``, one refusal refuses all (the list
    then has a Refused for the bad ones and None for the others).
    """

    submissions: list[Submission]
    reply: ReplyTo
    atomic: bool = False
    ended: Ends = field(default_factory=dict)
    known_requests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)


class RunMember(NamedTuple):
    """One task of a graph. ``conditions`` and ``after_ids`` stand beside ``after_keys``.

    Empty ``conditions`` mean SUCCESS for all. An id in ``after_ids`` names a task by itself, the key is then only what
    its result is called; where it is empty, the key is one of the same run.
    """

    task_id: str
    key: str
    spec: Spec
    after_keys: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()
    after_ids: tuple[str, ...] = ()
    phase: int = 0
    milestone: str = ""


@dataclass(slots=True)
class RunSubmitted:
    """A graph arrived; `graph.check` found its shape right. Reply: Accepted, Refused or `NeedTasks`.

    ``ended`` says of tasks named in ``after_ids`` that the store knows as terminal how they ended.
    """

    run_id: str
    namespace: str
    title: str
    description: str
    members: list[RunMember]
    reply: ReplyTo
    request_id: str = ""
    digest: bytes = b""
    client_id: str = ""
    trace: Trace = NO_TRACE
    known_request: tuple[str, bytes] | None = None
    fails_fast: bool = False
    max_parallel: int = 0
    is_sequential: bool = False
    retry_of_run_id: str = ""
    submitter: str = ""
    ended: Ends = field(default_factory=dict)


@dataclass(slots=True)
class TasksAdded:
    """Tasks for a run that is not over. Reply: `Accepted` with ``run id/part number``, Refused or `NeedTasks`."""

    run_id: str
    namespace: str
    members: list[RunMember]
    reply: ReplyTo
    request_id: str = ""
    digest: bytes = b""
    parent_task_id: str = ""
    known_request: tuple[str, bytes] | None = None
    ended: Ends = field(default_factory=dict)


@dataclass(slots=True)
class RunCancelRequested:
    """Somebody wants what is open of a run cancelled. Reply: how many tasks that decides."""

    run_id: str
    message: str
    reply: ReplyTo


@dataclass(slots=True)
class CancelRequested:
    """Somebody wants these tasks cancelled. Reply: a list of `CancelVerdict`, one each."""

    task_ids: list[str]
    message: str
    reply: ReplyTo


@dataclass(slots=True)
class Answered:
    """Somebody resolves a wait; an empty ``key`` means the only open one. Reply: the key (str) or Refused.

    ``payload`` is the answer, a serialized Payload. A request for more time is granted ``granted_us``, or what it asks
    for when the answer ``agrees``. With ``refuses`` the wait ends without what it waited for; ``text`` says why.
    """

    task_id: str
    key: str
    payload: bytes
    reply: ReplyTo
    by: str = "person"
    granted_us: int = 0
    agrees: bool = False
    refuses: bool = False
    text: str = ""


class Ref(NamedTuple):
    """Names an attempt and proves the right to speak of it."""

    task_id: str
    attempt: int
    fence: int


class Held(NamedTuple):
    """An attempt that an agent says it holds."""

    ref: Ref
    state: AttemptState


class OutboxFacts(NamedTuple):
    """One outbox on an agent's disk: seqs ``first_seq`` to ``last_seq`` are held."""

    outbox_id: str
    first_seq: int
    last_seq: int


@dataclass(slots=True)
class SessionOpened:
    """An agent said hello. Reply: `SessionAccepted` or Refused; a session it supersedes gets an `EndSession`.

    ``boot_us`` is the time on its machine's boot clock when it said so, 0 when it does not tell.
    """

    agent_id: str
    machine_id: str
    instance_id: str
    instance_start_ms: int
    version: str
    host: str
    labels: dict[str, str]
    slots: int
    prefetch_credit: int
    parked_max: int
    held: list[Held]
    outboxes: list[OutboxFacts]
    reply: ReplyTo
    resources: dict[str, float] = field(default_factory=dict)
    task_types: tuple[str, ...] = ()
    runners: tuple[str, ...] = ()
    boot_id: str = ""
    previous_instance_id: str = ""
    store_id: str = ""
    coordinator_epoch: int = 0
    boot_us: int = 0


@dataclass(slots=True)
class HeartbeatReceived:
    """An agent lives. ``workers`` None in ``facts`` keeps the list known before."""

    agent_id: str
    epoch: int
    facts: HostFacts
    workers_changed: bool = False


@dataclass(slots=True)
class AttemptsAccepted:
    """The agent has these and will start them."""

    agent_id: str
    epoch: int
    refs: list[Ref]


@dataclass(slots=True)
class AttemptsReturned:
    """The agent gives these back unstarted: refused, or revoked on request when ``revoked``.

    ``by_policy``: it will never take them.
    """

    agent_id: str
    epoch: int
    refs: list[Ref]
    revoked: bool
    message: str = ""
    by_policy: bool = False


class WaitFacts(NamedTuple):
    """What the core needs of a BlockedReason, fields as in `model.Wait`."""

    key: str
    kind: str
    keeps_running: bool = False
    required_task_id: str = ""
    retry_us: int = 0
    system: str = ""
    claim: Claim | None = None
    additional_us: int = 0


class GivenAnswer(NamedTuple):
    """What one task answers another: fields as in `Answered`."""

    task_id: str
    key: str
    payload: bytes
    agrees: bool = False


class ReportKind:
    """Arms of WorkerMessage, by field number."""

    STARTED = 10
    PROGRESS = 11
    BLOCKED = 12
    UNBLOCKED = 13
    LOG = 14
    COMPLETED = 15
    FAILED = 16
    ANSWER_GIVEN = 17
    TAKEN = 18
    #: One that has stopped the coordinator twice: kept, and not looked at.
    QUARANTINED = -1


class Report(NamedTuple):
    """One WorkerMessage. ``body`` is the serialized arm (TaskError for FAILED); ``raw`` the whole, kept as evidence.

    ``wait`` is set for BLOCKED, ``given`` for ANSWER_GIVEN, ``text`` is the wait's key for UNBLOCKED and the error's
    message for FAILED. ``start`` is the time and the serialized Started that a terminal message carries when no Started
    came before it.
    """

    ref: Ref
    number: int
    time_us: int
    kind: int
    terminal: bool
    body: bytes
    text: str = ""
    reason: Reason = Reason.NONE
    recoverable: bool = False
    wait: WaitFacts | None = None
    start: tuple[int, bytes] | None = None
    given: GivenAnswer | None = None


@dataclass(slots=True)
class ReportsReceived:
    """Reports from one outbox, seqs from ``first_seq`` without gaps."""

    agent_id: str
    epoch: int
    outbox_id: str
    first_seq: int
    reports: list[Report]


@dataclass(slots=True)
class SessionEnded:
    """A stream ended: on purpose with ``goodbye``, otherwise contact is lost."""

    agent_id: str
    epoch: int
    goodbye: bool
    message: str = ""


class AgentOrder:
    """What an operator may ask of an agent."""

    PAUSE = "pause"
    RESUME = "resume"
    DRAIN = "drain"
    REMOVE = "remove"


@dataclass(slots=True)
class AgentOrdered:
    """An operator asks something of an agent (`AgentOrder`). Reply: True or Refused."""

    agent_id: str
    order: str
    reply: ReplyTo
    force: bool = False
    timeout_us: int = 0


@dataclass(slots=True)
class LimitDefined:
    """Somebody says what a limit is, or with ``definition`` None that its name means nothing special any more.

    Reply: True, or Refused (NOT_FOUND) when there is nothing to forget.
    """

    namespace: str
    key: str
    definition: Definition | None
    reply: ReplyTo


@dataclass(slots=True)
class BreakerReset:
    """An operator trusts an agent again, or only its work of one kind, or an outside system. Reply: True or Refused.

    One of ``agent_id`` and ``system`` is set; no ``kind`` means all of the agent's breakers.
    """

    agent_id: str
    kind: str
    system: str
    reply: ReplyTo


class End(NamedTuple):
    """How a task ended, and whose it is."""

    state: TaskState
    namespace: str


@dataclass(slots=True)
class OutcomesLoaded:
    """What the store says of tasks asked for by a `LoadOutcomes`: None for ids it does not have."""

    ends: dict[str, End | None]

    @classmethod
    def of(cls, states: dict[str, int | None], namespaces: dict[str, str]) -> OutcomesLoaded:
        """What was read of tasks, by id; those that are not over are left out."""
        ended = {task_id: state for task_id, state in states.items() if state is None or state in TERMINAL}
        return cls({key: End(TaskState(state), namespaces[key]) if state else None for key, state in ended.items()})


@dataclass(slots=True)
class PauseNoticed:
    """The coordinator itself stood still for so long (stopped, swapped out, suspended); comes before what it missed."""

    pause_us: int


@dataclass(slots=True)
class Ticked:
    """Time passed; timers that are due fire."""
