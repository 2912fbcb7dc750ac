"""Judges schedules on committed records: each time submits once or is skipped and counted, in order, and on time.

Written from `docs/schedules.md`. A time is known from the request id of the work that it submitted, which names the
schedule and the time in microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outrider.v1 import schedule_service_pb2 as pb
from outrider_coordinator.core import records
from sim.oracle_runs import TERMINAL, wanted_of
from sim.verdicts import Marks

MARK = "schedule:"
SKIP, ALLOW, QUEUE, REPLACE, MISSED_SKIP, MISSED_ALL = 1, 2, 3, 4, 1, 3
CANCELLING = 6
LATE_US, PUNCTUAL_US = 60_000_000, 2_000_000
#: A step of more means that the clock was wrong; several that are seen at once count together.
WRONG_US = 3600 * 1_000_000
#: How long it may take until a wall clock that was set is looked at, in a process that was stopped meanwhile, too.
NOTICED_US = 8_000_000
DAY_US, NEVER_US = 24 * 3600 * 1_000_000, 1 << 62


class ScheduleView:
    """One schedule as committed, from the time when it was made or put in place of another."""

    def __init__(self, row: records.PutSchedule) -> None:
        self.row = row
        self.spec = pb.ScheduleSpec.FromString(row.body)
        #: As it was when it was made: a time after that counts.
        self.first = row
        self.fired: list[int] = []
        self.uncounted = 0
        #: No time was ever passed over without being counted: it was not paused.
        self.is_strict = not row.is_paused


class ScheduleJudge:
    """All schedules as committed, and what people asked for."""

    def __init__(self, marks: Marks, record_judge: Any, *, has_room: bool) -> None:
        self.schedules: dict[str, ScheduleView] = {}
        self._marks = marks
        self._records = record_judge
        self.is_steady = True
        #: The wall clock was so far off that calendars began anew: a time may come a second time.
        self.was_wrong = False
        self.wall_offset_us = self.stepped_us = 0
        #: Nobody is turned away for want of room; otherwise a time for which there was none is tried again later.
        self.has_room = has_room
        self.requests: dict[str, list[pb.ScheduleSpec]] = {}
        #: Schedules that somebody ever had paused.
        self.paused: set[str] = set()
        self._seen: set[str] = set()
        #: Schedule, time and id of what was submitted in the step that is judged.
        self._works: list[tuple[str, int, str]] = []

    def asked(self, spec: pb.ScheduleSpec) -> None:
        """Somebody is about to ask for this schedule."""
        self.requests.setdefault(spec.name, []).append(spec)

    def order_asked(self, name: str, order: str) -> None:
        """Somebody is about to order this; a schedule that is paused and resumed in one step shows no trace of it."""
        if order == "pause":
            self.paused.add(name)

    def promised(self, row: records.PutSchedule) -> None:
        """Somebody was told that this schedule is there."""
        self._marks.saw("saw:schedule made")

    # --- rows ------------------------------------------------------------------------------------------------------

    def entered(self, rows: Sequence[Any]) -> None:
        """Before the runs of a step are judged: what the graphs of its schedules were asked to be."""
        self._works = [work for row in rows if (work := _work(row)) is not None and work[2] not in self._seen]
        fired = [name for name, _, _ in self._works]
        for row in rows:
            if type(row) is records.PutSchedule and row.name in fired and row.name not in self.schedules:
                # Made in the step in which it fired, after a pause: it is judged from before that.
                self._put(row._replace(fired_count=row.fired_count - fired.count(row.name), queued_us=0, last_id=""))
                self.schedules[row.name].is_strict = False
        for name, due_us, work_id in self._works:
            self._seen.add(work_id)
            self._records.runs.wanted[f"{MARK}{name}:{due_us}"] = wanted_of(self.schedules[name].spec.run)

    def stepped(self, rows: Sequence[Any], now_us: int) -> None:
        """One step is durable: its schedules, and the work that they submitted in it."""
        works, self._works = self._works, []
        for row in rows:
            if type(row) is records.DeleteSchedule:
                self.schedules.pop(row.name, None)
        resumed = {row.name for row in rows if type(row) is records.PutSchedule and not row.is_paused}
        for name, due_us, work_id in works:
            is_paused = self.schedules[name].row.is_paused and name not in resumed
            self._marks.demand("times", not is_paused, "schedule {} fires at {} and is paused", name, due_us)
            self._fired(self.schedules[name], due_us, work_id, now_us)
        for row in rows:
            if type(row) is records.PutSchedule:
                self._put(row)
        for name, (_, _, work_id) in {work[0]: work for work in works}.items():
            row = self.schedules[name].row
            self._marks.demand(
                "times", row.last_id == work_id, "schedule {} says {}, not {}", name, row.last_id, work_id
            )

    def _put(self, row: records.PutSchedule) -> None:
        view = self.schedules.get(row.name)
        demand = self._marks.demand
        if view is None or view.row.body != row.body or view.row.created_us != row.created_us:
            spec = pb.ScheduleSpec.FromString(row.body)
            demand("times", spec in self.requests[row.name], "schedule {} was never asked for", row.name)
            self.schedules[row.name] = ScheduleView(row)
            return
        fired = row.fired_count - view.row.fired_count
        demand("times", row.skipped_count >= view.row.skipped_count, "schedule {} forgets what it skipped", row.name)
        self._marks.saw("saw:time of a schedule skipped", row.skipped_count - view.row.skipped_count)
        demand("times", fired == view.uncounted, "schedule {} counts {} more, not {}", row.name, fired, view.uncounted)
        view.is_strict &= not row.is_paused and row.name not in self.paused
        if view.spec.overlap == ALLOW and view.spec.missed == MISSED_ALL and view.is_strict and self.is_steady:
            same = row.skipped_count == view.first.skipped_count
            demand("times", same, "schedule {} skips a time, and is to make up for all", row.name)
        view.row, view.uncounted = row, 0
        self._judge_count(view)

    def _judge_count(self, view: ScheduleView) -> None:
        """Every time between its beginning and the next one was fired, was skipped, or waits."""
        row = view.row
        if not (view.is_strict and self.is_steady) or not view.spec.HasField("repeat_interval"):
            return
        passed = (row.next_us - view.first.next_us) // view.spec.repeat_interval.ToMicroseconds()
        known = row.fired_count - view.first.fired_count + row.skipped_count - view.first.skipped_count
        known += row.queued_us > 0
        self._marks.demand(
            "times", passed == known, "{} times of schedule {} passed, {} known", passed, row.name, known
        )

    def _fired(self, view: ScheduleView, due_us: int, work_id: str, now_us: int) -> None:
        demand, row, name = self._marks.demand, view.row, f"schedule {view.row.name}, {due_us}"
        self._marks.saw("saw:schedule fired")
        is_news = (due_us not in view.fired or self.was_wrong) and (
            not self.is_steady or due_us > max(view.fired, default=0)
        )
        demand("times", is_news, "{} comes again or late, after {}", name, view.fired)
        demand("times", self._is_time(view, due_us), "{} is no time of it", name)
        self._judge_early(view, due_us, now_us, name)
        view.fired.append(due_us)
        view.uncounted += 1
        open_ids = self._open(row.last_id)
        if view.spec.overlap in (0, SKIP, QUEUE):
            demand("times", not open_ids, "{} fires beside {}", name, open_ids)
        elif view.spec.overlap == REPLACE and open_ids:
            self._marks.saw("saw:schedule replaced its work")
            left = [one for one in open_ids if not self._is_stopping(one)]
            demand("times", not left, "{} replaces {}, which goes on", name, left)
        if row.queued_us == due_us:
            self._marks.saw("saw:time of a schedule waited")
        elif view.spec.missed != MISSED_ALL and self.is_steady:
            late_us = now_us - due_us
            is_skip = view.spec.missed == MISSED_SKIP
            demand("times", late_us <= LATE_US or not is_skip, "{} fires {} s late", name, late_us / 1e6)
            is_last = late_us < self._every_us(view)
            demand("times", is_last or not self.has_room, "{} fires after a later time", name)

    def _is_time(self, view: ScheduleView, due_us: int) -> bool:
        spec = view.spec
        if spec.HasField("repeat_interval"):
            since_us = due_us - view.first.created_us
            # By a clock that went back by years there are times before it was made.
            is_after = since_us > 0 or self.was_wrong
            return is_after and since_us % spec.repeat_interval.ToMicroseconds() == 0
        if spec.HasField("at_time"):
            return due_us == spec.at_time.ToMicroseconds()
        every_s = int(spec.cron.line.split()[0].removeprefix("*/"))
        return due_us % 1_000_000 == 0 and due_us // 1_000_000 % 60 % every_s == 0

    def _judge_early(self, view: ScheduleView, due_us: int, now_us: int, name: str) -> None:
        """A calendar goes by the wall clock, some seconds after that was set at the latest."""
        wall_us = now_us + self.wall_offset_us
        knows = now_us > self.stepped_us + NOTICED_US
        is_early = view.spec.HasField("cron") and knows and due_us > wall_us and due_us != view.row.queued_us
        self._marks.demand("times", not is_early, "{} fires {} s early", name, (due_us - wall_us) / 1e6)

    @staticmethod
    def _every_us(view: ScheduleView) -> int:
        """From one time to the next."""
        if view.spec.HasField("repeat_interval"):
            return int(view.spec.repeat_interval.ToMicroseconds())
        if view.spec.HasField("at_time"):
            return NEVER_US
        return int(view.spec.cron.line.split()[0].removeprefix("*/")) * 1_000_000

    def _is_stopping(self, task_id: str) -> bool:
        """It is being cancelled, or is going to be with its run, which takes more than one step."""
        view = self._records.tasks[task_id]
        run = self._records.runs.runs.get(view.run_id)
        return view.state == CANCELLING or (run is not None and run.is_stopping)

    def _open(self, work_id: str) -> list[str]:
        """Tasks of this work that are not over."""
        run = self._records.runs.runs.get(work_id)
        task_ids = run.members.values() if run is not None else [work_id] if work_id else []
        return [task_id for task_id in task_ids if self._records.tasks[task_id].state not in TERMINAL]

    # --- clocks ----------------------------------------------------------------------------------------------------

    def clock_stepped(self, wall_offset_us: int, now_us: int) -> None:
        """The coordinator's wall clock was set, to so much ahead of true time: times may be passed over."""
        self.is_steady = False
        self.was_wrong |= abs(wall_offset_us - self.wall_offset_us) > WRONG_US
        self.wall_offset_us, self.stepped_us = wall_offset_us, now_us

    def clock_is_as(self, other: ScheduleJudge) -> None:
        """A disk that goes back takes no clock with it."""
        self.is_steady, self.was_wrong = other.is_steady, other.was_wrong
        self.wall_offset_us, self.stepped_us = other.wall_offset_us, other.stepped_us

    def judge_punctual(self, line_us: int, wall_us: int) -> None:
        """All is well for a while: no time is overdue, by the clock it goes by; no calendar waits for a wrong one."""
        for name, view in self.schedules.items():
            now_us = line_us if view.spec.HasField("repeat_interval") else wall_us
            next_us, demand = view.row.next_us, self._marks.demand
            if next_us and not view.row.is_paused:
                late_s, is_late = (now_us - next_us) / 1e6, next_us <= now_us - PUNCTUAL_US
                demand("times", not (is_late and self.has_room), "schedule {} is {} s late", name, late_s)
                if view.spec.HasField("cron"):
                    demand("times", next_us < now_us + DAY_US, "schedule {} sleeps for {} s", name, -late_s)


def _work(row: Any) -> tuple[str, int, str] | None:
    """Name of the schedule, time, and id of the task or run, of a record that a schedule submitted."""
    if type(row) not in (records.InsertTask, records.PutRun) or not row.request_id.startswith(MARK):
        return None
    name, _, due = row.request_id[len(MARK) :].rpartition(":")
    return name, int(due), row.id
