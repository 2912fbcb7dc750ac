"""What clocks and restarts cannot make a schedule do."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.events import Ticked
from outrider_coordinator.core.records import PutSchedule
from outrider_coordinator.core.schedules.book import Missed, Overlap, Schedule, single_time
from outrider_coordinator.core.schedules.events import (
    WallClockMoved,
)
from outrider_coordinator.core.schedules.firing import CLOCK_STEP_US, restore
from outrider_coordinator.core.spec import SECOND_US
from support.clockwork import HOUR_US, Clockwork, hourly


@pytest.fixture
def clockwork() -> Clockwork:
    """A world without schedules."""
    return Clockwork()


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
    effects = Effects()
    restore(made.world.state, effects, [fresh])
    made.world.take(effects)
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
    """When the clock was ten years ahead before the restart, the schedule begins anew from now, and that is stored."""
    clockwork.create(hourly())
    clockwork.wait(3600)
    again = restarted(clockwork, -10 * CLOCK_STEP_US)
    (row,) = [row for row in again.world.rows if isinstance(row, PutSchedule)]
    assert row.next_us == again.schedule.next_us < clockwork.schedule.next_us
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
