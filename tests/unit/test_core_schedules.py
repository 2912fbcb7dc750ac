"""Schedules in the core: when they fire, what they submit, and what clocks and crashes cannot make them do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from outrider_coordinator.core.effects import Effects, Refused
from outrider_coordinator.core.events import RunMember, RunSubmitted, Submission, TasksSubmitted, Ticked
from outrider_coordinator.core.records import DeleteSchedule, InsertTask, PutSchedule
from outrider_coordinator.core.schedule_book import Missed, Overlap, Schedule, Times, interval, single_time
from outrider_coordinator.core.schedule_events import (
    ScheduleCreated,
    ScheduleOrder,
    ScheduleOrdered,
    SchedulesAsked,
    WallClockMoved,
)
from outrider_coordinator.core.schedules import CLOCK_STEP_US, MISSED_MAX, restore
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Spec
from outrider_coordinator.core.states import EventType, TaskState
from support.core_world import World

HOUR_US = 3600 * SECOND_US


def one_task(request_id: str, new_id: Callable[[], str]) -> TasksSubmitted:
    """Work that is one task."""
    submission = Submission(new_id(), "default", Spec(b"", "m:f", True), request_id, b"digest")
    return TasksSubmitted([submission], lambda value: None)


def one_run(request_id: str, new_id: Callable[[], str]) -> RunSubmitted:
    """Work that is a graph of two tasks."""
    spec = Spec(b"", "m:f", True)
    members = [RunMember(new_id(), "a", spec, ()), RunMember(new_id(), "b", spec, ("a",))]
    return RunSubmitted(new_id(), "default", "", "", members, lambda value: None, request_id, b"digest")


def hourly() -> Times:
    """By the wall clock, at every full hour."""
    grid = interval(0, HOUR_US)
    return Times(grid.following, grid.latest)


class Clockwork:
    """A world with one schedule, which is not connected to any agent unless the test does so."""

    def __init__(self, settings: CoreSettings | None = None) -> None:
        self.world = World(settings)
        self.effects: list[Effects] = []

    def create(self, times: Times, *, replace: bool = False, **facts: Any) -> Any:
        """Make a schedule; what the core answers."""
        fields = {
            "body": b"spec",
            "submitter": "",
            "work": one_task,
            "overlap": Overlap.ALLOW,
            "missed": Missed.ONCE,
            "created_us": self.world.now_us,
        }
        schedule = Schedule("default", "s", times=times, **{**fields, **facts})
        return self.ask(lambda reply: ScheduleCreated(schedule, replace, reply))

    def every(self, seconds: int, **facts: Any) -> Any:
        """Make an interval schedule."""
        return self.create(interval(self.world.now_us, seconds * SECOND_US), **facts)

    def order(self, order: str, name: str = "s") -> Any:
        """Pause, resume or delete."""
        return self.ask(lambda reply: ScheduleOrdered("default", name, order, reply))

    def ask(self, make: Callable[[Any], Any]) -> Any:
        """One event and its answer."""
        answers: list[Any] = []
        self.step(make(answers.append))
        return answers[0]

    def step(self, *events: Any, after_us: int = 0) -> Effects:
        """One step, and as many more as there is left to do at this time."""
        effects = self.world.do(*events, after_us=after_us)
        self.effects.append(effects)
        while self.world.state.schedules.due:
            self.effects.append(self.world.do(Ticked()))
        return effects

    def wait(self, seconds: float) -> None:
        """Time passes without anything in between: timers are as late as that."""
        self.step(Ticked(), after_us=int(seconds * SECOND_US))

    def tick(self, seconds: int) -> None:
        """Time passes second by second."""
        for _ in range(seconds):
            self.wait(1)

    @property
    def schedule(self) -> Schedule:
        """The schedule as it is."""
        return self.world.state.schedules.schedules["default", "s"]

    def counts(self) -> tuple[int, int]:
        """Times fired and skipped."""
        return self.schedule.fired_count, self.schedule.skipped_count

    def events(self, kind: EventType) -> list[str]:
        """Texts of the events of a kind, in order."""
        return [event.text for event in self.world.log if event.type == kind]


@pytest.fixture
def clockwork() -> Clockwork:
    """A world without schedules."""
    return Clockwork()


def test_a_single_time_fires_once(clockwork: Clockwork) -> None:
    """Nothing before its time, one task at it, nothing afterwards; the event names the task."""
    clockwork.create(single_time(clockwork.world.now_us + 5 * SECOND_US))
    clockwork.tick(4)
    assert not clockwork.world.state.tasks
    clockwork.tick(100)
    assert clockwork.counts() == (1, 0)
    (task,) = clockwork.world.state.tasks.values()
    (fired,) = [event for event in clockwork.world.log if event.type == EventType.SCHEDULE_FIRED]
    assert (fired.task_id, fired.run_id, fired.text, fired.namespace) == (task.id, "", "s", "default")
    assert (clockwork.schedule.next_us, clockwork.schedule.last_id) == (0, task.id)


def test_an_interval_begins_one_interval_after_it_was_made(clockwork: Clockwork) -> None:
    """Ten seconds apart, first after ten."""
    clockwork.every(10)
    clockwork.tick(9)
    assert clockwork.counts() == (0, 0)
    clockwork.tick(22)
    assert clockwork.counts() == (3, 0)


def test_a_time_and_its_work_are_written_in_one_step(clockwork: Clockwork) -> None:
    """The rows of the new task and of the schedule's next time are in the same transaction, or in none."""
    clockwork.every(10)
    before = clockwork.world.state.now_us
    clockwork.world.now_us += 10 * SECOND_US
    clockwork.world.do(Ticked())
    rows = clockwork.world.written
    (task,) = [row for row in rows if isinstance(row, InsertTask)]
    (schedule,) = [row for row in rows if isinstance(row, PutSchedule)]
    assert task.request_id == f"schedule:s:{before + 10 * SECOND_US}"
    assert (schedule.last_id, schedule.next_us) == (task.id, before + 20 * SECOND_US)


def test_a_run_is_submitted_whole(clockwork: Clockwork) -> None:
    """The work may be a graph; the event names the run."""
    clockwork.every(10, work=one_run)
    clockwork.tick(10)
    (run,) = clockwork.world.state.runs.values()
    assert len(clockwork.world.state.tasks) == 2
    assert clockwork.schedule.last_id == run.id
    assert [event.run_id for event in clockwork.world.log if event.type == EventType.SCHEDULE_FIRED] == [run.id]


# --- overlap


def test_skip_leaves_times_out_while_work_goes_on(clockwork: Clockwork) -> None:
    """Nothing is submitted before the task of the time before has ended; each time left out is counted and told."""
    clockwork.every(10, overlap=Overlap.SKIP)
    clockwork.tick(35)
    assert clockwork.counts() == (1, 2)
    assert clockwork.events(EventType.SCHEDULE_SKIPPED) == ["s: work of an earlier time has not ended"] * 2
    clockwork.world.connect("a")
    end(clockwork)
    clockwork.tick(10)
    assert clockwork.counts() == (2, 2)


def test_allow_lets_work_overlap(clockwork: Clockwork) -> None:
    """Every time submits, whatever is open."""
    clockwork.every(10, overlap=Overlap.ALLOW)
    clockwork.tick(35)
    assert clockwork.counts() == (3, 0)
    assert len(clockwork.world.state.tasks) == 3


def test_queue_keeps_one_time_for_later(clockwork: Clockwork) -> None:
    """One time waits and is submitted in the step that ends the work before it; further ones are skipped."""
    clockwork.every(10, overlap=Overlap.QUEUE)
    clockwork.tick(45)
    assert clockwork.counts() == (1, 2)
    clockwork.world.connect("a")
    end(clockwork)
    assert clockwork.counts() == (2, 2)
    assert not clockwork.schedule.queued_us


def test_queue_waits_for_a_run_as_for_a_task(clockwork: Clockwork) -> None:
    """The end of a graph lets the queued time go, the end of one of its tasks does not."""
    clockwork.every(10, overlap=Overlap.QUEUE, work=one_run)
    clockwork.tick(25)
    clockwork.world.connect("a")
    end(clockwork)
    assert clockwork.counts() == (1, 0)
    end(clockwork)
    assert clockwork.counts() == (2, 0)


def test_replace_cancels_what_is_open(clockwork: Clockwork) -> None:
    """The task of the time before is cancelled, the new one stays."""
    clockwork.every(10, overlap=Overlap.REPLACE)
    clockwork.tick(10)
    first = clockwork.schedule.last_id
    clockwork.tick(10)
    assert clockwork.world.ended[first] is TaskState.CANCELLED
    assert list(clockwork.world.state.tasks) == [clockwork.schedule.last_id]


def test_replace_cancels_a_run(clockwork: Clockwork) -> None:
    """Every task of the graph of the time before is cancelled."""
    clockwork.every(10, overlap=Overlap.REPLACE, work=one_run)
    clockwork.tick(20)
    assert sorted(state.name for state in clockwork.world.ended.values()) == ["CANCELLED", "CANCELLED"]
    assert len(clockwork.world.state.tasks) == 2


# --- missed times


@pytest.mark.parametrize(
    ("missed", "late_s", "counts"),
    [
        (Missed.SKIP, 95, (1, 8)),
        (Missed.SKIP, 90 + 3600, (1, 368)),
        (Missed.ONCE, 95, (1, 8)),
        (Missed.ALL, 95, (9, 0)),
    ],
)
def test_times_that_passed_are_treated_by_policy(missed: Missed, late_s: int, counts: tuple[int, int]) -> None:
    """Skipped, one for all of them, or each; the latest one is on time when it is dealt with within a minute."""
    clockwork = Clockwork()
    clockwork.every(10, missed=missed)
    clockwork.wait(late_s)
    fired, skipped = clockwork.counts()
    assert fired == counts[0]
    assert skipped == min(counts[1], MISSED_MAX)


def test_a_single_late_time_is_missed(clockwork: Clockwork) -> None:
    """More than a minute late, SKIP passes over it."""
    clockwork.every(100, missed=Missed.SKIP)
    clockwork.wait(170)
    assert clockwork.counts() == (0, 1)
    assert clockwork.events(EventType.SCHEDULE_SKIPPED) == ["s: its time was missed"]


@pytest.mark.parametrize("days", [1, 3650])
def test_making_up_is_bounded(days: int) -> None:
    """After a day or ten years, at most a hundred are submitted, the latest, and no step does it all."""
    clockwork = Clockwork()
    clockwork.every(1, missed=Missed.ALL)
    clockwork.world.state.now_us += days * 24 * HOUR_US
    clockwork.world.now_us = clockwork.world.state.now_us
    clockwork.step(Ticked())
    assert clockwork.schedule.fired_count == MISSED_MAX
    due = sorted(int(task.request_id.rpartition(":")[2]) for task in clockwork.world.state.tasks.values())
    assert due[-1] == clockwork.world.now_us
    assert due[-1] - due[0] == (MISSED_MAX - 1) * SECOND_US
    assert max(len(effects.tasks) for effects in clockwork.effects) <= 32


# --- orders


def test_a_paused_schedule_submits_nothing_and_goes_on_from_now(clockwork: Clockwork) -> None:
    """Times that pass meanwhile are passed over, whatever the missed policy."""
    clockwork.every(10, missed=Missed.ALL)
    assert clockwork.order(ScheduleOrder.PAUSE).is_paused
    clockwork.tick(100)
    assert clockwork.counts() == (0, 0)
    assert not clockwork.order(ScheduleOrder.RESUME).is_paused
    assert clockwork.counts() == (0, 0)
    clockwork.tick(10)
    assert clockwork.counts() == (1, 0)


def test_a_deleted_schedule_is_gone_and_its_work_goes_on(clockwork: Clockwork) -> None:
    """Nothing more is submitted; the task that was stays; a second delete is told that there is none."""
    clockwork.every(10)
    clockwork.tick(10)
    clockwork.order(ScheduleOrder.DELETE)
    assert DeleteSchedule("default", "s") in clockwork.effects[-1].inserts
    clockwork.tick(30)
    assert len(clockwork.world.state.tasks) == 1
    refused = clockwork.order(ScheduleOrder.DELETE)
    assert isinstance(refused, Refused)
    assert refused.reason == "NOT_FOUND"


def test_the_same_schedule_again_changes_nothing_and_another_is_refused(clockwork: Clockwork) -> None:
    """Creating is idempotent; another body under the name needs ``replace``, which keeps what was counted."""
    clockwork.every(10)
    clockwork.tick(25)
    again = clockwork.every(10)
    assert (again.fired_count, again.next_us) == (2, clockwork.schedule.next_us)
    refused = clockwork.every(20, body=b"other")
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.field) == ("REQUEST_ID_REUSED", "spec.name")
    replaced = clockwork.every(20, body=b"other", replace=True)
    assert (replaced.fired_count, replaced.next_us) == (2, clockwork.world.now_us + 20 * SECOND_US)
    clockwork.tick(20)
    assert clockwork.counts() == (3, 0)


def test_a_time_that_never_comes_is_refused(clockwork: Clockwork) -> None:
    """A time in the past and a calendar without times are refused when they are made."""
    for times in (single_time(1), Times(lambda us: None, lambda us, count: [])):
        refused = clockwork.create(times)
        assert isinstance(refused, Refused)
        assert (refused.reason, refused.field) == ("INVALID_REQUEST", "spec.at_time")


def test_schedules_are_bounded() -> None:
    """One more than may be is refused."""
    clockwork = Clockwork(CoreSettings(schedules_max=0))
    assert clockwork.every(10).reason == "QUEUE_FULL"


def test_lists_are_by_name_and_namespace(clockwork: Clockwork) -> None:
    """Asking shows rows of one namespace; an unknown name is said."""
    clockwork.every(10)
    assert [row.name for row in clockwork.ask(lambda reply: SchedulesAsked("default", "", reply))] == ["s"]
    assert clockwork.ask(lambda reply: SchedulesAsked("other", "", reply)) == []
    assert clockwork.ask(lambda reply: SchedulesAsked("other", "s", reply)).reason == "NOT_FOUND"


def test_without_room_a_time_is_tried_again() -> None:
    """A full queue loses no time: it is submitted once there is room, and not twice."""
    clockwork = Clockwork(CoreSettings(queue_depth_max=1))
    (blocker,) = clockwork.world.submit()
    clockwork.create(single_time(clockwork.world.now_us + SECOND_US))
    clockwork.tick(15)
    assert clockwork.counts() == (0, 0)
    agent = clockwork.world.connect("a")
    clockwork.world.complete(agent, clockwork.world.ref(agent, blocker))
    clockwork.tick(60)
    assert clockwork.counts() == (1, 0)


# --- clocks


def move(clockwork: Clockwork, offset_us: int) -> None:
    """Step the wall clock to this distance from the coordinator's line."""
    clockwork.step(WallClockMoved(offset_us))


def test_intervals_do_not_follow_the_wall_clock(clockwork: Clockwork) -> None:
    """A step of ten years either way fires and loses nothing."""
    clockwork.every(10)
    for offset_us in (87_600 * HOUR_US, -87_600 * HOUR_US, 0):
        move(clockwork, offset_us)
    clockwork.tick(30)
    assert clockwork.counts() == (3, 0)


def test_calendars_follow_a_small_step_forwards(clockwork: Clockwork) -> None:
    """Times that a step of two hours passed over were missed: one fires for them."""
    clockwork.create(hourly())
    move(clockwork, 2 * HOUR_US)
    assert clockwork.counts() == (1, 1)
    clockwork.wait(3600)
    assert clockwork.counts() == (2, 1)


def test_a_small_step_backwards_fires_nothing_again(clockwork: Clockwork) -> None:
    """After a step of two hours back, the next time is the one that has not been dealt with."""
    clockwork.create(hourly())
    clockwork.wait(3600)
    move(clockwork, -2 * HOUR_US)
    for _ in range(2):
        clockwork.wait(3600)
    assert clockwork.counts() == (1, 0)
    clockwork.wait(3600)
    assert clockwork.counts() == (2, 0)


@pytest.mark.parametrize("missed", list(Missed))
@pytest.mark.parametrize("years", [10, -10])
def test_a_clock_that_was_wrong_fires_nothing_wildly(missed: Missed, years: int) -> None:
    """After a step of ten years calendars go on from the time it says now, there and back again."""
    clockwork = Clockwork()
    clockwork.create(hourly(), missed=missed)
    for offset_us in (years * 8760 * HOUR_US, 0):
        move(clockwork, offset_us)
        before = clockwork.schedule.fired_count
        clockwork.wait(3600)
        assert clockwork.schedule.fired_count == before + 1


def test_a_single_time_that_a_step_passed_over_still_fires(clockwork: Clockwork) -> None:
    """Nothing that was to happen once is lost by a clock that is set right."""
    clockwork.create(single_time(clockwork.world.now_us + 100 * HOUR_US))
    move(clockwork, 1000 * HOUR_US)
    assert clockwork.counts() == (1, 0)


# --- restarts


def restarted(clockwork: Clockwork, later_us: int) -> Clockwork:
    """The same schedule in a coordinator that starts later, with what is durable."""
    old = clockwork.schedule
    made = Clockwork()
    made.world.now_us = made.world.state.now_us = clockwork.world.now_us + later_us
    durable = {name: getattr(old, name) for name in PutSchedule._fields}
    fresh = Schedule(**durable, times=old.times, work=old.work, overlap=old.overlap, missed=old.missed)
    restore(made.world.state, [fresh])
    made.step(Ticked())
    return made


@pytest.mark.parametrize(("later_s", "fired"), [(3, 2), (8, 3), (28, 3)])
def test_a_restart_fires_what_was_missed_and_nothing_twice(clockwork: Clockwork, later_s: int, fired: int) -> None:
    """With ONCE, one more when a time passed meanwhile."""
    clockwork.every(10)
    clockwork.tick(25)
    again = restarted(clockwork, later_s * SECOND_US)
    assert again.counts()[0] == fired


def test_a_restart_in_the_past_does_not_wait_for_the_future(clockwork: Clockwork) -> None:
    """When the clock was ten years ahead before the restart, the schedule begins anew from now."""
    clockwork.create(hourly())
    clockwork.wait(3600)
    again = restarted(clockwork, -10 * CLOCK_STEP_US)
    again.wait(3600)
    assert again.counts() == (2, 0)


def test_a_queued_time_survives_a_restart(clockwork: Clockwork) -> None:
    """What it waited for has ended meanwhile: it is submitted."""
    clockwork.every(1000, overlap=Overlap.QUEUE)
    clockwork.tick(2001)
    assert clockwork.schedule.queued_us
    again = restarted(clockwork, SECOND_US)
    assert again.counts() == (2, 0)


def test_a_time_whose_work_is_known_is_not_submitted_again(clockwork: Clockwork) -> None:
    """The request id of a time is the schedule's and the time's: where it is known, its work has been submitted."""
    clockwork.every(10)
    due_us = clockwork.world.now_us + 10 * SECOND_US
    (known,) = clockwork.world.submit(request_id=f"schedule:s:{due_us}")
    clockwork.tick(10)
    assert clockwork.schedule.last_id == known
    assert list(clockwork.world.state.tasks) == [known]


def end(clockwork: Clockwork) -> None:
    """Let the agent end what it holds."""
    world = clockwork.world
    agent = world.agents["a"]
    (ref,) = agent.held
    world.complete(agent, ref)
    clockwork.step(Ticked())
