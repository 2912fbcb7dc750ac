"""Times by cron lines and time zones: the calendar arithmetic that the core is given as functions.

Parsing and the calendar are the `cronsim` library's, which follows Debian's cron: five fields, or six with the seconds
first; where both day of month and day of week are given, one of them suffices, unless either begins with a star.

Daylight saving: a line with a fixed minute and hour fires once a day at that time; where clocks jump over it, at the
first minute that there is, and where an hour comes twice, the first time only. A line with a star for the minute or
the hour goes by elapsed time, as do lines with seconds.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo

from cronsim import CronSim, CronSimError

from outrider_coordinator.core.schedules.book import Times
from outrider_coordinator.core.spec import SECOND_US

LINE_CHARACTERS_MAX = 200
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
#: The calendar ends at the year 9999, and time zones move times by a day.
_TIME_US_MAX = (dt.datetime(9990, 1, 1, tzinfo=dt.UTC) - _EPOCH) // _MICROSECOND


class BadZone(ValueError):
    """There is no such time zone."""


class BadLine(ValueError):
    """A cron line that cannot be read."""


def cron_times(line: str, zone: str) -> Times:
    """When a line fires, by the wall clock of a time zone (IANA name; empty is UTC). Raises `BadLine` or `BadZone`."""
    place = time_zone(zone)
    if len(line) > LINE_CHARACTERS_MAX:
        raise BadLine(f"has more than {LINE_CHARACTERS_MAX} characters")
    try:
        CronSim(line, _EPOCH)
    except (CronSimError, AssertionError, TypeError, ValueError) as error:  # the parser asserts in odd corners
        reason = str(error) if isinstance(error, CronSimError) else "it cannot be read"
        raise BadLine(f"{line!r} is no cron line: {reason[:1].lower()}{reason[1:]}") from None
    return Times(
        lambda us: _following(line, place, us),
        lambda us, count: _latest(line, place, us, count),
    )


def time_zone(name: str) -> dt.tzinfo:
    """The time zone of this name. Raises `BadZone`."""
    if name in ("", "UTC"):
        return dt.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, a path that leads out of the tree, a folder
        raise BadZone(f"{name!r} is no time zone; use a name like Europe/Berlin, or nothing for UTC") from None


def _following(line: str, place: dt.tzinfo, us: int) -> int | None:
    """The first time after ``us``; None when none comes in the next fifty years."""
    if us > _TIME_US_MAX:
        return None
    try:
        for found in CronSim(line, _local(us, place)):
            found_us = _us(found)
            # An hour that comes twice: the calendar of a fixed time has no second one and would go back.
            if found_us > us:
                return found_us
    except OverflowError:  # beyond the year 9999
        pass
    return None


def _latest(line: str, place: dt.tzinfo, us: int, count: int) -> list[int]:
    """The last ``count`` times up to ``us``, in order."""
    found: list[int] = []
    if us > _TIME_US_MAX:
        return found
    try:
        for time in CronSim(line, _local(us + SECOND_US, place), reverse=True):
            time_us = _us(time)
            if time_us <= us and (not found or time_us < found[-1]):
                found.append(time_us)
            if len(found) == count:
                break
    except OverflowError:  # before the year 1
        pass
    return found[::-1]


def _local(us: int, place: dt.tzinfo) -> dt.datetime:
    return (_EPOCH + us * _MICROSECOND).astimezone(place)


def _us(time: dt.datetime) -> int:
    return (time.astimezone(dt.UTC) - _EPOCH) // _MICROSECOND
