"""The coordinator's time line: wall clock at the start, advanced by the boot-time clock.

A step of the wall clock while the daemon runs moves nothing, and time spent suspended counts.
"""

from __future__ import annotations

import time


class Clock:
    """Microseconds since the Unix epoch that never step backwards within a process."""

    def __init__(self) -> None:
        self._offset_us = time.time_ns() // 1000 - _boottime_us()

    def now_us(self) -> int:
        """Now, on the coordinator's time line."""
        return self._offset_us + _boottime_us()

    def wall_offset_us(self) -> int:
        """By how much the wall clock is ahead of this line now: it was stepped by so much since the start."""
        return time.time_ns() // 1000 - self.now_us()


def _boottime_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
