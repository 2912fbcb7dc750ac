"""The coordinator's time line: wall clock at the start, advanced by the boot-time clock.

A step of the wall clock while the daemon runs moves nothing, and time spent suspended counts. A start goes on behind
what the store has seen, also where the wall clock was set back meanwhile: what is due in a second stays so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

#: How often the wall clock is looked at, and how far it must have been stepped to matter.
WATCH_INTERVAL_S, STEP_MIN_US = 5.0, 500_000


class HasWall(Protocol):
    """A line of time that knows how far the wall clock is from it."""

    def wall_offset_us(self) -> int:
        """By how much the wall clock is ahead."""


class Clock:
    """Microseconds since the Unix epoch that never step backwards, nor begin before ``floor_us``."""

    def __init__(self, floor_us: int = 0) -> None:
        self._offset_us = max(time.time_ns() // 1000, floor_us) - _boottime_us()

    def now_us(self) -> int:
        """Now, on the coordinator's time line."""
        return self._offset_us + _boottime_us()

    def wall_offset_us(self) -> int:
        """By how much the wall clock is ahead of this line now: it was stepped by so much since the start."""
        return time.time_ns() // 1000 - self.now_us()


def _boottime_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def stepped_us(clock: HasWall) -> int:
    """How far the wall clock is ahead, 0 where that is too little to matter."""
    offset_us = clock.wall_offset_us()
    return offset_us if abs(offset_us) >= STEP_MIN_US else 0


async def watch_wall(clock: HasWall, moved: Callable[[int], object], *, interval_s: float = WATCH_INTERVAL_S) -> None:
    """Until cancelled, say by how much the wall clock is ahead of the line whenever it was stepped."""
    told_us = stepped_us(clock)
    while True:
        await asyncio.sleep(interval_s)
        offset_us = clock.wall_offset_us()
        if abs(offset_us - told_us) >= STEP_MIN_US:
            logger.warning("the wall clock was stepped by %.1f s", (offset_us - told_us) / 1e6)
            told_us = offset_us
            moved(offset_us)
