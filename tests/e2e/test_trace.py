"""One trace from the submit to user code, seen by a real OTLP receiver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.client import Client
from outrider.tracing import TraceParent, new_span_id, new_trace_id
from outrider.v1 import task_pb2, task_service_pb2
from support.agent_process import AgentProcess
from support.coordinator_process import CoordinatorProcess
from support.otlp_receiver import OtlpReceiver, ReceivedSpan, otlp_receiver

WAIT_S = 30.0
MODULE = """
def traced():
    from opentelemetry import trace
    with trace.get_tracer("mine").start_as_current_span("inside"):
        return 1

def fails_once():
    from outrider.worker import current
    if current.attempt == 1:
        raise ValueError("once")
"""


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """Where everything is exported to."""
    with otlp_receiver() as running:
        yield running


@pytest.fixture
def coordinator(tmp_path: Path, receiver: OtlpReceiver) -> Iterator[CoordinatorProcess]:
    """A coordinator and an agent that export, with the functions above to call."""
    (tmp_path / "traced_work.py").write_text(MODULE)
    process = CoordinatorProcess(tmp_path / "coordinator", **receiver.environment)
    process.start()
    try:
        with AgentProcess(tmp_path, process.address, environment=receiver.environment):
            yield process
    finally:
        process.kill()


def submit(coordinator: CoordinatorProcess, spec: task_pb2.TaskSpec, context: TraceParent | None) -> str:
    """Submit under the client's span and wait for the task's end; its id."""
    trace = task_pb2.TraceContext(traceparent=context.format()) if context else None
    request = task_service_pb2.SubmitRequest(request_id=new_span_id(), spec=spec, trace=trace)
    task_id = coordinator.tasks.Submit(request).task_id
    list(coordinator.tasks.ReadLogs(task_service_pb2.ReadLogsRequest(task_id=task_id, follow=True), timeout=WAIT_S))
    return task_id


def function(name: str, **policy: object) -> task_pb2.TaskSpec:
    """A task that calls one of the functions above."""
    call = task_pb2.PythonFunction(function=f"traced_work:{name}")
    return task_pb2.TaskSpec(function=call, **policy)  # type: ignore[arg-type] # fields of several types


def named(spans: list[ReceivedSpan], prefix: str) -> list[ReceivedSpan]:
    """Spans whose name begins so, by time."""
    return sorted((span for span in spans if span.name.startswith(prefix)), key=lambda span: span.start_ns)


def test_a_task_is_one_trace(coordinator: CoordinatorProcess, receiver: OtlpReceiver) -> None:
    """Coordinator, agent, worker and user code add their spans to the client's trace, each below the one before."""
    context = TraceParent(new_trace_id(), new_span_id())
    submit(coordinator, function("traced"), context)
    spans = receiver.wait_for(
        lambda spans: named(spans, "inside") and named(spans, "dispatch") and named(spans, "execute")
    )
    assert {span.trace_id for span in spans} == {context.trace_id}
    by_id = {span.span_id: span for span in spans}
    (inside,) = named(spans, "inside")
    chain = [inside]
    while chain[-1].parent_id in by_id:
        chain.append(by_id[chain[-1].parent_id])
    assert [span.name.split()[0] for span in chain] == ["inside", "execute", "receive", "dispatch", "schedule"]
    assert chain[-1].parent_id == context.span_id
    services = [span.service for span in chain]
    assert services[-2:] == ["outrider-coordinator", "outrider-coordinator"]
    assert "outrider-agent" in services


def test_a_flag_besides_sampled_changes_nothing(coordinator: CoordinatorProcess, receiver: OtlpReceiver) -> None:
    """A context that ends in -03 is sampled; one that ends in -02 is not, and exports nothing."""
    quiet = TraceParent(new_trace_id(), new_span_id(), sampled=False)
    submit(coordinator, function("traced"), quiet)
    loud = TraceParent(new_trace_id(), new_span_id())
    trace = task_pb2.TraceContext(traceparent=loud.format()[:-2] + "03")
    coordinator.tasks.Submit(task_service_pb2.SubmitRequest(request_id="r3", spec=function("traced"), trace=trace))
    spans = receiver.wait_for(lambda spans: named(spans, "execute"))
    assert {span.trace_id for span in spans} == {loud.trace_id}


def test_a_retry_is_linked_to_the_attempt_before(coordinator: CoordinatorProcess, receiver: OtlpReceiver) -> None:
    """The second attempt's dispatch stands beside the first one's and links to it."""
    context = TraceParent(new_trace_id(), new_span_id())
    retry = task_pb2.RetryPolicy(max_attempts=2)
    submit(coordinator, function("fails_once", retry=retry), context)
    spans = receiver.wait_for(lambda spans: len(named(spans, "dispatch")) == 2 and len(named(spans, "execute")) == 2)
    first, second = named(spans, "dispatch")
    assert (context.trace_id, first.span_id) in second.links
    failed, succeeded = named(spans, "execute")
    assert failed.is_error
    assert not succeeded.is_error


def test_without_a_trace_nothing_is_exported(coordinator: CoordinatorProcess, receiver: OtlpReceiver) -> None:
    """A submit without a context makes no spans anywhere."""
    submit(coordinator, function("fails_once"), None)
    context = TraceParent(new_trace_id(), new_span_id())
    submit(coordinator, function("fails_once"), context)
    spans = receiver.wait_for(lambda spans: named(spans, "execute"))
    assert {span.trace_id for span in spans} == {context.trace_id}


@pytest.fixture
def client(
    coordinator: CoordinatorProcess, receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """A client of the SDK in a program that exports."""
    for name, value in receiver.environment.items():
        monkeypatch.setenv(name, value)
    with Client(coordinator.address) as connected:
        yield connected


def test_client_coordinator_agent_and_worker_share_one_trace(client: Client, receiver: OtlpReceiver) -> None:
    """With OTEL_* set and no span of its own, a program's submit begins the trace that ends in user code."""
    handle = client.submit("traced_work:traced")
    assert handle.result(WAIT_S) == 1
    names = ["submit", "schedule", "dispatch", "receive", "execute", "inside"]
    spans = receiver.wait_for(lambda spans: all(named(spans, name) for name in names) and spans)
    assert {span.trace_id for span in spans} == {named(spans, "submit")[0].trace_id}
    chain = [named(spans, name)[0] for name in names]
    assert [span.parent_id for span in chain] == ["", *(span.span_id for span in chain[:-1])]
    services = {span.service for span in chain}
    assert {"outrider-client", "outrider-coordinator", "outrider-agent"} <= services
    assert chain[0].attributes["outrider.task.id"] == handle.id


def test_a_run_is_one_trace(client: Client, receiver: OtlpReceiver) -> None:
    """Every task of a graph has its spans in the trace of the run's submit."""
    run = client.run("two")
    run.add("first", "traced_work:traced")
    run.add("second", "traced_work:traced", after=["first"])
    assert run.submit().wait(WAIT_S)
    spans = receiver.wait_for(lambda spans: len(named(spans, "execute")) == 2 and named(spans, "submit") and spans)
    (submit_span,) = named(spans, "submit")
    assert {span.trace_id for span in spans} == {submit_span.trace_id}


def test_a_trace_survives_the_coordinator(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """A coordinator killed between submit and dispatch goes on in the same trace after its restart."""
    (tmp_path / "traced_work.py").write_text(MODULE)
    process = CoordinatorProcess(tmp_path / "coordinator", **receiver.environment)
    process.start()
    try:
        context = TraceParent(new_trace_id(), new_span_id())
        trace = task_pb2.TraceContext(traceparent=context.format())
        process.tasks.Submit(task_service_pb2.SubmitRequest(request_id="r", spec=function("traced"), trace=trace))
        process.kill()
        process.start()
        with AgentProcess(tmp_path, process.address, environment=receiver.environment):
            spans = receiver.wait_for(lambda spans: named(spans, "inside") and named(spans, "dispatch") and spans)
        assert {span.trace_id for span in spans} == {context.trace_id}
        assert named(spans, "schedule")[0].parent_id == context.span_id
    finally:
        process.kill()
