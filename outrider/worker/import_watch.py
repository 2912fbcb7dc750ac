"""Lets spans that user code makes become children of `execute`, at no cost for a worker that never traces.

Owns the moment: user code's own import of ``opentelemetry.trace`` is what loads `outrider.worker.user_spans`. It must
not import OpenTelemetry itself. Invariant: whatever is wrong with telemetry, user code's import succeeds or fails as
it would without us.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from outrider.tracing import TraceParent
from outrider.worker.messages import Span

if TYPE_CHECKING:
    from outrider.worker.user_spans import AttemptTracerProvider

API = "opentelemetry.trace"


class UserSpans:
    """The trace context of the attempt that runs, for OpenTelemetry in this process once it is there.

    ``export`` gets each finished span of user code, in the thread that ended it.
    """

    def __init__(self, export: Callable[[Span], None]) -> None:
        self._export = export
        self._provider: AttemptTracerProvider | None = None
        self._context: TraceParent | None = None
        self._tracestate = ""

    def watch(self) -> None:
        """From now on notice when OpenTelemetry is imported."""
        if API in sys.modules:
            self._loaded()
        else:
            sys.meta_path.insert(0, _ImportWatch(self._loaded))

    def begin(self, context: TraceParent | None, tracestate: str) -> None:
        """The calling thread runs an attempt with this context."""
        self._context, self._tracestate = context, tracestate
        if self._provider is not None and context is not None:
            self._provider.enter(context, tracestate)

    def end(self) -> None:
        """The calling thread runs no attempt any more."""
        self._context = None
        if self._provider is not None:
            self._provider.leave()

    def _loaded(self) -> None:
        try:
            from outrider.worker.user_spans import AttemptTracerProvider

            self._provider = AttemptTracerProvider(self._export)
            self._provider.install()
            if self._context is not None:
                self._provider.enter(self._context, self._tracestate)
        except Exception as error:  # an OpenTelemetry of another version; tracing never ends the work it observes
            print(f"outrider: spans of this task are not exported: {error}", file=sys.stderr)


class _ImportWatch:
    """Finds nothing itself: it lets the others find the API and adds one call after it has been loaded."""

    def __init__(self, loaded: Callable[[], None]) -> None:
        self._loaded = loaded

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the API, with our call added; None for every other module."""
        if name != API or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            self._extend(spec.loader)
        return spec

    def _extend(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            self._loaded()

        loader.exec_module = exec_module
