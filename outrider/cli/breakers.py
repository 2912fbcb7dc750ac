"""Circuit breakers as people read them."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from outrider.cli import output

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from outrider.v1 import fleet_service_pb2


def word(state: fleet_service_pb2.BreakerState.ValueType) -> str:
    """``closed``, ``open`` or ``half_open``."""
    from outrider.v1 import fleet_service_pb2

    return fleet_service_pb2.BreakerState.Name(state).removeprefix("BREAKER_STATE_").lower()


def until(reset_time: Timestamp) -> str:
    """How long an open breaker stays so, such as ``25s``; empty for a time that is not set."""
    if not reset_time.seconds:
        return ""
    left_s = (reset_time.ToDatetime(tzinfo=dt.UTC) - dt.datetime.now(dt.UTC)).total_seconds()
    return output.span(max(0.0, left_s))


def line(state: fleet_service_pb2.BreakerState.ValueType, reset_time: Timestamp) -> str:
    """The state, and when it changes by itself."""
    left = until(reset_time)
    return f"{word(state)}, tries again in {left}" if left else word(state)
