"""Export of finished spans by OTLP: the only module that imports OpenTelemetry, and only once there is a span to send.

Owns the queue between whoever finishes spans and the collector, and the thread that empties it. It must not know what
a task is: it takes `outrider.worker.messages.Span` records and sends them. Invariants: `SpanExporter.add` never
blocks and never raises, whatever the collector does; the queue is bounded, and what does not fit is counted and
dropped; `SpanExporter.close` returns within its deadline.

Configured by the standard ``OTEL_*`` variables.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from outrider.tracing import parse
from outrider.worker.messages import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

__all__ = ["SpanExporter", "is_configured"]

#: Spans that may wait; about 1 KiB each.
QUEUE_SPANS_MAX = 8192
#: Spans in one export call.
BATCH_SPANS_MAX = 512
#: How long the first span of a batch waits for others, s.
LINGER_S = 0.25

_GRPC_EXPORTER = "opentelemetry.exporter.otlp.proto.grpc"
_HTTP_EXPORTER = "opentelemetry.exporter.otlp.proto.http"

_logger = logging.getLogger(__name__)


def is_configured(environment: Mapping[str, str] | None = None) -> bool:
    """Whether the environment asks for traces by OTLP. Imports nothing.

    ``OTEL_TRACES_EXPORTER`` decides when it is set; otherwise an OTLP endpoint for traces, or for everything, does.
    """
    environment = os.environ if environment is None else environment
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporters:
        return "otlp" in (name.strip() for name in exporters.split(","))
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return any(environment.get(name) for name in endpoints)


class SpanExporter:
    """Sends span records to the collector from a thread of its own.

    ``service_name`` and ``attributes`` describe this process; ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES``
    win over them. The thread starts with the first span.
    """

    def __init__(self, service_name: str, attributes: Mapping[str, str | int | float | bool]) -> None:
        self._attributes = {"service.name": service_name, **attributes}
        self._queue: deque[Span] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._healthy = True
        self._dropped = 0
        self._exported = 0

    @property
    def dropped(self) -> int:
        """Spans lost since the start: no room, or the collector did not take them."""
        return self._dropped

    @property
    def exported(self) -> int:
        """Spans the collector has taken since the start."""
        return self._exported

    def add(self, spans: Sequence[Span]) -> None:
        """Queue finished spans. Never blocks; what is over the bound or comes after `close` is dropped and counted."""
        with self._changed:
            room = 0 if self._closing.is_set() else QUEUE_SPANS_MAX - len(self._queue)
            self._queue.extend(spans[:room])
            self._dropped += max(0, len(spans) - room)
            if self._queue and self._thread is None:
                self._start()
            self._changed.notify()

    def close(self, deadline_s: float) -> None:
        """Send what is queued, waiting at most ``deadline_s``; what is left then is given up. Safe to call twice."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(deadline_s)

    def _start(self) -> None:
        # A daemon thread: a collector that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="outrider-telemetry", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            pipe = _Pipe(self._attributes)
        except Exception as error:  # whatever is wrong with telemetry must never end the work it observes
            _logger.warning("cannot export traces: %s; going on without them", error)
            self._give_up()
            return
        while batch := self._next_batch():
            self._send(pipe, batch)
        pipe.close()

    def _give_up(self) -> None:
        with self._changed:
            self._closing.set()
            self._dropped += len(self._queue)
            self._queue.clear()

    def _next_batch(self) -> list[Span]:
        """Wait for spans, then a moment for more; an empty list once closed and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing.is_set())
            self._changed.wait_for(self._is_worth_sending, timeout=LINGER_S)
            count = min(BATCH_SPANS_MAX, len(self._queue))
            return [self._queue.popleft() for _ in range(count)]

    def _is_worth_sending(self) -> bool:
        return self._closing.is_set() or len(self._queue) >= BATCH_SPANS_MAX

    def _send(self, pipe: _Pipe, batch: list[Span]) -> None:
        problem = pipe.send(batch)
        with self._changed:
            if problem:
                self._dropped += len(batch)
            else:
                self._exported += len(batch)
        self._report(problem)

    def _report(self, problem: str) -> None:
        """One line when exporting starts to fail and one when it works again, not one per batch."""
        if problem and self._healthy:
            _logger.warning("cannot export traces: %s; spans are dropped until the collector answers", problem)
        elif not problem and not self._healthy:
            _logger.warning("traces are exported again; %d spans were dropped", self._dropped)
        self._healthy = not problem


class _Pipe:
    """The OpenTelemetry side: conversion and the exporter. Made and used in the export thread only."""

    def __init__(self, attributes: Mapping[str, str | int | float | bool]) -> None:
        self._exporter = _otlp_exporter()
        self._resource = _resource(attributes)
        self._last_line = ""
        self._thread_id = threading.get_ident()
        for logger in _exporters_loggers():
            logger.addFilter(self._keep_own_lines_back)

    def send(self, batch: Sequence[Span]) -> str:
        """Export one batch. Returns what went wrong, in one line, or an empty string."""
        try:
            result = self._exporter.export([_readable(span, self._resource) for span in batch])
        except Exception as error:  # see SpanExporter._run
            return f"{type(error).__name__}: {error}"
        return "" if result.value == 0 else self._last_line or "the collector did not take them"

    def close(self) -> None:
        """Let the connection go, and the loggers: another thread may get this one's number."""
        for logger in _exporters_loggers():
            logger.removeFilter(self._keep_own_lines_back)
        self._exporter.shutdown()

    def _keep_own_lines_back(self, record: logging.LogRecord) -> bool:
        # The exporter logs every failed try; other users of it in this process keep their lines.
        if record.thread != self._thread_id:
            return True
        self._last_line = record.getMessage()
        return False


def _exporters_loggers() -> list[logging.Logger]:
    return [logging.getLogger(name) for name in (f"{_GRPC_EXPORTER}.exporter", f"{_HTTP_EXPORTER}.trace_exporter")]


def _otlp_exporter() -> Any:
    variables = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((os.environ[name] for name in variables if os.environ.get(name)), "grpc")
    modules = {"grpc": _GRPC_EXPORTER, "http/protobuf": _HTTP_EXPORTER}
    if protocol not in modules:
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; set it to one of {', '.join(modules)}")
    try:
        module = importlib.import_module(f"{modules[protocol]}.trace_exporter")
    except ModuleNotFoundError:
        package = modules[protocol].replace(".", "-")
        raise ValueError(f"OTLP over {protocol} needs another package: pip install {package}") from None
    return module.OTLPSpanExporter()


def _resource(attributes: Mapping[str, str | int | float | bool]) -> Resource:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    # Resource.create would let our attributes win over the environment's.
    sdk = Resource.create({}).merge(Resource(dict(attributes)))
    return sdk.merge(OTELResourceDetector().detect())


def _readable(span: Span, resource: Resource) -> ReadableSpan:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode

    links = [parsed for text in span.links if (parsed := parse(text)) is not None]
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace_id, span.span_id),
        parent=_context(span.trace_id, span.parent_id) if span.parent_id else None,
        resource=resource,
        attributes=span.attributes,
        links=[Link(_context(link.trace_id, link.span_id)) for link in links],
        kind=SpanKind(span.kind),
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope("outrider"),
    )


def _context(trace_id: str, span_id: str) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
