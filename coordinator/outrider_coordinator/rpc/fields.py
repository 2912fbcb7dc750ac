"""Single values of requests, and the error that names the field they stand in."""

from __future__ import annotations

import math

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from outrider.errors import FieldViolation, InvalidRequest
from outrider_coordinator.core.spec import SECOND_US


def invalid(field: str, description: str) -> InvalidRequest:
    """An InvalidRequest that names one field."""
    return InvalidRequest(f"{field}: {description}", violations=(FieldViolation(field, description),))


def duration_us(duration: Duration, field: str) -> int:
    """Microseconds; refuses a negative duration."""
    us = duration.seconds * SECOND_US + duration.nanos // 1000
    if us < 0:
        raise invalid(field, "must not be negative")
    return us


def time_us(timestamp: Timestamp) -> int:
    """Microseconds since the Unix epoch."""
    return timestamp.seconds * SECOND_US + timestamp.nanos // 1000


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
