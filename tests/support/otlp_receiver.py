"""A small OTLP/gRPC trace receiver on a loopback port, for tests that look at what was exported."""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from support.waiting import eventually


@dataclass(frozen=True)
class ReceivedSpan:
    """One span as it arrived, flattened; ids are lower-case hexadecimal, ``kind`` is the OTLP enum's number."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    error: str
    is_error: bool
    links: tuple[tuple[str, str], ...]

    @property
    def service(self) -> str:
        """Which daemon or program it came from."""
        return str(self.resource["service.name"])


class OtlpReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span. While `hang` is set calls are taken and never answered."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.calls = 0
        self.called = threading.Event()
        self._answering = threading.Event()
        self._answering.set()
        self._server = grpc.server(ThreadPoolExecutor(8), options=(("grpc.so_reuseport", 0),))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    @property
    def environment(self) -> dict[str, str]:
        """What to put into a process's environment so that it exports here."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}

    def hang(self) -> None:
        """From now on answer nobody."""
        self._answering.clear()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the generated servicer's name
        """OTLP's one call."""
        self.calls += 1
        self.called.set()
        self._answering.wait()
        self.spans.extend(_flattened(request))
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait_for(self, predicate: Callable[[list[ReceivedSpan]], Any], timeout_s: float = 20.0) -> list[ReceivedSpan]:
        """Wait until the spans so far satisfy ``predicate``; return them all."""
        eventually(lambda: predicate(list(self.spans)), timeout_s, "the expected spans arrive")
        return list(self.spans)

    def close(self) -> None:
        """Let hanging calls go and stop."""
        self._answering.set()
        self._server.stop(None).wait()


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """A running receiver."""
    receiver = OtlpReceiver()
    try:
        yield receiver
    finally:
        receiver.close()


def _flattened(request: Any) -> Iterator[ReceivedSpan]:
    for resource_spans in request.resource_spans:
        resource = _plain(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield _received(span, resource)


def _received(span: Any, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_plain(span.attributes),
        resource=resource,
        error=span.status.message,
        is_error=span.status.code == 2,
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
    )


def _plain(attributes: list[KeyValue]) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value") for item in attributes}
