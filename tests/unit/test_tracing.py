"""W3C trace context: what is read, what is refused, and which context is the current one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.tracing import TraceParent, current_traceparent, new_span_id, new_trace_id, parse

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"

hex_ids = st.integers(min_value=1, max_value=2**64 - 1)


@pytest.mark.parametrize(
    ("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True), ("fe", False)]
)
def test_only_the_sampled_bit_counts(flags: str, sampled: bool) -> None:
    """Of the trace flags only the lowest bit decides, so `-03` is sampled and `-02` is not."""
    assert parse(f"00-{TRACE}-{SPAN}-{flags}") == TraceParent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-extra",
        f"00-{TRACE}-{SPAN}-01-",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{TRACE}-{SPAN}-1",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"01-{TRACE}-{SPAN}-01extra",
        f"0x-{TRACE}-{SPAN}-01",
    ],
)
def test_an_invalid_context_is_no_context(text: str) -> None:
    """Whatever the specification calls invalid starts a new trace instead of an error."""
    assert parse(text) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    """A version after 00 may carry more fields behind another dash."""
    assert parse(f"01-{TRACE}-{SPAN}-01-what-comes-later") == TraceParent(TRACE, SPAN, True)
    assert parse(f"cc-{TRACE}-{SPAN}-01") == TraceParent(TRACE, SPAN, True)


@given(hex_ids, hex_ids, st.booleans())
def test_what_is_formatted_is_read_back(trace: int, span: int, sampled: bool) -> None:
    """Formatting and parsing are inverse."""
    context = TraceParent(f"{trace:032x}", f"{span:016x}", sampled)
    assert parse(context.format()) == context


@given(st.text(max_size=80))
def test_no_text_makes_the_parser_raise(text: str) -> None:
    """Any text at all is a context or is not; it never raises, and what is accepted survives a round."""
    context = parse(text)
    assert context is None or parse(context.format()) == context


def test_new_ids_have_the_right_form() -> None:
    """New ids have 32 and 16 digits and a child stays in its trace under a new span id."""
    context = TraceParent(new_trace_id(), new_span_id())
    assert parse(context.format()) == context
    child = context.child()
    assert (child.trace_id, child.sampled) == (context.trace_id, True)
    assert child.span_id != context.span_id


def test_the_environment_gives_the_context_without_an_active_span() -> None:
    """TRACEPARENT is used when it is valid, and normalised."""
    assert current_traceparent({"TRACEPARENT": f"00-{TRACE}-{SPAN}-03"}) == f"00-{TRACE}-{SPAN}-01"
    assert current_traceparent({"TRACEPARENT": "00-nonsense"}) == ""
    assert current_traceparent({}) == ""


def test_the_active_span_wins_over_the_environment() -> None:
    """Inside a span of the caller's own tracer its context is the current one."""
    from opentelemetry import trace

    context = trace.SpanContext(int(TRACE, 16), int(SPAN, 16), False, trace.TraceFlags(1))
    other = TraceParent(new_trace_id(), new_span_id()).format()
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert current_traceparent({"TRACEPARENT": other}) == f"00-{TRACE}-{SPAN}-01"
    assert current_traceparent({"TRACEPARENT": other}) == other


def test_asking_for_the_context_imports_nothing() -> None:
    """Without OpenTelemetry in the program neither tracing nor telemetry brings it, or gRPC, in."""
    program = (
        "import sys, outrider.tracing, outrider.telemetry as t; outrider.tracing.current_traceparent();"
        "t.is_configured(); t.SpanExporter('x', {}).close(1.0);"
        "print([m for m in sys.modules if m.partition('.')[0] in ('grpc', 'opentelemetry', 'google')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
