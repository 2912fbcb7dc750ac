"""What is known of schedules: when each fires, what it submits, and how far it is.

Owns the records and the arithmetic of single times and intervals; calendars come as functions from the shell. It must
not know how work is submitted.

Two lines of time: intervals go by the coordinator's own line, which no step of the wall clock moves; single times and
calendars go by the wall clock, the line plus ``wall_offset_us``. All times of one schedule are on one of them, in
microseconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from outrider_coordinator.core.events import RunSubmitted, TasksSubmitted

#: What request ids of firings begin with; the schedule's name and the time follow.
REQUEST_ID_MARK = "schedule:"
#: Namespace and name of a schedule.
ScheduleKey = tuple[str, str]
#: Makes what is submitted once, of a request id and a source of new ids.
Work = Callable[[str, Callable[[], str]], TasksSubmitted | RunSubmitted]


class Overlap(IntEnum):
    """What happens at a time when work of the time before has not ended."""

    SKIP = 1
    ALLOW = 2
    QUEUE = 3
    REPLACE = 4


class Missed(IntEnum):
    """What happens after times that have passed."""

    SKIP = 1
    ONCE = 2
    ALL = 3


class Times(NamedTuple):
    """When a schedule fires. Pure: the same answers for the same arguments, whatever the clock says.

    ``following(us)`` is the first time after ``us``, None when none follows. ``latest(us, count)`` are the last
    ``count`` times up to ``us``, in order; it may leave out early ones.
    """

    following: Callable[[int], int | None]
    latest: Callable[[int, int], list[int]]
    is_wall: bool = True


def single_time(at_us: int) -> Times:
    """Once."""
    return Times(
        lambda us: at_us if us < at_us else None,
        lambda us, count: [at_us] if at_us <= us and count else [],
    )


def interval(anchor_us: int, interval_us: int) -> Times:
    """Every ``interval_us`` before and after ``anchor_us``, on the coordinator's own line of time."""

    def at_or_before(us: int) -> int:
        return us - (us - anchor_us) % interval_us

    return Times(
        lambda us: at_or_before(us) + interval_us,
        lambda us, count: [at_or_before(us) - interval_us * back for back in reversed(range(count))],
        is_wall=False,
    )


@dataclass(slots=True)
class Schedule:
    """One schedule. ``body`` is the serialized ScheduleSpec; times are 0 for "none".

    ``next_us`` is the time to be dealt with next: everything before it was fired or skipped. ``last_id`` is the task or
    run submitted last, at ``last_us``. ``queued_us`` is a time that waits for ``last_id`` to end (QUEUE).

    Not durable: ``seen_us``, up to where passed times were judged; ``offset_us``, by how much the wall clock was ahead
    of the line when it was last looked at; ``wake_us``, when it is to be looked at next, on the line, 0 for never.
    """

    namespace: str
    name: str
    body: bytes
    submitter: str
    times: Times
    work: Work
    overlap: Overlap
    missed: Missed
    created_us: int
    is_paused: bool = False
    next_us: int = 0
    last_us: int = 0
    last_id: str = ""
    queued_us: int = 0
    fired_count: int = 0
    skipped_count: int = 0
    seen_us: int = 0
    offset_us: int = 0
    wake_us: int = 0

    @property
    def key(self) -> ScheduleKey:
        """Namespace and name."""
        return self.namespace, self.name


class Entering(NamedTuple):
    """A run of a schedule's time ``due_us`` on its way in, too large for one step; it replaces earlier work, if any."""

    run_id: str
    due_us: int
    task_count: int
    replaced_id: str = ""


@dataclass(slots=True)
class ScheduleBook:
    """All schedules. ``wakes`` are the times on the line when they are to be looked at, the first one first.

    ``timer_us`` is when a timer comes for the first of them, 0 for none; ``is_awake`` once it has come. ``waited_for``
    maps the task or run that a queued time waits for to its schedule; ``entering`` are runs of which nothing is in the
    state yet, by schedule. ``wall_offset_us`` is by how much the wall clock
    is ahead of the coordinator's line of time.
    """

    schedules: dict[ScheduleKey, Schedule] = field(default_factory=dict)
    wakes: list[tuple[int, ScheduleKey]] = field(default_factory=list)
    timer_us: int = 0
    is_awake: bool = False
    waited_for: dict[str, ScheduleKey] = field(default_factory=dict)
    entering: dict[ScheduleKey, Entering] = field(default_factory=dict)
    wall_offset_us: int = 0
    ids_made: int = 0

    def wake(self, schedule: Schedule, line_us: int) -> None:
        """Have it looked at then, and not at the time that was meant before."""
        if schedule.wake_us != line_us:
            schedule.wake_us = line_us
            heapq.heappush(self.wakes, (line_us, schedule.key))

    def take(self, line_us: int) -> Schedule | None:
        """The next schedule to be looked at by now; it has no time any more."""
        schedule = self.first()
        if schedule is None or schedule.wake_us > line_us:
            return None
        heapq.heappop(self.wakes)
        schedule.wake_us = 0
        return schedule

    def first(self) -> Schedule | None:
        """The schedule to be looked at next; times that were given up are dropped."""
        while self.wakes:
            line_us, key = self.wakes[0]
            schedule = self.schedules.get(key)
            if schedule is not None and schedule.wake_us == line_us:
                return schedule
            heapq.heappop(self.wakes)
        return None

    def now_us(self, schedule: Schedule, line_us: int) -> int:
        """Now, on the schedule's line of time; ``line_us`` is now on the coordinator's."""
        return line_us + self.wall_offset_us if schedule.times.is_wall else line_us

    def line_us(self, schedule: Schedule, us: int) -> int:
        """A time of a schedule on the coordinator's line."""
        return us - self.wall_offset_us if schedule.times.is_wall else us
