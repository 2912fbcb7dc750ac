"""Where schedules have their edges: the last moment that is in time, the last time that is made up for, no room."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from outrider_coordinator.core.effects import Effects, Refused
from outrider_coordinator.core.events import CancelRequested, RunCancelRequested, RunMember, RunSubmitted, Ticked
from outrider_coordinator.core.schedules import firing
from outrider_coordinator.core.schedules.book import Missed, Overlap, interval, single_time
from outrider_coordinator.core.schedules.events import ScheduleOrder, SchedulesAsked, WallClockMoved
from outrider_coordinator.core.schedules.firing import CLOCK_STEP_US, LATE_US, MISSED_MAX
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Spec
from outrider_coordinator.core.states import EventType
from support.clockwork import HOUR_US, Clockwork, end, hourly, one_run


@pytest.fixture
def clockwork() -> Clockwork:
    """A world without schedules."""
    return Clockwork()


def run_of(count: int) -> Callable[[str, Callable[[], str]], RunSubmitted]:
    """Work that is a graph of so many tasks."""

    def work(request_id: str, new_id: Callable[[], str]) -> RunSubmitted:
        members = [RunMember(new_id(), f"k{at}", Spec(b"", "m:f", True), ()) for at in range(count)]
        return RunSubmitted(new_id(), "default", "", "", members, lambda value: None, request_id, b"digest")

    return work


def move(clockwork: Clockwork, offset_us: int) -> None:
    """Step the wall clock to this distance from the coordinator's line."""
    clockwork.step(WallClockMoved(offset_us))


# --- times -----------------------------------------------------------------------------------------------------------


def test_a_single_time_comes_once() -> None:
    """It follows every time before it and is the latest at and after it, where any is asked for."""
    times = single_time(100)
    assert (times.following(99), times.following(100)) == (100, None)
    assert [times.latest(*asked) for asked in ((99, 1), (100, 1), (101, 3), (100, 0))] == [[], [100], [100], []]
    assert times.is_wall


def test_an_interval_has_a_time_every_so_often() -> None:
    """Before and after its anchor, on the line that no step of the wall clock moves."""
    times = interval(100, 10)
    assert [times.following(us) for us in (99, 100, 109, 85)] == [100, 110, 110, 90]
    assert times.latest(119, 3) == [90, 100, 110]
    assert not times.is_wall


def test_a_small_step_of_the_wall_clock_is_nothing_to_an_interval(clockwork: Clockwork) -> None:
    """Two hours either way: every time comes when it would have come."""
    clockwork.every(10)
    move(clockwork, 2 * HOUR_US)
    clockwork.tick(10)
    move(clockwork, -2 * HOUR_US)
    clockwork.tick(10)
    assert clockwork.counts() == (2, 0)


# --- late times ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late_us", "counts"), [(LATE_US, (1, 0)), (LATE_US + SECOND_US, (0, 1))])
def test_a_minute_late_is_in_time(clockwork: Clockwork, late_us: int, counts: tuple[int, int]) -> None:
    """A time is missed when more than that has passed."""
    clockwork.every(100, missed=Missed.SKIP)
    clockwork.wait(100 + late_us // SECOND_US)
    assert clockwork.counts() == counts


def test_as_many_times_as_are_made_up_for_are_all_made_up_for(clockwork: Clockwork) -> None:
    """Exactly a hundred have passed: each fires, the first one too."""
    clockwork.every(1, missed=Missed.ALL)
    clockwork.wait(MISSED_MAX)
    assert clockwork.counts() == (MISSED_MAX, 0)


def test_what_was_missed_adds_up(clockwork: Clockwork) -> None:
    """Twice three times pass of which one fires."""
    clockwork.every(10)
    clockwork.wait(30)
    clockwork.wait(30)
    assert clockwork.counts() == (2, 4)


@pytest.mark.parametrize("hours", [CLOCK_STEP_US // HOUR_US, CLOCK_STEP_US // HOUR_US + 1])
def test_three_hours_are_a_step_and_more_is_a_wrong_clock(clockwork: Clockwork, hours: int) -> None:
    """Up to three hours times in between were missed, and one fires for them; beyond, none does, and that is told."""
    clockwork.create(hourly())
    move(clockwork, hours * HOUR_US)
    is_step = hours * HOUR_US == CLOCK_STEP_US
    assert clockwork.schedule.fired_count == is_step
    text = "s: 2 of its times were missed" if is_step else "s: the clock was set; it goes on from now"
    assert clockwork.events(EventType.SCHEDULE_SKIPPED) == [text]


def test_a_step_counts_from_where_the_clock_was(clockwork: Clockwork) -> None:
    """A clock ten years ahead that goes on by two hours has made a small step."""
    clockwork.create(hourly())
    move(clockwork, 87_600 * HOUR_US)
    move(clockwork, 87_602 * HOUR_US)
    assert clockwork.counts() == (1, 1)


# --- orders ----------------------------------------------------------------------------------------------------------


def test_a_single_time_that_passes_while_it_is_paused_never_fires(clockwork: Clockwork) -> None:
    """Nothing follows when it goes on."""
    clockwork.create(single_time(clockwork.world.now_us + 10 * SECOND_US), missed=Missed.ALL)
    clockwork.order(ScheduleOrder.PAUSE)
    clockwork.tick(20)
    assert clockwork.order(ScheduleOrder.RESUME).next_us == 0
    clockwork.tick(20)
    assert clockwork.counts() == (0, 0)


def test_refusals_say_what_to_do(clockwork: Clockwork) -> None:
    """An unknown name, a name that is taken, a time that has passed, too many: each by its field."""
    text = "no schedule 'x'; `outrider schedule list` shows those there are"
    unknown = Refused("NOT_FOUND", text, "name")
    assert clockwork.order(ScheduleOrder.PAUSE, "x") == unknown
    assert clockwork.ask(lambda reply: SchedulesAsked("default", "x", reply)) == unknown
    clockwork.every(10)
    text = "there is another schedule 's'; choose another name, or replace it"
    assert clockwork.every(10, body=b"other") == Refused("REQUEST_ID_REUSED", text, "spec.name")
    passed = Refused("INVALID_REQUEST", "this time has passed", "spec.at_time")
    assert clockwork.create(single_time(1), name="t") == passed
    full = Clockwork(CoreSettings(schedules_max=0)).every(10)
    assert full == Refused("QUEUE_FULL", "there are 0 schedules; delete one that is over first")


# --- what is told ----------------------------------------------------------------------------------------------------


def test_an_event_names_what_was_submitted_and_nothing_else(clockwork: Clockwork) -> None:
    """A run is no task, and a time that was skipped has submitted nothing."""
    clockwork.every(10, work=one_run, overlap=Overlap.SKIP)
    clockwork.tick(20)
    told = {event.type: (event.task_id, event.run_id) for event in clockwork.world.log}
    assert told[EventType.SCHEDULE_FIRED] == ("", clockwork.schedule.last_id)
    assert told[EventType.SCHEDULE_SKIPPED] == ("", "")


def test_ids_are_in_order_of_time_like_those_of_the_shell(clockwork: Clockwork) -> None:
    """32 hexadecimal digits, the milliseconds first; those of one step rise in the order in which they were made."""
    clockwork.every(10, work=run_of(6))
    clockwork.tick(10)
    ids = list(clockwork.world.state.tasks)
    assert ids == sorted(set(ids))
    assert {len(task_id) for task_id in ids} == {32}
    assert {int(task_id[:12], 16) for task_id in ids} == {clockwork.world.now_us // 1000}


# --- pace ------------------------------------------------------------------------------------------------------------


def test_what_is_not_due_takes_nothing_of_a_step(clockwork: Clockwork) -> None:
    """Looking for schedules that are due is free when none is; one that is over is not looked for any more."""
    clockwork.create(single_time(clockwork.world.now_us + 5 * SECOND_US))
    assert firing.fire(clockwork.world.state, Effects()) == 0
    clockwork.tick(6)
    assert clockwork.counts() == (1, 0)
    assert clockwork.schedule.wake_us == 0
    assert not clockwork.world.state.schedules.is_awake


def test_a_few_that_are_due_at_once_take_one_step(clockwork: Clockwork) -> None:
    """Six tasks of six schedules enter together."""
    for number in range(6):
        clockwork.every(10, name=f"s{number}")
    clockwork.world.do(Ticked(), after_us=10 * SECOND_US)
    assert len(clockwork.world.state.tasks) == 6


def test_large_runs_from_the_queue_begin_one_after_the_other(clockwork: Clockwork) -> None:
    """What waited for earlier work is begun a few at a time, too."""
    for number in range(10):
        clockwork.every(10, name=f"s{number}", work=run_of(129), overlap=Overlap.QUEUE)
    clockwork.tick(20)
    runs = list(clockwork.world.state.runs)
    assert len(runs) == 10
    cancels = [RunCancelRequested(run_id, "", clockwork.world.replies.append) for run_id in runs]
    clockwork.world.do(*cancels)
    begun = 0
    while not begun:
        clockwork.world.do(Ticked())
        begun = len(clockwork.world.state.schedules.entering)
    assert begun < 9
    clockwork.step(Ticked())
    assert len(clockwork.world.state.runs) == 10


# --- no room ---------------------------------------------------------------------------------------------------------


def test_a_run_that_found_no_room_is_not_tried_again_at_once() -> None:
    """What took the room while it was made goes first; the next try is some seconds later."""
    clockwork = Clockwork(CoreSettings(queue_depth_max=200))
    clockwork.every(3600, work=run_of(200))
    clockwork.world.do(Ticked(), after_us=3600 * SECOND_US)
    clockwork.world.submit()
    while clockwork.world.state.schedules.entering:
        clockwork.world.do(Ticked())
    assert clockwork.schedule.wake_us > clockwork.world.now_us


@pytest.mark.parametrize(("missed", "passed", "counts"), [(Missed.ONCE, 1, (2, 39)), (Missed.ALL, 100, (140, 0))])
def test_what_is_to_fire_is_not_dropped_while_there_is_no_room(
    missed: Missed, passed: int, counts: tuple[int, int]
) -> None:
    """What was judged once stays; the forty times that pass meanwhile are judged afterwards, for themselves."""
    clockwork = Clockwork(CoreSettings(queue_depth_max=200))
    blockers = clockwork.world.submit(200)
    clockwork.every(1, missed=missed)
    clockwork.wait(passed)
    clockwork.wait(30)
    assert clockwork.counts() == (0, 0)
    clockwork.step(CancelRequested(blockers, "", clockwork.world.replies.append))
    clockwork.wait(10)
    assert clockwork.counts() == counts


def test_a_queued_time_without_room_is_tried_again_later() -> None:
    """Its work was to follow earlier work, but others have taken the room; it comes when there is some, once."""
    clockwork = Clockwork(CoreSettings(queue_depth_max=2))
    clockwork.every(100, overlap=Overlap.QUEUE)
    clockwork.tick(200)
    world = clockwork.world
    world.submit()
    world.connect("a")
    world.submit(0)
    (ref,) = world.agents["a"].held
    world.complete(world.agents["a"], ref)
    world.submit()
    assert len(world.state.tasks) == 2
    clockwork.step(Ticked())
    assert clockwork.counts() == (1, 0)
    assert clockwork.schedule.wake_us > world.now_us
    world.complete(world.agents["a"], *world.agents["a"].held)
    clockwork.tick(20)
    assert clockwork.counts() == (2, 0)


def test_after_a_queued_time_the_next_one_is_in_time(clockwork: Clockwork) -> None:
    """Three seconds apart: the end of what ran lets the queued one go, and the next comes when it is due."""
    clockwork.every(3, overlap=Overlap.QUEUE)
    clockwork.tick(6)
    clockwork.world.connect("a", 2)
    end(clockwork)
    assert clockwork.schedule.fired_count == 2
    end(clockwork)
    clockwork.tick(3)
    assert clockwork.schedule.fired_count == 3


def test_a_time_that_replaces_waits_for_room() -> None:
    """It is not lost: what it replaces goes on until there is room for both, and is not cancelled for nothing."""
    clockwork = Clockwork(CoreSettings(queue_depth_max=1))
    clockwork.every(1000, overlap=Overlap.REPLACE)
    clockwork.tick(2005)
    assert clockwork.counts() == (1, 0)
    assert len(clockwork.world.state.tasks) == 1
    clockwork.world.connect("a")
    end(clockwork)
    clockwork.tick(15)
    assert clockwork.counts() == (2, 0)
