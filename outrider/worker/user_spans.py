"""A tracer provider for user code that has set none: spans below a sampled context are exported, others cost nothing.

Owns the attempt's context in OpenTelemetry's terms, and the translation of a finished span into a message. Imported
only once user code has imported the API; the SDK is loaded with the first span that is recorded. A provider that the
user sets, before or later, takes over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.util._decorator import _agnosticcontextmanager  # also decorates coroutines, as users expect

from outrider.tracing import TraceParent, new_span_id, new_trace_id
from outrider.worker.messages import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class AttemptTracerProvider(trace.ProxyTracerProvider):
    """Stands in for the API's own stand-in, so that a user's `set_tracer_provider` works as ever."""

    def __init__(self, export: Callable[[Span], None]) -> None:
        self._export = export
        self._recording: trace.TracerProvider | None = None
        #: For threads of user code, which do not inherit the context of the thread that started them.
        self.attempt_context: Context | None = None

    def install(self) -> None:
        """Become what the API uses while nobody has set a provider. Raises RuntimeError on an API of another shape."""
        if not hasattr(trace, "_PROXY_TRACER_PROVIDER"):
            raise RuntimeError("this version of opentelemetry-api has no stand-in provider")
        trace._PROXY_TRACER_PROVIDER = self

    def enter(self, parent: TraceParent, tracestate: str) -> None:
        """Make ``parent`` the current span of the calling thread, and of threads without one."""
        span_context = trace.SpanContext(
            int(parent.trace_id, 16),
            int(parent.span_id, 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED if parent.sampled else trace.TraceFlags.DEFAULT),
            trace_state=trace.TraceState.from_header([tracestate] if tracestate else []),
        )
        self.attempt_context = trace.set_span_in_context(trace.NonRecordingSpan(span_context), Context())
        context_api.attach(self.attempt_context)

    def leave(self) -> None:
        """Leave nothing behind for the next attempt, also of what user code has attached."""
        self.attempt_context = None
        context_api.attach(Context())

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        """A tracer that asks for each span who is to record it."""
        return AttemptTracer(self, args, kwargs)

    def recording(self) -> trace.TracerProvider:
        """The SDK's provider that exports; without an SDK one that records nothing."""
        if self._recording is None:
            try:
                self._recording = _recording_provider(self._export)
            except ImportError:
                self._recording = trace.NoOpTracerProvider()
        return self._recording


class AttemptTracer(trace.Tracer):
    """Passes each span on to the user's provider, to ours, or to nobody."""

    def __init__(self, provider: AttemptTracerProvider, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._provider = provider
        self._args = args
        self._kwargs = kwargs
        self._none = trace.NoOpTracer()
        self._made: tuple[trace.TracerProvider, trace.Tracer] | None = None

    def start_span(self, name: str, context: Context | None = None, *args: Any, **kwargs: Any) -> trace.Span:
        """See `opentelemetry.trace.Tracer.start_span`."""
        context = self._parent(context)
        return self._tracer(context).start_span(name, context, *args, **kwargs)

    @_agnosticcontextmanager
    def start_as_current_span(
        self, name: str, context: Context | None = None, *args: Any, **kwargs: Any
    ) -> Iterator[trace.Span]:
        """See `opentelemetry.trace.Tracer.start_as_current_span`."""
        context = self._parent(context)
        with self._tracer(context).start_as_current_span(name, context, *args, **kwargs) as span:
            yield span

    def _parent(self, context: Context | None) -> Context | None:
        if context is None and not trace.get_current_span().get_span_context().is_valid:
            return self._provider.attempt_context
        return context

    def _tracer(self, context: Context | None) -> trace.Tracer:
        provider = trace.get_tracer_provider()
        if provider is self._provider:
            if not trace.get_current_span(context).get_span_context().trace_flags.sampled:
                return self._none
            provider = self._provider.recording()
        if self._made is None or self._made[0] is not provider:
            self._made = provider, provider.get_tracer(*self._args, **self._kwargs)
        return self._made[1]


def _recording_provider(export: Callable[[Span], None]) -> trace.TracerProvider:
    """An SDK provider whose finished spans go to ``export``. Raises ImportError without the SDK."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import DEFAULT_ON

    class Ids(IdGenerator):
        """Ids that do not repeat when user code seeds `random`, as the SDK's own do."""

        def generate_span_id(self) -> int:
            return int(new_span_id(), 16)

        def generate_trace_id(self) -> int:
            return int(new_trace_id(), 16)

    class Handover(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            # A span that cannot be written down, such as one with lone surrogates, is not worth an error in user code.
            with contextlib.suppress(ValueError, TypeError):
                export(_record(span))

    resource = Resource.get_empty()
    provider = TracerProvider(sampler=DEFAULT_ON, resource=resource, shutdown_on_exit=False, id_generator=Ids())
    provider.add_span_processor(Handover())
    return provider


def _record(span: ReadableSpan) -> Span:
    context = span.get_span_context()
    assert context is not None, "only finished spans come here"
    start_ns = span.start_time or 0
    return Span(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id=f"{span.parent.span_id:016x}" if span.parent is not None else "",
        name=span.name,
        kind=span.kind.value,
        start_ns=start_ns,
        end_ns=span.end_time or start_ns,
        attributes={name: _plain(value) for name, value in (span.attributes or {}).items()},
        error=_error(span),
        links=[_traceparent(link.context) for link in span.links],
    )


def _plain(value: object) -> str | int | float | bool:
    """The value, or a sequence as JSON."""
    if isinstance(value, str | int | float | bool):
        return value
    return msgspec.json.encode(value, enc_hook=str).decode()


def _error(span: ReadableSpan) -> str:
    if span.status.status_code is not trace.StatusCode.ERROR:
        return ""
    return span.status.description or "failed"


def _traceparent(context: trace.SpanContext) -> str:
    sampled = bool(context.trace_flags.sampled)
    return TraceParent(f"{context.trace_id:032x}", f"{context.span_id:016x}", sampled).format()
