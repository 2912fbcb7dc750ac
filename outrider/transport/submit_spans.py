"""The client's own spans: `submit`, from the call to the coordinator's answer; the parent of all that follows.

Without ``OTEL_*`` set nothing is exported and the caller's context, if there is one, is passed on as it is.
"""

from __future__ import annotations

import time

from outrider import telemetry
from outrider.tracing import TraceParent, current_traceparent, new_span_id, new_trace_id, parse
from outrider.v1 import task_pb2
from outrider.worker.messages import Span

_PRODUCER = 3


class OpenSpan:
    """A `submit` span that has begun. ``context`` is its own, for the request."""

    __slots__ = ("attributes", "began_ns", "context", "name", "parent_id")

    def __init__(self, name: str, context: TraceParent, parent_id: str) -> None:
        self.name = name
        self.context = context
        self.parent_id = parent_id
        self.began_ns = time.time_ns()
        self.attributes: dict[str, str | int | float | bool] = {}


class SubmitTracer:
    """Makes the spans of one client; ``is_active`` when the environment asks for traces."""

    def __init__(self) -> None:
        self.is_active = telemetry.is_configured()
        self._exporter = telemetry.SpanExporter("outrider-client", {}) if self.is_active else None

    def begin(self, name: str, trace: task_pb2.TraceContext) -> OpenSpan | None:
        """Write the context into ``trace``; the span when there is one to end."""
        text = current_traceparent()
        if not text and not self.is_active:
            return None
        parent = parse(text)
        if not self.is_active or (parent is not None and not parent.sampled):
            if parent is not None:
                trace.traceparent = parent.format()
            return None
        context = parent.child() if parent is not None else TraceParent(new_trace_id(), new_span_id())
        trace.traceparent = context.format()
        return OpenSpan(f"submit {name}", context, parent.span_id if parent is not None else "")

    def end(self, span: OpenSpan, error: str = "") -> None:
        """The coordinator has answered."""
        assert self._exporter is not None, "only an active tracer begins spans"
        self._exporter.add(
            [
                Span(
                    trace_id=span.context.trace_id,
                    span_id=span.context.span_id,
                    parent_id=span.parent_id,
                    name=span.name,
                    kind=_PRODUCER,
                    start_ns=span.began_ns,
                    end_ns=time.time_ns(),
                    attributes=span.attributes,
                    error=error,
                )
            ]
        )

    def close(self, deadline_s: float) -> None:
        """Send what is left, for at most ``deadline_s``."""
        if self._exporter is not None:
            self._exporter.close(deadline_s)
