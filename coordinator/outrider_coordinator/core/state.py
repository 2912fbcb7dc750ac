"""Everything the core remembers between two steps, and the few operations that keep its indexes true."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from outrider_coordinator.core.agents.watch import Watch
from outrider_coordinator.core.attempts.retry_budget import RetryBudget
from outrider_coordinator.core.chance import Chance
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.limits.book import LimitBook
from outrider_coordinator.core.limits.cap_claims import claims_of
from outrider_coordinator.core.model import Agent, Attempt, Breaker, Cap, Run, System, Task
from outrider_coordinator.core.placement.fleet import Fleet
from outrider_coordinator.core.placement.queue import ReadyQueue
from outrider_coordinator.core.records import InsertEvent
from outrider_coordinator.core.runs.errands import Errand
from outrider_coordinator.core.runs.requests import RequestIndex
from outrider_coordinator.core.schedules.book import ScheduleBook
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.states import AttemptState, EventType, Reason, TaskState
from outrider_coordinator.core.transitions import TASK_STEPS
from outrider_coordinator.core.trust.samples import Tally

KINDS_MAX = 10_000

_QUEUED, _ASSIGNED = TaskState.QUEUED, TaskState.ASSIGNED
_OFFERED, _NO_REASON = AttemptState.OFFERED, Reason.NONE
#: Makes a NamedTuple of a tuple, without the call and the checks of its `_make`.
_new = tuple.__new__


class TimerKind(IntEnum):
    """What a timer is for.

    Its two keys are a task id and an attempt number or wait key, or an agent id; those of BREAKER are an agent id (none
    for an outside system) and the kind of work or the system, those of LIMIT a namespace and a name. SCHEDULE has none.
    """

    READY = 1
    QUEUE_TIMEOUT = 2
    GRACE = 4
    WAIT = 5
    SILENCE = 6
    LOST = 7
    BREAKER = 8
    DEADLINE = 9
    LIMIT = 10
    PROBE = 11
    ALARM = 12
    DRAIN = 13
    WAIT_BUDGET = 20
    SCHEDULE = 30
    DEADLOCK = 21


Timer = tuple[int, int, TimerKind, str, str]


@dataclass(slots=True)
class State:
    """The coordinator's memory. ``first_epoch`` is what ``epoch`` was when it began.

    ``tasks`` are those not terminal yet. ``dependents`` maps a task to those that depend on it, ``waiters`` to the
    (task id, wait key) pairs of attempts that wait for its end, ``system_waiters`` an outside system to those that wait
    for it. ``durations_us`` holds a moving average of the running time per kind of work. ``offers`` are the attempts
    that may not have reached their agents, each with the time when that is doubted, the next one first: one queue
    instead of a timer each. ``counts`` is indexed by state. ``open_of`` counts the tasks of each submitter that has a
    name. ``opened_waits`` are tasks with a new wait, to be looked at for deadlocks at the end of the step. ``probes``
    maps (task id, attempt number) to the breakers that lease it; ``tallies`` compare agents by kind of work. ``random``
    is the only source of chance: the same seed and events make the same decisions.
    """

    settings: CoreSettings
    epoch: int
    first_epoch: int
    started_us: int
    now_us: int
    requests: RequestIndex
    random: Chance
    store_id: str = ""
    tasks: dict[str, Task] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    queue: ReadyQueue = field(default_factory=ReadyQueue)
    fleet: Fleet = field(default_factory=Fleet)
    watch: Watch = field(default_factory=Watch)
    retries: RetryBudget = field(init=False)
    limits: LimitBook = field(default_factory=LimitBook)
    capped: dict[Cap, int] = field(default_factory=dict)
    schedules: ScheduleBook = field(default_factory=ScheduleBook)
    dependents: dict[str, list[str]] = field(default_factory=dict)
    waiters: dict[str, dict[tuple[str, str], None]] = field(default_factory=dict)
    system_waiters: dict[str, dict[tuple[str, str], None]] = field(default_factory=dict)
    durations_us: dict[str, float] = field(default_factory=dict)
    errands: deque[Errand] = field(default_factory=deque)
    timers: list[Timer] = field(default_factory=list)
    systems: dict[str, System] = field(default_factory=dict)
    probes: dict[tuple[str, int], list[Breaker]] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    offers: deque[tuple[int, Attempt]] = field(default_factory=deque)
    counts: list[int] = field(default_factory=lambda: [0] * (max(TaskState) + 1))
    open_of: dict[str, int] = field(default_factory=dict)
    order_next: int = 1
    cursor_next: int = 1
    fence_next: int = 1
    session_next: int = 1
    timer_next: int = 1
    ended_count: int = 0
    placement_is_due: bool = False
    has_caps: bool = False
    opened_waits: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.retries = RetryBudget(self.settings.retry_floor)

    def count(self, task_state: TaskState) -> int:
        """Tasks in memory in this state."""
        return self.counts[task_state]

    def set_timer(self, due_us: int, kind: TimerKind, key: str, key2: str = "") -> None:
        """Ask for a timer; it is never cancelled, whoever handles it checks whether it still matters."""
        heapq.heappush(self.timers, (due_us, self.timer_next, kind, key, key2))
        self.timer_next += 1

    def offered(self, attempt: Attempt) -> None:
        """Doubt after the accept timeout whether an offer arrived."""
        self.offers.append((self.now_us + self.settings.accept_timeout_us, attempt))

    def take_doubtful_offers(self, most: int) -> list[Attempt]:
        """The first offers that nothing was heard of in time; those that something was heard of are forgotten."""
        doubtful, offers = [], self.offers
        while offers and (offers[0][1].state is not _OFFERED or offers[0][0] <= self.now_us):
            attempt = offers.popleft()[1]
            if attempt.state is _OFFERED:
                doubtful.append(attempt)
                if len(doubtful) == most:
                    break
        return doubtful

    def take_due_timers(self, most: int) -> list[Timer]:
        """The first timers due by now, in order."""
        due: list[Timer] = []
        while self.timers and self.timers[0][0] <= self.now_us and len(due) < most:
            due.append(heapq.heappop(self.timers))
        return due

    def next_fence(self) -> int:
        """A token never given before, by this start of the coordinator or an earlier one."""
        self.fence_next += 1
        return self.fence_next - 1

    def next_session(self) -> int:
        """A session epoch never given before."""
        self.session_next += 1
        return self.session_next - 1

    def add_task(self, task: Task) -> None:
        """Take a new task in; its state stays what it is."""
        self.tasks[task.id] = task
        self.counts[task.state] += 1
        if task.submitter:
            self.count_of(task.submitter, 1)
        self.give_caps(task, self.runs.get(task.run_id))

    def count_of(self, submitter: str, change: int) -> None:
        """So many open tasks of a submitter more, or fewer."""
        count = self.open_of.get(submitter, 0) + change
        if count:
            self.open_of[submitter] = count
        else:
            del self.open_of[submitter]

    def room_of(self, submitter: str) -> int:
        """How many more tasks a submitter may have open now; none or less: no more."""
        room = self.settings.queue_depth_max - len(self.tasks)
        if submitter:
            return min(room, self.settings.submitter_open_max - self.open_of.get(submitter, 0))
        return room

    def give_caps(self, task: Task, run: Run | None) -> None:
        """Let a task that comes in count against the caps there are, and its run's own."""
        run_max = run.max_parallel if run is not None else 0
        if self.has_caps or run_max:
            task.caps = claims_of(self.settings, task, run_max)

    def move(self, task: Task, to: TaskState, effects: Effects, reason: Reason = Reason.NONE) -> None:
        """Take a task to another state, keeping counts and queue true."""
        was = task.state
        if was is to:
            return
        assert to in TASK_STEPS[was], f"task {task.id}: {was.name} -> {to.name} is no step"
        task.state, task.reason = to, reason
        self.counts[was] -= 1
        self.counts[to] += 1
        if was is _QUEUED:
            self.queue.remove(task)
            if to is not _ASSIGNED and (task.spec.demands.claims or task.spec.demands.scopes):
                self.limits.is_changed = self.placement_is_due = True  # what was kept for it is free
        elif to is _QUEUED:
            self.queue.push(task)
            self.placement_is_due = True
            if self.queue.held and task.strand.group.is_held and task.spec.priority > task.strand.group.held_at:
                self.limits.is_changed = True  # it may go before those for whom something is kept
        effects.tasks[task.id] = task

    def event(
        self,
        effects: Effects,
        kind: EventType,
        task: Task,
        attempt: Attempt | None = None,
        *,
        reason: Reason = Reason.NONE,
        text: str = "",
        body: bytes = b"",
        outcome: bytes = b"",
    ) -> None:
        """Append to the event log; the cursor is given here, so cursor order is step order and commit order."""
        cursor = self.cursor_next
        self.cursor_next = cursor + 1
        number, agent_id = (0, "") if attempt is None else (attempt.number, attempt.agent_id)
        effects.events.append(
            _new(
                InsertEvent,
                (
                    cursor,
                    kind._value_,
                    self.now_us,
                    task.namespace,
                    task.id,
                    task.run_id,
                    task.client_id,
                    number,
                    agent_id,
                    reason._value_,
                    text,
                    body,
                    outcome,
                ),
            )
        )

    def run_event(self, effects: Effects, kind: EventType, run: Run, text: str = "", task_id: str = "") -> None:
        """Append an event about a run."""
        about = (self.now_us, run.namespace, task_id, run.id, run.client_id)
        effects.events.append(InsertEvent(self.cursor_next, int(kind), *about, text=text))
        self.cursor_next += 1

    def agent_event(
        self, effects: Effects, kind: EventType, agent_id: str, *, reason: Reason = Reason.NONE, text: str = ""
    ) -> None:
        """Append an event about an agent."""
        effects.events.append(
            InsertEvent(self.cursor_next, int(kind), self.now_us, agent_id=agent_id, reason=int(reason), text=text)
        )
        self.cursor_next += 1

    def learn_duration(self, kind: str, duration_us: int) -> None:
        """Move the average of a kind of work by a fifth towards one more sample."""
        known = self.durations_us.get(kind)
        if known is None and len(self.durations_us) >= KINDS_MAX:
            return
        self.durations_us[kind] = duration_us if known is None else known + 0.2 * (duration_us - known)
