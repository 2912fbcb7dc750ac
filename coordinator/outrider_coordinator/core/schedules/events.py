"""What happens to schedules and to the wall clock, in the past tense; beside those of `events`."""

from __future__ import annotations

from dataclasses import dataclass

from outrider_coordinator.core.events import ReplyTo
from outrider_coordinator.core.schedules.book import Schedule


@dataclass(slots=True)
class ScheduleCreated:
    """Somebody wants work by the clock. Reply: a `records.PutSchedule` or Refused.

    ``schedule`` is new: the core sets its times. With ``replace`` it takes the place of one of the same name.
    """

    schedule: Schedule
    replace: bool
    reply: ReplyTo


class ScheduleOrder:
    """What people may ask of a schedule."""

    PAUSE = "pause"
    RESUME = "resume"
    DELETE = "delete"


@dataclass(slots=True)
class ScheduleOrdered:
    """Somebody asks something of a schedule (`ScheduleOrder`). Reply: its `records.PutSchedule`, or Refused."""

    namespace: str
    name: str
    order: str
    reply: ReplyTo


@dataclass(slots=True)
class SchedulesAsked:
    """Somebody looks at a schedule, or with an empty ``name`` at all. Reply: `records.PutSchedule` rows, or Refused."""

    namespace: str
    name: str
    reply: ReplyTo


@dataclass(slots=True)
class WallClockMoved:
    """The wall clock is ahead of the coordinator's line of time by this, and was by another amount before."""

    offset_us: int
