"""The clocks of the keeper: one that goes on through suspend and never steps, and the wall clock for people."""

from __future__ import annotations

import time


def boot_us() -> int:
    """Microseconds since the machine booted, time asleep included; every deadline is kept on it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def wall_ns() -> int:
    """Nanoseconds of wall clock, for the times that people read."""
    return time.time_ns()
