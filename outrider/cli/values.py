"""What people type: durations, KEY=VALUE pairs, priorities, states. Each refusal says how to write it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from outrider.errors import InvalidRequest

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
TASK_STATES = (
    *("pending", "queued", "assigned", "running", "blocked", "cancelling"),
    *("succeeded", "failed", "cancelled", "expired", "skipped"),
)


def duration_s(text: str) -> float:
    """``90``, ``90s``, ``1h30m`` or ``250ms`` in seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidRequest(f"{text!r} is no duration; write 90s, 30m, 1h30m or a number of seconds")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """``KEY=VALUE`` texts as a dictionary."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InvalidRequest(f"{option} {text!r} must be KEY=VALUE")
        found[key] = value
    return found


def state_numbers(names: Iterable[str]) -> list[int]:
    """Task states by name, as their numbers on the wire."""
    numbers = []
    for name in names:
        if name.lower() not in TASK_STATES:
            raise InvalidRequest(f"{name!r} is no task state; use one of {', '.join(TASK_STATES)}")
        numbers.append(TASK_STATES.index(name.lower()) + 1)
    return numbers
