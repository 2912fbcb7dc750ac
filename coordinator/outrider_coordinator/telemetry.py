"""The coordinator's spans: `schedule`, from ready to offered, and `dispatch`, from offered to handed over.

Owns their names, their times and their ids. Ids are made from the trace, the task and the attempt, so nothing is stored
for them and a restarted coordinator goes on in the same trace. A context that is not sampled is passed on and makes no
spans; a task without a context has none. Exporting is `outrider.telemetry`'s business; without it configured nothing
here is made and the submitter's context goes to the agent as it came.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping

from outrider import telemetry
from outrider.tracing import TraceParent, parse
from outrider.worker.messages import Span
from outrider_coordinator.core.effects import PushAssign
from outrider_coordinator.core.model import Trace

_INTERNAL, _PRODUCER = 0, 3

SpanExporter = telemetry.SpanExporter


def span_exporter(store_id: str, environment: Mapping[str, str] | None = None) -> SpanExporter | None:
    """The exporter of this coordinator, or None when the environment asks for none."""
    environment = os.environ if environment is None else environment
    if not telemetry.is_configured(environment):
        return None
    return SpanExporter("outrider-coordinator", {"outrider.store.id": store_id})


class DispatchTracer:
    """Makes the two spans of every assignment as it is handed to its session."""

    def __init__(self, exporter: SpanExporter, now_us: Callable[[], int]) -> None:
        self._exporter = exporter
        self._now_us = now_us

    def traced(self, send: PushAssign) -> PushAssign:
        """The same push, with the `dispatch` span as its context."""
        parent = parse(send.trace.parent)
        if parent is None:
            return send
        dispatch = _context(parent, send, "dispatch", send.attempt)
        if parent.sampled:
            self._exporter.add([_schedule_span(parent, send), _dispatch_span(parent, send, self._now_us())])
        return send._replace(trace=Trace(dispatch.format(), send.trace.state))


def _schedule_span(parent: TraceParent, send: PushAssign) -> Span:
    context = _context(parent, send, "schedule", send.attempt)
    begin_us = min(max(send.created_us, send.ready_us), send.offered_us)
    return _span("schedule", context, parent, send, begin_us, send.offered_us, _INTERNAL)


def _dispatch_span(parent: TraceParent, send: PushAssign, now_us: int) -> Span:
    context = _context(parent, send, "dispatch", send.attempt)
    schedule = _context(parent, send, "schedule", send.attempt)
    before = [_context(parent, send, "dispatch", send.attempt - 1).format()] if send.attempt > 1 else []
    end_us = max(now_us, send.offered_us)
    return _span("dispatch", context, schedule, send, send.offered_us, end_us, _PRODUCER, before)


def _span(
    name: str,
    context: TraceParent,
    parent: TraceParent,
    send: PushAssign,
    begin_us: int,
    end_us: int,
    kind: int,
    links: list[str] | None = None,
) -> Span:
    attributes: dict[str, str | int | float | bool] = {
        "outrider.task.id": send.task_id,
        "outrider.attempt": send.attempt,
        "outrider.agent": send.agent_id,
        "outrider.namespace": send.namespace,
    }
    if send.run_id:
        attributes["outrider.run.id"] = send.run_id
    return Span(
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_id=parent.span_id,
        name=f"{name} {send.title}" if send.title else name,
        kind=kind,
        start_ns=begin_us * 1000,
        end_ns=end_us * 1000,
        attributes=attributes,
        links=links or [],
    )


def _context(parent: TraceParent, send: PushAssign, name: str, attempt: int) -> TraceParent:
    seed = f"{parent.trace_id}/{send.task_id}/{attempt}/{name}".encode()
    return TraceParent(parent.trace_id, hashlib.blake2b(seed, digest_size=8).hexdigest(), parent.sampled)
