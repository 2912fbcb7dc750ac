"""The coordinator's line of time, and what it says of the wall clock beside it."""

from __future__ import annotations

import asyncio

from outrider_coordinator.clock import STEP_MIN_US, Clock, stepped_us, watch_wall


def test_the_line_begins_at_the_wall_clock_and_stays_with_it() -> None:
    """Nobody has stepped the clock during this test: the two are as far apart as it takes to read them."""
    clock = Clock()
    assert clock.now_us() <= clock.now_us()
    assert abs(clock.wall_offset_us()) < STEP_MIN_US


def test_a_start_goes_on_behind_what_was_seen() -> None:
    """The line begins at the floor it is given where the wall clock says less, and tells how far apart they are."""
    hour_us = 3_600_000_000
    floor_us = Clock().now_us() + hour_us
    clock = Clock(floor_us)
    assert clock.now_us() >= floor_us
    assert -hour_us - STEP_MIN_US < stepped_us(clock) < -hour_us + STEP_MIN_US
    assert stepped_us(Clock(floor_us - 2 * hour_us)) == 0


class SteppedClock:
    """A wall clock that somebody sets: each look finds the next distance."""

    def __init__(self, *offsets_us: int) -> None:
        self.offsets_us = list(offsets_us)
        self.is_over = asyncio.Event()

    def wall_offset_us(self) -> int:
        """The next distance, the last one for ever."""
        if len(self.offsets_us) > 1:
            return self.offsets_us.pop(0)
        self.is_over.set()
        return self.offsets_us[0]


async def test_steps_of_the_wall_clock_are_told_once() -> None:
    """A step either way is told with the new distance; drift below half a second is not."""
    hour_us = 3_600_000_000
    clock, told = SteppedClock(0, 1000, hour_us, hour_us + 400_000, -hour_us, -hour_us, 0), []
    watching = asyncio.create_task(watch_wall(clock, told.append, interval_s=0))
    async with asyncio.timeout(20):
        await clock.is_over.wait()
    watching.cancel()
    assert told == [hour_us, -hour_us, 0]
