"""Export of spans to a real OTLP receiver over gRPC, and what a broken one does to the caller: nothing."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from outrider import telemetry
from outrider.telemetry import SpanExporter, is_configured
from outrider.tracing import TraceParent, new_span_id, new_trace_id
from outrider.worker.messages import Span
from support.otlp_receiver import OtlpReceiver, otlp_receiver
from support.waiting import eventually


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    """A receiver that this process's environment points to."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    with otlp_receiver() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def a_span(name: str = "execute", **changes: object) -> Span:
    """A finished span with fresh ids."""
    facts: dict[str, object] = {
        "trace_id": new_trace_id(),
        "span_id": new_span_id(),
        "parent_id": new_span_id(),
        "name": name,
        "kind": 4,
        "start_ns": 1_700_000_000_000_000_000,
        "end_ns": 1_700_000_000_500_000_000,
        "attributes": {"outrider.task.id": "t1", "outrider.attempt": 2, "load": 0.5, "warm": True},
    }
    return Span(**(facts | changes))  # type: ignore[arg-type] # a dict of mixed values


def test_a_span_arrives_as_it_was_recorded(receiver: OtlpReceiver) -> None:
    """Ids, parent, kind, times, attributes, links, error and resource of a record reach the collector unchanged."""
    link = TraceParent(new_trace_id(), new_span_id())
    sent = a_span(error="it broke", links=[link.format(), "nonsense"])
    exporter = SpanExporter("outrider-agent", {"outrider.agent": "a1"})
    exporter.add([sent])
    exporter.close(10.0)
    (got,) = receiver.spans
    assert (got.trace_id, got.span_id, got.parent_id) == (sent.trace_id, sent.span_id, sent.parent_id)
    assert (got.name, got.kind, got.start_ns, got.end_ns) == (sent.name, 5, sent.start_ns, sent.end_ns)
    assert got.attributes == sent.attributes
    assert (got.is_error, got.error) == (True, "it broke")
    assert got.links == ((link.trace_id, link.span_id),)
    assert got.resource["service.name"] == "outrider-agent"
    assert got.resource["outrider.agent"] == "a1"
    assert (exporter.exported, exporter.dropped) == (1, 0)


def test_a_root_span_has_no_parent_and_no_error(receiver: OtlpReceiver) -> None:
    """An empty parent id and an empty error stay empty."""
    exporter = SpanExporter("outrider", {})
    exporter.add([a_span(parent_id="", kind=3)])
    exporter.close(10.0)
    (got,) = receiver.spans
    assert (got.parent_id, got.is_error, got.kind) == ("", False, 4)


def test_the_environment_names_the_service(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over what the program says of itself."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab")
    exporter = SpanExporter("outrider-coordinator", {"outrider.store": "s"})
    exporter.add([a_span()])
    exporter.close(10.0)
    (got,) = receiver.spans
    assert got.service == "mine"
    assert got.resource["deployment.environment.name"] == "lab"
    assert got.resource["outrider.store"] == "s"


def test_spans_of_many_threads_all_arrive(receiver: OtlpReceiver) -> None:
    """Adding from several threads at once loses nothing and needs few calls."""
    exporter = SpanExporter("outrider", {})
    threads = [threading.Thread(target=lambda: [exporter.add([a_span()]) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    exporter.close(20.0)
    assert len({span.span_id for span in receiver.spans}) == 800
    assert receiver.calls < 50


def test_a_hung_collector_blocks_nobody(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a collector that takes calls and never answers, adding stays quick, the queue bounded, closing in time."""
    monkeypatch.setattr(telemetry, "QUEUE_SPANS_MAX", 100)
    receiver.hang()
    exporter = SpanExporter("outrider", {})
    exporter.add([a_span()])
    assert receiver.called.wait(20.0)
    started = time.monotonic()
    for _ in range(20):
        exporter.add([a_span() for _ in range(10)])
    assert time.monotonic() - started < 1.0
    assert exporter.dropped == 100
    started = time.monotonic()
    exporter.close(0.2)
    assert time.monotonic() - started < 2.0


def test_a_process_ends_although_its_collector_hangs(receiver: OtlpReceiver) -> None:
    """A program that closes its exporter exits cleanly and quietly while the export call is still pending."""
    receiver.hang()
    program = (
        "from outrider.telemetry import SpanExporter; from outrider.worker.messages import Span; import sys\n"
        "e = SpanExporter('x', {}); e.add([Span('1' * 32, '2' * 16, '', 'n', 0, 1, 2, {})])\n"
        "sys.stdin.readline(); e.close(0.1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert receiver.called.wait(20.0)
    output, _ = process.communicate(b"\n", timeout=20.0)
    assert (process.returncode, output) == (0, b"")


def test_a_missing_collector_is_one_line(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listening means dropped spans and one line in the log that names the reason, not one per try."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    receiver.close()
    exporter = SpanExporter("outrider", {})
    with caplog.at_level(logging.INFO):
        exporter.add([a_span()])
        eventually(lambda: exporter.dropped == 1, timeout_s=20.0)
        exporter.add([a_span()])
        exporter.close(20.0)
    assert exporter.dropped == 2
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("cannot export traces: ")
    assert "error code: StatusCode." in lines[0]  # UNAVAILABLE, or DEADLINE_EXCEEDED where the machine is busy


@pytest.mark.parametrize(
    ("protocol", "said"),
    [("http/protobuf", "pip install opentelemetry-exporter-otlp-proto-http"), ("carrier-pigeon", "'carrier-pigeon'")],
)
def test_a_protocol_that_is_not_there_is_said_clearly(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, protocol: str, said: str
) -> None:
    """Asking for OTLP over something that is not installed is one line saying what to install; nothing else breaks."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    exporter = SpanExporter("outrider", {})
    exporter.add([a_span()])
    exporter.close(20.0)
    exporter.add([a_span()])
    (record,) = caplog.records
    assert said in record.getMessage()
    assert exporter.dropped == 2


@pytest.mark.parametrize(
    ("environment", "configured"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4317"}, False),
    ],
)
def test_the_standard_variables_switch_traces_on(environment: dict[str, str], configured: bool) -> None:
    """Traces are exported when an OTLP endpoint or exporter is named, and never when the SDK is disabled."""
    assert is_configured(environment) is configured


def test_a_closed_exporter_leaves_the_loggers_alone(receiver: OtlpReceiver) -> None:
    """Lines of a later exporter, whose thread may get the number of an earlier one's, reach the log."""
    names = ("opentelemetry.exporter.otlp.proto.grpc.exporter", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
    importlib.import_module("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")  # it adds a filter of its own
    before = [list(logging.getLogger(name).filters) for name in names]
    exporter = SpanExporter("outrider", {})
    exporter.add([a_span()])
    receiver.wait_for(lambda spans: len(spans) == 1)
    exporter.close(20.0)
    # Those of other exporters may end meanwhile.
    assert all(set(logging.getLogger(name).filters) <= set(known) for name, known in zip(names, before, strict=True))
