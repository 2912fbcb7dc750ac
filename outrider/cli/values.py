"""What people type: durations, KEY=VALUE pairs, priorities, states. Each refusal says how to write it."""

from __future__ import annotations

from collections.abc import Iterable

from outrider.durations import duration_s as duration_s
from outrider.errors import InvalidRequest

TASK_STATES = (
    *("pending", "queued", "assigned", "running", "blocked", "cancelling"),
    *("succeeded", "failed", "cancelled", "expired", "skipped"),
)


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
