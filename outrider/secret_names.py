"""Which secrets a task can ask for, and the variables that they are handed over in, on every side of the wire."""

from __future__ import annotations

import re

__all__ = ["USES_MAX", "variable_fault"]

#: Secrets that one task may ask for.
USES_MAX = 32
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_OURS = ("OUTRIDER_", "TRACEPARENT", "TRACESTATE")


def variable_fault(name: str) -> str:
    """What is wrong with a variable that a secret is to be handed over in; empty for nothing."""
    if not _VARIABLE.fullmatch(name):
        return f"{name!r} is no environment variable: letters, digits and _, no digit first, at most 128"
    return f"{name!r} is set by Outrider itself" if name.startswith(_OURS) else ""
