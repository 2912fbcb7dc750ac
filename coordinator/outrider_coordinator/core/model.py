"""The records the core decides over.

Hot records are mutable and slotted; only the modules of this package change them. ``body`` fields are serialized
protocol messages that the core passes on unread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from outrider_coordinator.core.limits.book import Holding
from outrider_coordinator.core.spec import Claim, Condition, Spec
from outrider_coordinator.core.states import (
    TERMINAL,
    Admin,
    AttemptState,
    Blame,
    BreakerState,
    Connectivity,
    Intent,
    Reason,
    TaskState,
)
from outrider_coordinator.core.trust.samples import Window

_CANCELLING, _ONLINE, _ACTIVE = TaskState.CANCELLING, Connectivity.ONLINE, Admin.ACTIVE


class Trace(NamedTuple):
    """W3C trace context of the submit; empty strings when nobody traces."""

    parent: str = ""
    state: str = ""


#: Nobody traces.
NO_TRACE = Trace()


class Cap(NamedTuple):
    """A bound on how many attempts run at once: of what kind, of which type, runner or run, and how many."""

    kind: str
    name: str
    most: int


@dataclass(slots=True)
class Attempt:
    """One try. It is *live* while it may still run and *unfenced* while its success would count.

    ``resources`` are what it takes of its agent's machine, as its task demands; ``victim_priority`` is its task's
    priority when it may be stopped for a more urgent one, -1 when not.
    ``holding`` is what it holds of limits and write scopes; None when that is nothing, as for most. ``caps`` are those
    that it counts against now.
    ``intent`` says why its agent was asked to stop it, NONE while nobody has. ``is_probe`` says that a breaker leased
    it when it was offered, ``blame`` who is held responsible for its end.
    """

    task_id: str
    number: int
    agent_id: str
    fence: int
    state: AttemptState
    offered_us: int
    prefetched: bool = False
    counted: bool = False
    started_us: int = 0
    ended_us: int = 0
    reason: Reason = Reason.NONE
    error: bytes = b""
    holds_slot: bool = True
    is_probe: bool = False
    revoke_sent: bool = False
    is_doubted: bool = False
    last_number: int = 0
    resources: tuple[tuple[str, float], ...] = ()
    victim_priority: int = -1
    holding: Holding | None = None
    caps: tuple[Cap, ...] = ()
    intent: Intent = Intent.NONE
    blame: Blame = Blame.NONE
    #: Task id and number: unique in the fleet.
    key: tuple[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.key = (self.task_id, self.number)


@dataclass(slots=True)
class Wait:
    """One wait of a task: open, resolved, or over its budget.

    ``kind`` is dependency, resource, external, complexity or clarification. ``body`` is the BlockedReason,
    ``resolution`` the Resolution, serialized. ``opened_us`` is when it was reported, ``expires_us`` the end of its
    budget, 0 for none; ``expired_on`` names the agent on which that came, ``moved_from`` those on which it came to
    earlier attempts that asked the same, in their order. ``additional_us`` is what a complexity wait
    asks for, ``granted_us`` what the task has been granted in all, this wait included.
    ``claim`` is what a resource wait is for, ``held_by`` the number of the attempt that got it, 0 while none did.
    """

    key: str
    kind: str
    body: bytes
    keeps_running: bool = False
    required_task_id: str = ""
    retry_us: int = 0
    resolution: bytes = b""
    dependency_state: int = 0
    is_open: bool = True
    opened_us: int = 0
    expires_us: int = 0
    expired_on: str = ""
    system: str = ""
    claim: Claim | None = None
    additional_us: int = 0
    granted_us: int = 0
    held_by: int = 0
    moved_from: tuple[str, ...] = ()

    @property
    def is_resolved(self) -> bool:
        """Whether an answer, the dependency's end or the retry time has come."""
        return bool(self.resolution) or self.dependency_state != 0

    @property
    def is_pending(self) -> bool:
        """Whether the attempt is waiting for it now."""
        return self.is_open and not self.is_resolved


@dataclass(slots=True)
class Task:
    """A task that is not terminal yet; terminal ones live in the store only.

    Most tasks wait for nothing and have one attempt: ``waiting_for`` is made when there is something to wait for.
    ``strays`` and ``waits`` are replaced when they change.
    ``dependency_conditions`` and ``dependency_keys`` stand beside ``dependency_ids``; empty means SUCCESS for all, and
    ids as the keys of the results. ``waiting_for`` has the condition of every dependency that has not ended, and the
    id of its own run while an earlier phase of that is not over.

    ``attempt`` is the try that counts now. ``strays`` are earlier tries on agents out of contact past their grace:
    unfenced, so that their success still wins. ``start_us`` and ``end_us`` are 0 until known. ``failed_on`` are the
    agents on which it failed by what may be its fault, ``refusals`` those whose own policy refuses it, with TaskErrors.
    ``rank_us`` and ``strand`` are its place in the queue, ``near_agent_id`` where its first dependency ran,
    ``victim_key`` the attempt that is being stopped for it.
    """

    id: str
    namespace: str
    spec: Spec
    order: int
    created_us: int
    state: TaskState
    reason: Reason = Reason.NONE
    run_id: str = ""
    run_key: str = ""
    client_id: str = ""
    submitter: str = ""
    request_id: str = ""
    digest: bytes = b""
    trace: Trace = NO_TRACE
    dependency_ids: tuple[str, ...] = ()
    dependency_conditions: tuple[Condition, ...] = ()
    dependency_keys: tuple[str, ...] = ()
    retry_of_task_id: str = ""
    waiting_for: dict[str, Condition] | None = None
    ready_us: int = 0
    attempts_made: int = 0
    attempts_counted: int = 0
    worker_deaths: int = 0
    start_us: int = 0
    end_us: int = 0
    attempt: Attempt | None = None
    strays: tuple[Attempt, ...] = ()
    waits: tuple[Wait, ...] = ()
    failed_on: tuple[str, ...] = ()
    refusals: tuple[tuple[str, bytes], ...] = ()
    progress: bytes = b""
    outcome: bytes = b""
    error: bytes = b""
    is_stored: bool = False
    caps: tuple[Cap, ...] = ()
    rank_us: int | None = None
    near_agent_id: str = ""
    victim_key: tuple[str, int] | None = None
    strand: Any = field(default=None, repr=False, compare=False)

    @property
    def is_plain(self) -> bool:
        """Whether another attempt may start though one may still run somewhere."""
        return not (self.spec.exclusive or self.spec.at_most_once)

    @property
    def is_terminal(self) -> bool:
        """Whether the outcome is decided."""
        return self.state in TERMINAL

    @property
    def cancel_requested(self) -> bool:
        """Whether a committed cancel decides the outcome."""
        return self.state is _CANCELLING

    def set_wait(self, wait: Wait) -> None:
        """Add a wait, or put it in place of the one with its key."""
        self.waits = (*(other for other in self.waits if other.key != wait.key), wait)

    def wait(self, key: str) -> Wait | None:
        """The wait with this key."""
        return next((wait for wait in self.waits if wait.key == key), None)

    def drop_stray(self, attempt: Attempt) -> None:
        """Forget an earlier try."""
        self.strays = tuple(stray for stray in self.strays if stray is not attempt)


@dataclass(slots=True)
class Milestone:
    """A named point of a run, reached once all of its tasks have succeeded; ``reached_us`` 0 before that."""

    task_count: int = 0
    succeeded_count: int = 0
    reached_us: int = 0


@dataclass(slots=True)
class Run:
    """A graph that is not over. ``members`` maps key to task id in the order added, ended tasks too.

    ``open_count`` tasks are not terminal yet. ``phases`` and ``milestone_of`` name only tasks of a phase above 0 and of
    a milestone; ``phase_open`` counts open tasks per phase once there is a second phase. ``part_count`` is how many
    times tasks were added, the submit included. A ``stop_reason`` means that every open task is being cancelled.
    """

    id: str
    namespace: str
    title: str
    description: str
    created_us: int
    open_count: int = 0
    members: dict[str, str] = field(default_factory=dict)
    part_count: int = 0
    request_id: str = ""
    digest: bytes = b""
    client_id: str = ""
    trace: Trace = NO_TRACE
    retry_of_run_id: str = ""
    fails_fast: bool = False
    max_parallel: int = 0
    is_sequential: bool = False
    stop_reason: Reason = Reason.NONE
    stop_message: str = ""
    phases: dict[str, int] = field(default_factory=dict)
    phase_open: dict[int, int] = field(default_factory=dict)
    milestone_of: dict[str, str] = field(default_factory=dict)
    milestones: dict[str, Milestone] = field(default_factory=dict)
    weight_total: float = 0.0
    weight_done: float = 0.0
    ended_us: int = 0
    submitter: str = ""

    @property
    def phase(self) -> int:
        """The lowest phase that is not over; 0 in a run without phases."""
        return min(self.phase_open, default=0)

    def phase_of(self, task_id: str) -> int:
        """The phase of a task."""
        return self.phases.get(task_id, 0)


@dataclass(slots=True)
class HostFacts:
    """What the last heartbeat said of the machine; ``workers`` is a tuple of serialized WorkerInfo."""

    free_slots: int = 0
    load_average: float = 0.0
    cpu_fraction: float = 0.0
    memory_fraction: float = 0.0
    outbox_pending: int = 0
    workers: tuple[bytes, ...] = ()
    is_leaving: bool = False


@dataclass(slots=True)
class Measured:
    """How one kind of work goes on one agent: averages over its last attempts, failures that speak against it."""

    duration_us: float = 0.0
    failure_rate: float = 0.0

    @property
    def cost_us(self) -> float:
        """Time per success; what only ever failed costs more than anything that did not."""
        if not self.duration_us:
            return 1e15 * (1 + self.failure_rate)
        return self.duration_us / max(0.05, 1 - self.failure_rate)


@dataclass(slots=True)
class Breaker:
    """Circuit breaker of an agent, of an agent for one kind of work, or of an outside system: whichever is named.

    ``failures`` are those in a row while it is CLOSED, ``successes`` those of probes while it is HALF_OPEN.
    ``opened_count`` is how often it opened since it was last CLOSED, ``reset_us`` when OPEN may become HALF_OPEN;
    what was offered since then has fences from ``opened_fence`` on. ``culprit`` is the task whose failure opened it,
    when that may still turn out to be the task's fault. ``probe`` is the attempt that it has leased, ``tested`` the
    last one that it had. ``window`` is None while nothing failed.
    """

    agent_id: str = ""
    kind: str = ""
    system: str = ""
    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    successes: int = 0
    opened_count: int = 0
    reset_us: int = 0
    opened_fence: int = 0
    culprit: str = ""
    probe: tuple[str, int] | None = None
    tested: tuple[str, int] | None = None
    window: Window | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Unique among all breakers."""
        return self.agent_id, self.kind, self.system

    @property
    def name(self) -> str:
        """For messages."""
        if self.system:
            return f"the breaker of system {self.system!r}"
        return f"the breaker of agent {self.agent_id!r}" + (f" for {self.kind!r}" if self.kind else "")


@dataclass(slots=True)
class System:
    """An outside system of which something is known to have failed.

    ``failing`` maps (task id, agent id) of a complaint to its time in us, the latest last. ``is_down``: its breaker has
    opened, and nobody who waits for it has been woken since.
    """

    breaker: Breaker
    failing: dict[tuple[str, str], int] = field(default_factory=dict)
    is_down: bool = False


@dataclass(slots=True)
class Agent:
    """An agent that registered once and was not removed. ``epoch`` is its current session, 0 when it has none.

    ``attempts`` maps (task id, attempt number) to every live attempt offered to it, strays too; ``ahead`` holds the
    prefetched ones among them that hold no slot yet, oldest first, ``resuming`` parked ones that were answered and take
    the next slots. ``applied`` maps outbox id to the last applied seq. ``replaying`` maps outbox id to the last seq
    that its Hello named, until that is applied, and may be None; attempts in ``unlisted`` were expected but not named
    in Hello, and count as lost once nothing is left to replay. ``type_breakers`` has those kinds of work for which
    something counts against it; ``charged_us`` is the latest silence that does. ``heartbeat_us`` is the interval that
    its session was given, ``lease_us`` when a lease was sent to it last, ``unlisted_over_us`` when every lease is over
    under which attempts may run that it does not list. Of attempts with a fence below ``first_fence`` its process knows
    nothing. ``is_unsure``: a restored store may have forgotten what it reported; ``unheard`` are then those that wait
    for something, maybe without our knowing. ``strayed`` are attempts that had started and went elsewhere while it was
    out of contact; nobody knows yet whether they took its machine down. ``takeovers`` are the times when another
    process took its name, of which too many make it ``is_quarantined``. ``pressure`` is what sorts agents of equal load
    (see `strategies`), ``turn`` the count of offers in the fleet at its last one, ``reaches`` where it stands in the
    indexes of the fleet (`fleet.Reach`). ``takes_work`` follows from four other facts: whoever changes one calls
    `settle`.
    """

    id: str
    machine_id: str
    connectivity: Connectivity = Connectivity.LEFT
    admin: Admin = Admin.ACTIVE
    breaker: Breaker = field(default_factory=Breaker)
    labels: dict[str, str] = field(default_factory=dict)
    resources: dict[str, float] = field(default_factory=dict)
    resources_used: dict[str, float] = field(default_factory=dict)
    task_types: tuple[str, ...] = ()
    runners: tuple[str, ...] = ()
    slots: int = 0
    prefetch_credit: int = 0
    parked_max: int = 0
    version: str = ""
    host: str = ""
    instance_id: str = ""
    instance_start_ms: int = 0
    hello_boot_us: int = 0
    epoch: int = 0
    session_start_us: int = 0
    last_heard_us: int = 0
    suspect_us: int = 0
    slots_used: int = 0
    parked: int = 0
    pressure: int = 0
    latency_us: float = 0.0
    turn: int = 0
    measured: dict[str, Measured] = field(default_factory=dict)
    succeeded_count: int = 0
    failed_count: int = 0
    facts: HostFacts = field(default_factory=HostFacts)
    attempts: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    ahead: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    resuming: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    applied: dict[str, int] = field(default_factory=dict)
    replaying: dict[str, int] | None = None
    unlisted: list[tuple[str, int]] = field(default_factory=list)
    silence_timer_is_set: bool = False
    type_breakers: dict[str, Breaker] = field(default_factory=dict)
    charged_us: int = 0
    heartbeat_us: int = 0
    lease_us: int = 0
    unlisted_over_us: int = 0
    boot_id: str = ""
    first_fence: int = 0
    has_rebooted: bool = False
    is_unsure: bool = False
    unheard: list[tuple[str, int]] = field(default_factory=list)
    strayed: list[tuple[str, int]] = field(default_factory=list)
    is_quarantined: bool = False
    takeovers: list[int] = field(default_factory=list)
    drain_us: int = 0
    reaches: list[Any] = field(default_factory=list, repr=False, compare=False)
    takes_work: bool = field(init=False)

    def __post_init__(self) -> None:
        self.breaker.agent_id = self.id
        self.settle()

    def settle(self) -> None:
        """Find out whether it takes work at all: it is there, active, stays, and is not in quarantine."""
        is_there = self.connectivity is _ONLINE and self.admin is _ACTIVE
        self.takes_work = is_there and not (self.facts.is_leaving or self.is_quarantined)

    @property
    def prefetched(self) -> int:
        """Attempts sent ahead of a slot."""
        return len(self.ahead)

    @property
    def free_slots(self) -> int:
        """Slots that a new attempt could take now."""
        return max(0, self.slots - self.slots_used)

    @property
    def is_online(self) -> bool:
        """Whether a session is there to push to."""
        return self.connectivity is _ONLINE
