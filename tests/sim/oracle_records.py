"""Judges what is committed, step by step, by the protocol: lives of tasks and attempts, places, cursors.

Written from the protocol. It reads records and the TaskSpec they carry; of the core it uses nothing but the names of
the records' fields. A step is judged as a whole: rows in it are snapshots of its end.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

from outrider.v1 import task_pb2 as pb
from outrider_coordinator.core import records
from sim.oracle_limits import LimitJudge
from sim.oracle_runs import SUCCESS, Edge, RunJudge
from sim.oracle_schedules import MARK, ScheduleJudge
from sim.verdicts import Marks

PENDING, QUEUED, ASSIGNED, RUNNING, BLOCKED, CANCELLING = 1, 2, 3, 4, 5, 6
SUCCEEDED, FAILED, CANCELLED, EXPIRED, SKIPPED = 7, 8, 9, 10, 11
TERMINAL = frozenset((SUCCEEDED, FAILED, CANCELLED, EXPIRED, SKIPPED))
OFFERED, ACCEPTED, STARTED, A_BLOCKED, CLOSED, REJECTED, REVOKED, LOST, FENCED = range(1, 10)
LIVE = frozenset((OFFERED, ACCEPTED, STARTED, A_BLOCKED))
OVER = frozenset((CLOSED, REJECTED, REVOKED, FENCED))
ONLINE, ACTIVE, BREAKER_OPEN, BREAKER_HALF_OPEN = 1, 1, 2, 3
OPEN_WAITS_MAX = 256
#: A queue of this depth is never full here.
AMPLE = 10_000
_SKIPPED_EVENT, _REMOVED_EVENT, _RESUMED_EVENT, QUARANTINED_EVENT = 14, 51, 57, 62


class TaskView:
    """A task as committed: its spec as submitted, its attempts by number."""

    __slots__ = ("attempts", "body", "cancel_is_promised", "counted", "created_us", "edges", "error", "id", "outcome")
    __slots__ += ("reason", "run_id", "skips", "spec", "state", "submitter", "waits", "was_over")

    def __init__(self, row: records.InsertTask) -> None:
        self.id, self.run_id, self.created_us = row.id, row.run_id, row.created_us
        self.submitter = row.submitter
        self.spec = pb.TaskSpec.FromString(row.body)
        conditions = row.dependency_conditions or (SUCCESS,) * len(row.dependency_ids)
        self.edges = tuple(map(Edge, row.dependency_ids, conditions))
        self.was_over = False
        self.waits: set[str] = set()
        self.attempts: dict[int, records.PutAttempt] = {}
        self.cancel_is_promised = False
        self.skips = 0
        self.update(row)

    def update(self, row: records.InsertTask | records.UpdateTask) -> None:
        """As it is now."""
        self.state, self.reason, self.outcome, self.error = row.state, row.reason, row.outcome, row.error
        self.counted = row.attempts_counted

    def live(self) -> list[records.PutAttempt]:
        """Attempts that may run and would count."""
        return [attempt for attempt in self.attempts.values() if attempt.state in LIVE]


class RecordJudge:
    """Everything committed so far."""

    def __init__(self, marks: Marks, settings: Any) -> None:
        self.marks = marks
        self._settings = settings
        self.tasks: dict[str, TaskView] = {}
        self.agents: dict[str, records.PutAgent] = {}
        #: Names that several processes took from each other, until somebody resumes them.
        self.quarantined: set[str] = set()
        #: Requests that were carried out, each once.
        self.requests: set[tuple[str, str]] = set()
        self.breakers: dict[tuple[str, str, str], records.PutBreaker] = {}
        #: Attempts offered since a breaker became HALF_OPEN, by its key.
        self.probes: dict[tuple[str, str, str], list[tuple[str, int]]] = {}
        self.outboxes: dict[tuple[str, str], int] = {}
        #: The same, also of agents that were removed since.
        self.applied_once: dict[tuple[str, str], int] = {}
        self.evidence: set[tuple[str, str, int]] = set()
        self.live_by_agent: dict[str, set[tuple[str, int]]] = {}
        self.open_count = 0
        self.open_of: Counter[str] = Counter()
        self.limits = LimitJudge(marks)
        self.runs = RunJudge(marks, self.tasks)
        self.schedules = ScheduleJudge(marks, self, has_room=settings.queue_depth_max >= AMPLE)
        self.cursor = 0

    def durable(self, rows: Sequence[Any], now_us: int) -> list[records.PutAttempt]:
        """A step became durable that was made at ``now_us``. Returns attempts that it made."""
        touched: dict[str, TaskView] = {}
        made: list[records.PutAttempt] = []
        lost: list[tuple[records.PutAttempt, records.PutAttempt]] = []
        for row in rows:
            kind = type(row)
            if kind is records.InsertEvent:
                self._event(row)
            elif kind is records.UpdateTask or kind is records.InsertTask:
                touched[row.id] = self._task(row)
            elif kind is records.PutAttempt:
                self._attempt(row, touched, made, lost)
            else:
                self._other(row)
        self.schedules.entered(rows)
        self.runs.entered(rows)
        for view in touched.values():
            self._judge_task(view)
        for attempt in made:
            self._judge_offer(attempt)
        self.limits.judge(now_us)
        self.runs.stepped(touched, made, [row for row in rows if type(row) is records.InsertEvent])
        self.schedules.stepped(rows, now_us)
        for view in touched.values():
            view.was_over = view.state in TERMINAL
        return made

    # --- backups ---------------------------------------------------------------------------------------------------

    def copy(self) -> RecordJudge:
        """As it is now, for a backup; what people have asked for is one for all copies."""
        shared = (self.marks, self.runs.wanted, self.schedules.requests, self.schedules.paused)
        return copy.deepcopy(self, {id(one): one for one in shared})

    def become(self, backup: RecordJudge) -> None:
        """The disk is as it was when this copy was made."""
        known = self.schedules
        self.__dict__.update(backup.copy().__dict__)
        self.schedules.clock_is_as(known)

    # --- rows ------------------------------------------------------------------------------------------------------

    def _event(self, row: records.InsertEvent) -> None:
        self.marks.demand("I19", row.cursor == self.cursor + 1, "cursor {} follows {}", row.cursor, self.cursor)
        self.cursor = row.cursor
        if row.type == QUARANTINED_EVENT:
            self.marks.saw("saw:agent quarantined")
            self.quarantined.add(row.agent_id)
        elif row.type in (_REMOVED_EVENT, _RESUMED_EVENT):
            self.quarantined.discard(row.agent_id)
        if row.type == _SKIPPED_EVENT:
            view = self.tasks.get(row.task_id)
            if view is not None:
                view.skips += 1
                self.marks.demand("I18", view.skips == 1, "task {} is skipped twice", row.task_id)

    def _requested(self, row: records.InsertTask | records.PutRun) -> None:
        """A request is carried out once, however often it is sent."""
        key = row.namespace, row.request_id
        if row.request_id and not row.request_id.startswith(MARK):
            self.marks.demand("once", key not in self.requests, "request {} is carried out again, as {}", *key, row.id)
            self.requests.add(key)

    def _task(self, row: Any) -> TaskView:
        view = self.tasks.get(row.id)
        if view is None:
            self.marks.demand("I6", type(row) is records.InsertTask, "task {} is updated and not there", row.id)
            self._requested(row)
            view = self.tasks[row.id] = TaskView(row)
            self.open_count += row.state not in TERMINAL
            self.open_of[row.submitter] += row.state not in TERMINAL
            full = self.open_count > self._settings.queue_depth_max
            self.marks.demand("I16", not full, "task {} is accepted as one of {}", row.id, self.open_count)
            if row.submitter:
                count = self.open_of[row.submitter]
                fits = count <= self._settings.submitter_open_max
                self.marks.demand("I16", fits, "task {} is one of {} of {}", row.id, count, row.submitter)
            return view
        was = view.state
        if was in TERMINAL:
            same = (was, view.reason, view.outcome, view.error) == (row.state, row.reason, row.outcome, row.error)
            self.marks.demand("I1", same, "task {} changes from {} to {}", row.id, was, row.state)
        else:
            self.open_count -= row.state in TERMINAL
            self.open_of[view.submitter] -= row.state in TERMINAL
        if was == CANCELLING:
            kept = row.state in (CANCELLING, CANCELLED)
            self.marks.demand("I14", kept, "task {} goes from CANCELLING to {}", row.id, row.state)
        view.update(row)
        return view

    def _attempt(self, row: records.PutAttempt, touched: dict[str, TaskView], made: Any, lost: Any) -> None:
        demand = self.marks.demand
        view = self.tasks[row.task_id]
        touched[row.task_id] = view
        known = view.attempts.get(row.number)
        if known is None:
            last = max(view.attempts, default=0)
            demand("I3", row.number == last + 1, "task {}: attempt {} follows {}", row.task_id, row.number, last)
            newer = not last or row.fence > view.attempts[last].fence
            demand("I17", newer, "task {}: attempt {} has an older fence", row.task_id, row.number)
            made.append(row)
        else:
            same = (known.fence, known.agent_id) == (row.fence, row.agent_id)
            demand("I4", same, "attempt {}/{} changes agent or fence", row.task_id, row.number)
            changed = known.state in OVER and row.state != known.state
            demand("I1", not changed, "attempt {}/{} goes {} -> {}", *row[:2], known.state, row.state)
        view.attempts[row.number] = row
        live = self.live_by_agent.setdefault(row.agent_id, set())
        if row.state in LIVE:
            live.add(row[:2])
        else:
            live.discard(row[:2])
        self.limits.attempt(view.spec, row, is_live=row.state in LIVE, is_new=known is None)

    def _other(self, row: Any) -> None:
        if isinstance(row, records.PutAgent):
            self.agents[row.id] = row
        elif isinstance(row, records.PutOutbox):
            key = (row.agent_id, row.outbox_id)
            was = self.outboxes.get(key, 0)
            self.marks.demand("I5", row.applied_seq >= was, "outbox {} goes back {} -> {}", key, was, row.applied_seq)
            self.outboxes[key] = row.applied_seq
            self.applied_once[key] = max(row.applied_seq, self.applied_once.get(key, 0))
        elif isinstance(row, records.PutBreaker):
            known = self.breakers.get(row[:3])
            self.breakers[row[:3]] = row
            if row.state == BREAKER_HALF_OPEN and (known is None or known.state != BREAKER_HALF_OPEN):
                self.probes[row[:3]] = []
        elif isinstance(row, records.PutRun):
            if row.id not in self.runs.runs:
                self._requested(row)
        elif isinstance(row, records.PutEpoch):
            self.marks.saw("saw:epoch risen")
        elif isinstance(row, records.DeleteBreaker):
            self.breakers.pop(row[:3], None)
        elif isinstance(row, records.PutLimit | records.DeleteLimit):
            self.limits.define(row)
        elif isinstance(row, records.PutWait):
            self._wait(row)
            attempt = self.tasks[row.task_id].attempts.get(row.held_by)
            self.limits.wait(row, is_live=attempt is not None and attempt.state in LIVE)
        elif isinstance(row, records.DeleteAgent):
            self.agents.pop(row.id, None)
            self.breakers = {key: known for key, known in self.breakers.items() if key[0] != row.id}
            self.outboxes = {key: seq for key, seq in self.outboxes.items() if key[0] != row.id}
            self.evidence = {key for key in self.evidence if key[0] != row.id}
        elif isinstance(row, records.InsertEvidence):
            key3 = (row.agent_id, row.outbox_id, row.seq)
            self.marks.demand("I5", key3 not in self.evidence, "report {} is kept twice", key3)
            self.evidence.add(key3)

    # --- the end of a step -----------------------------------------------------------------------------------------

    def _judge_task(self, view: TaskView) -> None:
        demand = self.marks.demand
        live = view.live()
        demand("I2", len(live) <= 1, "task {} has {} live attempts", view.id, len(live))
        if view.state in TERMINAL:
            demand("I15", not live, "task {} is over and attempt {} lives", view.id, live and live[0].number)
        counted = sum(attempt.counted for attempt in view.attempts.values())
        demand("I3", counted == view.counted, "task {} counts {} tries, {} are", view.id, view.counted, counted)
        allowed = view.spec.retry.max_attempts
        if allowed:
            demand("I3", counted <= allowed, "task {} counts {} tries of {}", view.id, counted, allowed)
        if view.cancel_is_promised and view.state in TERMINAL:
            demand("I14", view.state == CANCELLED, "task {} ends {} after its cancel", view.id, view.state)

    def is_known(self, task_id: str, attempt: int, fence: int) -> bool:
        """Whether an attempt is durable, with this fence."""
        view = self.tasks.get(task_id)
        row = view.attempts.get(attempt) if view is not None else None
        return row is not None and row.fence == fence

    def is_started(self, task_id: str, attempt: int, fence: int) -> bool:
        """Whether it is durable that an attempt with this fence has begun."""
        return self.is_known(task_id, attempt, fence) and self.tasks[task_id].attempts[attempt].started_us > 0

    def holds(self, view: TaskView) -> bool:
        """Whether everything that a task comes after has ended as asked, as committed."""
        return self.runs.holds(view)

    def _judge_offer(self, attempt: records.PutAttempt) -> None:
        demand = self.marks.demand
        view, agent = self.tasks[attempt.task_id], self.agents.get(attempt.agent_id)
        name = f"attempt {attempt.task_id}/{attempt.number}"
        demand("I9", self.holds(view), "{} is offered before its dependencies hold", name)
        demand("I14", not view.cancel_is_promised, "{} is offered after the cancel", name)
        self._judge_time(view, attempt, name)
        if agent is None:
            demand("I10", False, "{} is offered to {}, which nobody knows", name, attempt.agent_id)
            return
        demand("I10", agent.connectivity == ONLINE, "{} is offered to {}, not online", name, agent.id)
        demand("I10", agent.admin == ACTIVE, "{} is offered to {}, admin {}", name, agent.id, agent.admin)
        demand("I10", agent.id not in self.quarantined, "{} is offered to {}, in quarantine", name, agent.id)
        live = [self.tasks[key[0]].attempts[key[1]] for key in sorted(self.live_by_agent[agent.id])]
        self._judge_trust(agent, attempt, view, name)
        self._judge_caps(view, name)
        self._judge_room(agent, attempt, live, name)

    def _judge_time(self, view: TaskView, attempt: records.PutAttempt, name: str) -> None:
        """No time is left to begin after the deadline, nor to begin for the first time after the queue timeout."""
        age_us = attempt.offered_us - view.created_us
        for bound, is_meant in (("deadline_duration", True), ("queue_timeout", attempt.number == 1)):
            if is_meant and view.spec.HasField(bound):
                bound_us = getattr(view.spec, bound).ToMicroseconds()
                self.marks.demand(
                    "ends", age_us <= bound_us, "{} is offered at {} us, {} {}", name, age_us, bound, bound_us
                )

    def _judge_trust(self, agent: Any, attempt: records.PutAttempt, view: TaskView, name: str) -> None:
        """Nothing goes where a breaker is OPEN, and one probe at a time where it is HALF_OPEN."""
        kind = kind_of(view.spec)
        keys = [(agent.id, "", ""), (agent.id, kind, "")]
        for key in keys:
            known = self.breakers.get(key)
            if known is None:
                continue
            self.marks.demand("I10", known.state != BREAKER_OPEN, "{} is offered, and {} is OPEN", name, key)
            if known.state == BREAKER_HALF_OPEN:
                since = self.probes[key] = [one for one in self.probes[key] if self._is_probing(one, attempt)]
                self.marks.demand("I10", not since, "{} is offered beside the probe {} of {}", name, since, key)
                since.append(attempt[:2])

    def _judge_caps(self, view: TaskView, name: str) -> None:
        """No more run or are about to than the fleet, and this type of work, may."""
        most, kinds = self._settings.running_max, self._settings.type_running_max
        if not most and not kinds:
            return
        kind, busy, alike = kind_of(view.spec), 0, 0
        for key in (key for live in self.live_by_agent.values() for key in live):
            other = self.tasks[key[0]]
            if other.attempts[key[1]].state != A_BLOCKED:
                busy += 1
                alike += kind_of(other.spec) == kind
        self.marks.saw("saw:cap looked at")
        self.marks.demand("I16", not most or busy <= most, "{} is one of {} in the fleet", name, busy)
        self.marks.demand("I16", alike <= kinds.get(kind, alike), "{} is one of {} of its type", name, alike)

    def _wait(self, row: records.PutWait) -> None:
        """A task has a bounded number of open waits."""
        waits = self.tasks[row.task_id].waits
        if row.is_open and not row.resolution and not row.dependency_state:
            waits.add(row.key)
        else:
            waits.discard(row.key)
            if row.resolution and row.is_open and len(waits) >= OPEN_WAITS_MAX:
                self.marks.saw("saw:wait too many refused")
        good = len(waits) <= OPEN_WAITS_MAX
        self.marks.demand("I16", good, "task {} has {} open waits", row.task_id, len(waits))

    def _is_probing(self, probe: tuple[str, int], newer: records.PutAttempt) -> bool:
        """A probe keeps others out while it lives, and for its time at most."""
        row = self.tasks[probe[0]].attempts[probe[1]]
        return row.state in LIVE and newer.offered_us - row.offered_us < self._settings.probe_time_us

    def _judge_room(self, agent: Any, attempt: records.PutAttempt, live: list[records.PutAttempt], name: str) -> None:
        """Attempts that may run now, and those sent ahead."""
        unparked = [one for one in live if one.state != A_BLOCKED]
        parked = sum(one.state == A_BLOCKED and not one.holds_slot for one in live)
        self.marks.demand("I16", parked <= agent.parked_max, "{} attempts are parked on {}", parked, agent.id)
        room = agent.slots + agent.prefetch_credit
        self.marks.demand("I11", len(unparked) <= room, "{} is one of {} on {}", name, len(unparked), agent.id)
        if not attempt.prefetched:
            busy = sum(not one.prefetched for one in unparked)
            self.marks.demand("I11", busy <= agent.slots, "{} makes {} on {} slots", name, busy, agent.slots)


def kind_of(spec: Any) -> str:
    """The type of a task's work: as it says, else its function or its program."""
    return str(spec.type or spec.function.function or spec.command.argv[0])
