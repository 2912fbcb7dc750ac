"""When and what of work by the clock, and what clients read of it. Pure: no network.

client.schedules.create("report", Cron("0 6 * * MON-FRI", "Europe/Berlin"), work.report)
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from outrider.errors import InvalidRequest
from outrider.signing import Signer, sign_each
from outrider.v1 import schedule_service_pb2 as pb
from outrider.work import Seconds, seconds

__all__ = ["At", "Cron", "Every", "Missed", "Overlap", "Schedule", "When"]


class Overlap(StrEnum):
    """What happens at a time when work of the time before has not ended.

    ``skip``: nothing is submitted; ``allow``: both go on; ``queue``: one more is submitted when it has ended, further
    times are skipped; ``replace``: it is cancelled.
    """

    SKIP = "skip"
    ALLOW = "allow"
    QUEUE = "queue"
    REPLACE = "replace"


class Missed(StrEnum):
    """What happens after times that passed while the coordinator was down, or that could not be met.

    ``skip``: they are passed over; ``once``: one for all of them; ``all``: each, the latest 100 at most.
    """

    SKIP = "skip"
    ONCE = "once"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class At:
    """Once, at an aware ``time``; a naive one is local time."""

    time: dt.datetime


@dataclass(frozen=True, slots=True)
class Every:
    """Again and again, the first time one ``interval`` after it was made: seconds or a timedelta, at least 1 s."""

    interval: Seconds


@dataclass(frozen=True, slots=True)
class Cron:
    """By a cron ``line``: minute, hour, day of month, month, day of week; six fields begin with the seconds.

    ``zone`` is an IANA name of a time zone; empty means UTC.
    """

    line: str
    zone: str = ""


When = At | Every | Cron
Word = TypeVar("Word", Overlap, Missed)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as the coordinator knows it. ``next_time`` is None when it never fires again.

    ``last_id`` is the task or run submitted last, ``when`` the same as `At`, `Every` or `Cron`.
    """

    name: str
    when: When
    paused: bool
    next_time: dt.datetime | None
    last_time: dt.datetime | None
    last_id: str
    fired_count: int
    skipped_count: int
    overlap: Overlap
    missed: Missed

    @classmethod
    def read(cls, message: pb.Schedule) -> Schedule:
        """From the wire."""
        spec = message.spec
        return cls(
            spec.name,
            _read_when(spec),
            message.paused,
            message.next_time.ToDatetime(tzinfo=dt.UTC) if message.HasField("next_time") else None,
            message.last_time.ToDatetime(tzinfo=dt.UTC) if message.HasField("last_time") else None,
            message.last_id,
            message.fired_count,
            message.skipped_count,
            list(Overlap)[(spec.overlap or 1) - 1],
            list(Missed)[(spec.missed or 2) - 1],
        )


def schedule_spec(
    name: str, when: When, overlap: Overlap | str = Overlap.SKIP, missed: Missed | str = Missed.ONCE
) -> pb.ScheduleSpec:
    """A spec that lacks its work. Raises `InvalidRequest` for what no coordinator could read."""
    spec = pb.ScheduleSpec(name=name)
    spec.overlap = pb.OverlapPolicy.ValueType(list(Overlap).index(_word(Overlap, overlap, "overlap")) + 1)
    spec.missed = pb.MissedPolicy.ValueType(list(Missed).index(_word(Missed, missed, "missed")) + 1)
    if isinstance(when, At):
        spec.at_time.FromDatetime(when.time.astimezone(dt.UTC))
    elif isinstance(when, Every):
        spec.repeat_interval.FromTimedelta(dt.timedelta(seconds=seconds(when.interval)))
    else:
        spec.cron.line, spec.cron.time_zone = when.line, when.zone
    return spec


def _read_when(spec: pb.ScheduleSpec) -> When:
    kind = spec.WhichOneof("when")
    if kind == "at_time":
        return At(spec.at_time.ToDatetime(tzinfo=dt.UTC))
    if kind == "repeat_interval":
        return Every(spec.repeat_interval.ToTimedelta())
    return Cron(spec.cron.line, spec.cron.time_zone)


def _word(kind: type[Word], word: str, name: str) -> Word:
    try:
        return kind(word)
    except ValueError:
        raise InvalidRequest(f"{name} is {word!r}; use one of {', '.join(kind)}") from None


def sign(spec: pb.ScheduleSpec, signer: Signer | None, namespace: str) -> None:
    """Sign what a schedule submits: once, for every time until the signature ends; nobody signs nothing."""
    specs = [spec.task] if spec.HasField("task") else [task.spec for task in spec.run.tasks]
    sign_each(specs, signer, namespace, by_the_clock=True)
