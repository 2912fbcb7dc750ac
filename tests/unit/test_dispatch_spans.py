"""The coordinator's spans of an assignment: ids that need no storage, and nothing for what is not sampled."""

from __future__ import annotations

from typing import Any, cast

import pytest

from outrider.telemetry import SpanExporter
from outrider.tracing import TraceParent, parse
from outrider.worker.messages import Span
from outrider_coordinator.core.effects import PushAssign
from outrider_coordinator.core.model import Trace
from outrider_coordinator.telemetry import DispatchTracer, span_exporter

CLIENT = TraceParent("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


class Collected:
    """Stands where the exporter stands."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def add(self, spans: list[Span]) -> None:
        """Keep them."""
        self.spans += spans


def push(attempt: int = 1, traceparent: str = CLIENT.format(), ready_us: int = 1_500) -> PushAssign:
    """An assignment offered at 2,000 us."""
    facts: dict[str, Any] = dict.fromkeys(PushAssign._fields, "") | {
        "task_id": "t1",
        "title": "m:f",
        "run_id": "r1",
    }
    facts |= {"attempt": attempt, "created_us": 1_000, "ready_us": ready_us, "offered_us": 2_000}
    return PushAssign(**facts | {"trace": Trace(traceparent, "vendor=1")})


def traced(send: PushAssign) -> tuple[PushAssign, list[Span]]:
    """The push as it leaves at 3,000 us, and the spans made for it."""
    collected = Collected()
    sent = DispatchTracer(cast(SpanExporter, collected), lambda: 3_000).traced(send)
    return sent, collected.spans


def test_schedule_and_dispatch_follow_the_clients_span() -> None:
    """`schedule` stands below the client's span, `dispatch` below `schedule`, and the agent continues `dispatch`."""
    sent, (schedule, dispatch) = traced(push())
    assert (schedule.parent_id, dispatch.parent_id) == (CLIENT.span_id, schedule.span_id)
    assert parse(sent.trace.parent) == TraceParent(CLIENT.trace_id, dispatch.span_id)
    assert sent.trace.state == "vendor=1"
    assert (schedule.start_ns, schedule.end_ns) == (1_500_000, 2_000_000)
    assert (dispatch.start_ns, dispatch.end_ns) == (2_000_000, 3_000_000)
    assert dispatch.attributes["outrider.run.id"] == "r1"


def test_the_same_assignment_has_the_same_ids_after_a_restart() -> None:
    """Another process makes the same ids from the same facts; another attempt has its own."""
    first, again, second = traced(push())[0], traced(push())[0], traced(push(attempt=2))[0]
    assert first.trace == again.trace
    assert first.trace != second.trace


def test_a_second_attempt_links_to_the_first() -> None:
    """The dispatch of attempt 2 carries a link to that of attempt 1, and the first carries none."""
    _, (_, first) = traced(push())
    _, (_, second) = traced(push(attempt=2))
    assert first.links == []
    assert [parse(link) for link in second.links] == [TraceParent(CLIENT.trace_id, first.span_id)]


@pytest.mark.parametrize("traceparent", ["", "nonsense"])
def test_a_task_without_a_context_stays_without(traceparent: str) -> None:
    """Nothing is made up for a submit that nobody traces."""
    send = push(traceparent=traceparent)
    assert traced(send) == (send, [])


def test_a_context_that_is_not_sampled_is_passed_on_in_silence() -> None:
    """The agent still gets a context of the same trace, not sampled either, and no span is made."""
    sent, spans = traced(push(traceparent=CLIENT.format()[:-2] + "02"))
    passed = parse(sent.trace.parent)
    assert passed is not None
    assert (passed.trace_id, passed.sampled) == (CLIENT.trace_id, False)
    assert spans == []


def test_a_clock_that_lags_makes_no_negative_span() -> None:
    """A ready time after the offer, as a coordinator may read from an older one, gives an empty span."""
    _, (schedule, _) = traced(push(ready_us=9_000))
    assert schedule.start_ns == schedule.end_ns == 2_000_000


def test_nothing_is_exported_unless_asked() -> None:
    """Without the standard variables there is no exporter at all."""
    assert span_exporter("s", {}) is None
    assert span_exporter("s", {"OTEL_TRACES_EXPORTER": "otlp"}) is not None
