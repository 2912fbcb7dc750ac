"""The span `execute` of one attempt: the parent of everything that user code traces.

Owns its ids and its record. It must not import OpenTelemetry: a record is all the keeper needs. A context that is not
sampled is passed on as it is and makes no record.
"""

from __future__ import annotations

from outrider.tracing import TRACEPARENT, parse
from outrider.worker.channel import now_ns
from outrider.worker.messages import CommandWork, Completed, Failed, Run, Span

CONSUMER = 4
NAME_CHARS_MAX = 200


class ExecuteSpan:
    """Begins when it is made. ``context`` is what user code sees as its parent, None without a trace."""

    __slots__ = ("_parent", "_run", "_start_ns", "context")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._parent = parse(run.traceparent) if run.traceparent else None
        self._start_ns = now_ns()
        is_sampled = self._parent is not None and self._parent.sampled
        self.context = self._parent.child() if self._parent is not None and is_sampled else self._parent

    @property
    def environment(self) -> dict[str, str]:
        """The attempt's environment, with this span as the parent of what is started in it."""
        if self.context is None:
            return self._run.environment
        return {**self._run.environment, TRACEPARENT: self.context.format()}

    def record(self, last: Completed | Failed) -> Span | None:
        """The finished span, given the attempt's last message; None when nobody wants it."""
        context, parent, run = self.context, self._parent, self._run
        if context is None or parent is None or not context.sampled:
            return None
        return Span(
            trace_id=context.trace_id,
            span_id=context.span_id,
            parent_id=parent.span_id,
            name=f"execute {_work_name(run)}"[:NAME_CHARS_MAX],
            kind=CONSUMER,
            start_ns=self._start_ns,
            end_ns=last.time_ns,
            attributes={
                "outrider.task.id": run.task_id,
                "outrider.attempt": run.attempt,
                "outrider.agent": run.environment.get("OUTRIDER_AGENT", ""),
            },
            error=(last.message or "failed") if isinstance(last, Failed) else "",
        )


def _work_name(run: Run) -> str:
    if isinstance(run.work, CommandWork):
        return run.work.argv[0] if run.work.argv else "command"
    return run.work.function
