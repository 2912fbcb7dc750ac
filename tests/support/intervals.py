"""Tasks that write down from when to when they ran, and what of such intervals overlaps.

Owns the file of intervals: one line each, written by the task itself when it ends, in one O_APPEND write. Times are
nanoseconds of CLOCK_MONOTONIC, which is the same for all processes of a machine.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from support.waiting import pass_time

MODULE = "support.intervals"

Interval = tuple[int, int]


def stay(path: str, seconds: float) -> None:
    """Run for so long and write down from when to when."""
    begin = time.monotonic_ns()
    pass_time(seconds)
    line = f"{begin} {time.monotonic_ns()}\n".encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line)
    os.close(handle)


def intervals(path: Path) -> list[Interval]:
    """Every interval so far, by its begin."""
    rows = (line.split() for line in path.read_text().splitlines())
    return sorted((int(begin), int(end)) for begin, end in rows)


def most_at_once(found: list[Interval]) -> int:
    """The largest number of intervals that share a moment."""
    steps = sorted([(begin, 1) for begin, _ in found] + [(end, -1) for _, end in found])
    count = most = 0
    for _, step in steps:
        count += step
        most = max(most, count)
    return most
