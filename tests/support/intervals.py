"""Tasks that write down from when to when they ran, and what of such intervals overlaps.

Owns the file of intervals: one line each, written by the task itself when it ends, in one O_APPEND write. Times are
nanoseconds of CLOCK_MONOTONIC, which is the same for all processes of a machine.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from support.waiting import pass_time
from support.witness import pass_gate

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


def hold_and_stay(path: str, limit: str, seconds: float) -> None:
    """Hold a limit from now on, and then as `stay`."""
    from outrider.worker import current

    current.hold(limit)
    stay(path, seconds)


def cross(first: str, gate: str, second: str) -> str:
    """Hold one limit, pass the gate and hold another; what was said instead when that is a deadlock."""
    from outrider.errors import Deadlock
    from outrider.worker import current

    current.hold(first)
    pass_gate(gate)
    try:
        current.hold(second)
    except Deadlock as error:
        return str(error)
    return ""


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
