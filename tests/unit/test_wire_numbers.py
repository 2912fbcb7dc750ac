"""Numbers that callers and agents send: whatever they are, the store can hold what is made of them.

One that it cannot hold would be journaled, stop the coordinator, and stop it again with every start.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from outrider.errors import InvalidRequest
from outrider.v1 import agent_service_pb2, task_pb2, worker_message_pb2
from outrider_coordinator.rpc import agent_facts, agent_session
from outrider_coordinator.rpc.fields import NUMBER_MAX, bounded_us, duration_us, number, time_us

INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
UINT64 = st.integers(0, 2**64 - 1)
TIMES = st.builds(Timestamp, seconds=INT64, nanos=INT32)
DURATIONS = st.builds(Duration, seconds=INT64, nanos=INT32)


def integers(value: Any) -> list[int]:
    """Every integer in nested tuples and lists."""
    if isinstance(value, (tuple, list)):
        return [number for part in value for number in integers(part)]
    return [value] if isinstance(value, int) else []


@given(TIMES, DURATIONS)
def test_times_are_between_1970_and_the_year_9999(time: Timestamp, duration: Duration) -> None:
    """Also when a duration is added: ten thousand years at most."""
    assert 0 <= time_us(time) <= 253_402_300_800_000_000
    assert 0 <= bounded_us(duration) <= 315_576_000_000_000_000
    assert time_us(time) + 16 * bounded_us(duration) <= NUMBER_MAX
    with suppress(InvalidRequest):
        assert duration_us(duration, "field") == bounded_us(duration)


@pytest.mark.parametrize(("seconds", "words"), [(-1, "negative"), (315_576_000_001, "10,000 years")])
def test_a_duration_that_cannot_be_is_refused_with_its_field(seconds: int, words: str) -> None:
    """A client is told; what an agent says is taken as the nearest that can be."""
    with pytest.raises(InvalidRequest, match=words):
        duration_us(Duration(seconds=seconds), "spec.timeout")


@given(UINT64)
def test_a_number_of_64_bits_becomes_one_of_63(value: int) -> None:
    """What is over is the highest one, which nobody was ever given."""
    assert number(value) == min(value, NUMBER_MAX)


@given(UINT64, UINT64, TIMES, st.integers(0, 2**32 - 1), DURATIONS)
def test_what_an_agent_reports_fits_the_store(
    fence: int, count: int, time: Timestamp, attempt: int, duration: Duration
) -> None:
    """Fences, message numbers, times and durations of every kind of report."""
    ref = {"task_id": "t", "attempt": attempt, "fence": fence, "number": count, "event_time": time}
    start = worker_message_pb2.Start(event_time=time)
    waits = (
        task_pb2.BlockedReason(complexity=task_pb2.ComplexityExceeded(additional_duration=duration)),
        task_pb2.BlockedReason(external=task_pb2.ExternalDependency(system="s", retry_time=time)),
    )
    for arm in ({"completed": worker_message_pb2.Completed()}, *({"blocked": wait} for wait in waits), {}):
        made = worker_message_pb2.WorkerMessage(terminal="blocked" not in arm, **ref, **arm)
        made.start.CopyFrom(start)
        assert all(abs(one) <= NUMBER_MAX for one in integers(agent_facts.report(made)))


@given(UINT64, UINT64, UINT64, st.integers(0, 2**32 - 1))
def test_what_an_agent_says_at_first_fits_the_store(first: int, last: int, start_ms: int, slots: int) -> None:
    """Outboxes, its own start, its slots: lists of so many are made of those."""
    hello = agent_service_pb2.Hello(agent_id="a", instance_start_ms=start_ms, slots=slots, boottime_ns=first)
    hello.prefetch_credit = hello.parked_max = slots
    hello.outboxes.add(outbox_id="o", first_seq=first, last_seq=last)
    opened = agent_session._hello(hello, None)
    assert opened.slots <= 1 << 16
    assert opened.prefetch_credit <= 1 << 16
    assert opened.parked_max <= 1 << 16
    assert opened.instance_start_ms <= NUMBER_MAX
    assert opened.boot_us <= NUMBER_MAX
    outbox = opened.outboxes[0]
    assert max(outbox.first_seq, outbox.last_seq) <= NUMBER_MAX // 2 + 1


@pytest.mark.parametrize("name", ["", "A", "-a", "a/b", "..", "a\n", "ä", "a" * 64])
def test_an_agents_name_is_a_name(name: str) -> None:
    """As the protocol says: it stands in paths, tables and logs of others."""
    with pytest.raises(InvalidRequest, match="agent_id"):
        agent_session._check(agent_service_pb2.Hello(agent_id=name))
