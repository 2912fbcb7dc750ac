"""Single values of requests, and the error that names the field they stand in."""

from __future__ import annotations

import math

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from outrider.errors import FieldViolation, InvalidRequest
from outrider_coordinator.core.spec import SECOND_US

#: What a Duration and a Timestamp may be by protobuf's own rules, which nobody enforces. More than the store holds
#: (numbers of 63 bits) must not get in: it would be journaled, and fail there with every start.
DURATION_US_MAX, TIME_US_MAX = 315_576_000_000 * SECOND_US, 253_402_300_800 * SECOND_US - 1
NUMBER_MAX = (1 << 63) - 1


def invalid(field: str, description: str) -> InvalidRequest:
    """An InvalidRequest that names one field."""
    return InvalidRequest(f"{field}: {description}", violations=(FieldViolation(field, description),))


def number(value: int) -> int:
    """A number of 64 bits as one that the store holds; what is over that was never given to anybody."""
    return value if value <= NUMBER_MAX else NUMBER_MAX


def bounded_us(duration: Duration) -> int:
    """Microseconds, at least 0 and at most what a Duration may be: ten thousand years."""
    return min(max(0, duration.seconds * SECOND_US + duration.nanos // 1000), DURATION_US_MAX)


def duration_us(duration: Duration, field: str) -> int:
    """Microseconds; refuses a negative duration, and one of more than ten thousand years."""
    us = duration.seconds * SECOND_US + duration.nanos // 1000
    if us < 0:
        raise invalid(field, "must not be negative")
    if us > DURATION_US_MAX:
        raise invalid(field, "must be at most 10,000 years")
    return us


def time_us(timestamp: Timestamp) -> int:
    """Microseconds since the Unix epoch, of a time from 1970 to the year 9999; others count as the nearest of these."""
    return min(max(0, timestamp.seconds * SECOND_US + timestamp.nanos // 1000), TIME_US_MAX)


def positive_us(duration: Duration, field: str) -> int:
    """Microseconds; refuses what is not longer than nothing."""
    us = duration_us(duration, field)
    if us == 0:
        raise invalid(field, "must be longer than 0; leave it out for no bound")
    return us


def word(text: str, field: str, characters_max: int) -> str:
    """A name that must not be empty."""
    if not 1 <= len(text) <= characters_max:
        raise invalid(field, f"must have 1 to {characters_max} characters")
    return text


def amount(value: float, field: str) -> float:
    """A finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise invalid(field, "must be a number above 0")
    return value


def at_most(count: int, limit: int, field: str) -> None:
    """Refuses a list that is too long."""
    if count > limit:
        raise invalid(field, f"has {count} entries; at most {limit} are allowed")
