"""The trace of an attempt as the worker tells it, with a real worker process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.tracing import TraceParent, new_span_id, new_trace_id, parse
from outrider.worker import messages
from support.worker_harness import Worker

SOURCE = """
import os, sys, threading

def parent():
    return os.environ.get("TRACEPARENT", "")

def loaded():
    return [name for name in sys.modules if name.startswith("opentelemetry")]

def fails():
    raise ValueError("no luck")

def traced():
    from opentelemetry import trace
    with trace.get_tracer("mine").start_as_current_span("outer", attributes={"n": 1, "all": [1, 2]}):
        try:
            with trace.get_tracer("mine").start_as_current_span("inner"):
                raise ValueError("inside")
        except ValueError:
            pass

def in_a_thread():
    from opentelemetry import trace
    thread = threading.Thread(target=lambda: trace.get_tracer("mine").start_span("threaded").end())
    thread.start()
    thread.join()

def before_the_trace():
    import opentelemetry.trace
    global tracer
    tracer = opentelemetry.trace.get_tracer("mine")
    tracer.start_span("unseen").end()
    return "opentelemetry.sdk.trace" in sys.modules

def with_an_early_tracer():
    tracer.start_span("seen").end()

async def a_coroutine():
    from opentelemetry import trace
    @trace.get_tracer("mine").start_as_current_span("decorated")
    async def step():
        return 1
    return await step()

def with_a_provider_of_its_own():
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    early, kept = trace.get_tracer("early"), InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    assert trace.get_tracer_provider() is provider
    early.start_span("one").end()
    trace.get_tracer("late").start_span("two").end()
    return [[span.name, f"{span.parent.span_id:016x}"] for span in kept.get_finished_spans()]
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker that is ready and can import the module `spans_work`."""
    (tmp_path / "spans_work.py").write_text(SOURCE)
    one = Worker(tmp_path)
    assert isinstance(one.next(), messages.Ready)
    yield one
    one.close()


def context(*, sampled: bool = True) -> TraceParent:
    """A caller's span."""
    return TraceParent(new_trace_id(), new_span_id(), sampled)


def function(worker: Worker, key: int, name: str, parent: TraceParent | None) -> list[messages.FromWorker]:
    """Run a function to its success; everything the worker said, the result last."""
    work = messages.FunctionWork(f"spans_work:{name}", b"")
    worker.run(key, work, traceparent=parent.format() if parent else "")
    before, completed = worker.until(messages.Completed)
    return [*before, completed]


def spans_of(said: list[messages.FromWorker]) -> dict[str, messages.Span]:
    """The spans among the messages by their name's first word."""
    return {one.name.split()[0]: one for one in said if isinstance(one, messages.Span)}


def result_of(said: list[messages.FromWorker]) -> bytes:
    """What the function returned."""
    assert isinstance(said[-1], messages.Completed)
    return said[-1].data


def test_an_attempt_is_one_span_told_before_its_last_message(worker: Worker) -> None:
    """The span lies below the caller's, says what ran, and is what user code sees in TRACEPARENT."""
    parent = context()
    said = function(worker, 1, "parent", parent)
    execute = said[-2]
    assert isinstance(execute, messages.Span)
    assert (execute.name, execute.kind, execute.error) == ("execute spans_work:parent", 4, "")
    assert (execute.trace_id, execute.parent_id) == (parent.trace_id, parent.span_id)
    assert execute.attributes == {"outrider.task.id": "task-1", "outrider.attempt": 1, "outrider.agent": ""}
    assert 0 < execute.start_ns <= execute.end_ns
    assert result_of(said).decode().strip('"') == TraceParent(parent.trace_id, execute.span_id).format()


def test_a_failed_attempt_is_a_failed_span(worker: Worker) -> None:
    """The span carries the failure's message."""
    worker.run(1, messages.FunctionWork("spans_work:fails", b""), traceparent=context().format())
    before, _ = worker.until(messages.Failed)
    assert spans_of(before)["execute"].error == "no luck"


def test_a_command_sees_its_span(worker: Worker) -> None:
    """A command's TRACEPARENT names the span called after its program."""
    parent = context()
    worker.run(1, messages.CommandWork(["printenv", "TRACEPARENT"], {}), traceparent=parent.format())
    before, completed = worker.until(messages.Completed)
    execute = spans_of(before)["execute"]
    assert execute.name == "execute printenv"
    assert execute.span_id.encode() in completed.data


def test_a_context_that_is_not_sampled_is_passed_on_silently(worker: Worker) -> None:
    """User code sees the caller's own context and nothing is told."""
    quiet = context(sampled=False)
    assert quiet.format().encode() in result_of(function(worker, 1, "parent", quiet))
    assert not spans_of(function(worker, 2, "traced", quiet))


def test_without_a_trace_there_is_none(worker: Worker) -> None:
    """No span, no TRACEPARENT, also after an attempt that had one."""
    function(worker, 1, "traced", context())
    assert not spans_of(function(worker, 2, "traced", None))
    assert result_of(function(worker, 3, "parent", None)) == b'""'


def test_a_worker_loads_no_telemetry_by_itself(worker: Worker) -> None:
    """OpenTelemetry is imported by user code or not at all, also in a traced attempt."""
    assert result_of(function(worker, 1, "loaded", context())) == b"[]"


def test_user_spans_hang_below_execute(worker: Worker) -> None:
    """Spans of user code keep their order of parents, their attributes and their error."""
    spans = spans_of(function(worker, 1, "traced", context()))
    assert spans["outer"].parent_id == spans["execute"].span_id
    assert spans["inner"].parent_id == spans["outer"].span_id
    assert {one.trace_id for one in spans.values()} == {spans["execute"].trace_id}
    assert spans["outer"].attributes == {"n": 1, "all": "[1,2]"}
    assert "inside" in spans["inner"].error


@pytest.mark.parametrize(("name", "span"), [("in_a_thread", "threaded"), ("a_coroutine", "decorated")])
def test_threads_and_coroutines_are_traced_too(worker: Worker, name: str, span: str) -> None:
    """A span begun outside the function's own thread, or around a coroutine, is a child of execute."""
    spans = spans_of(function(worker, 1, name, context()))
    assert spans[span].parent_id == spans["execute"].span_id


def test_a_tracer_made_before_any_trace_serves_later(worker: Worker) -> None:
    """A module's tracer made in an untraced attempt costs no SDK there and records in a traced one."""
    assert result_of(function(worker, 1, "before_the_trace", None)) == b"false"
    spans = spans_of(function(worker, 2, "with_an_early_tracer", context()))
    assert spans["seen"].parent_id == spans["execute"].span_id


def test_a_provider_of_the_users_own_wins(worker: Worker) -> None:
    """Spans go where the user's provider sends them, still below execute; we tell only our own."""
    said = function(worker, 1, "with_a_provider_of_its_own", context())
    spans = spans_of(said)
    assert set(spans) == {"execute"}
    below = spans["execute"].span_id
    assert result_of(said).decode() == f'[["one","{below}"],["two","{below}"]]'


def test_a_broken_context_is_none(worker: Worker) -> None:
    """A broken traceparent makes no span and fails nothing."""
    assert parse("00-broken") is None
    worker.run(1, messages.FunctionWork("spans_work:fails", b""), traceparent="00-broken")
    assert not spans_of(worker.until(messages.Failed)[0])
