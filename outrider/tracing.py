"""Trace context as W3C Trace Context (level 2) writes it: parse, format, make new ids, find the current one.

Owns the text form ``00-<trace id>-<span id>-<flags>`` and nothing else: it exports nothing and imports neither gRPC
nor OpenTelemetry, so workers and the keeper can afford it. Of the flags only the sampled bit counts, so a context
that ends in ``-03`` (sampled and random) is sampled.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["TRACEPARENT", "TRACESTATE", "TraceParent", "current_traceparent", "new_span_id", "new_trace_id", "parse"]

#: Environment variable with the context of the parent span.
TRACEPARENT = "TRACEPARENT"
#: Environment variable with vendor state; passed on as it is.
TRACESTATE = "TRACESTATE"

_SAMPLED = 0x01
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TraceParent:
    """One span's address: 32 and 16 lower-case hexadecimal digits, neither all zero, and whether it is recorded."""

    trace_id: str
    span_id: str
    sampled: bool = True

    def format(self) -> str:
        """The ``traceparent`` value, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> TraceParent:
        """A new span in the same trace, sampled as this one is."""
        return TraceParent(self.trace_id, new_span_id(), self.sampled)


def parse(text: str) -> TraceParent | None:
    """Read a ``traceparent`` value; None for one that the specification calls invalid, so that a new trace begins.

    Upper case, all-zero ids and version ``ff`` are invalid. Version 00 must end after the flags; later versions may
    go on after another dash, and are read as far as this version knows them.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def new_trace_id() -> str:
    """32 random hexadecimal digits, not all zero."""
    return _random_hex(16)


def new_span_id() -> str:
    """16 random hexadecimal digits, not all zero."""
    return _random_hex(8)


def _random_hex(size_bytes: int) -> str:
    digits = os.urandom(size_bytes).hex()
    return digits if digits.strip("0") else _random_hex(size_bytes)


def current_traceparent(environment: Mapping[str, str] | None = None) -> str:
    """Context of the caller's active span, else of ``TRACEPARENT`` in the environment, else an empty string.

    OpenTelemetry is asked only when the program has imported it already: a program without it has no active span.
    """
    active = _active_span()
    if active is not None:
        return active.format()
    environment = os.environ if environment is None else environment
    text = environment.get(TRACEPARENT)
    inherited = parse(text) if text else None
    return "" if inherited is None else inherited.format()


def _active_span() -> TraceParent | None:
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    sampled = bool(int(context.trace_flags) & _SAMPLED)
    return TraceParent(f"{context.trace_id:032x}", f"{context.span_id:016x}", sampled)
