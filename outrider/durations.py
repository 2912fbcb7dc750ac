"""Durations as people write them. Pure."""

from __future__ import annotations

import re

from outrider.errors import InvalidRequest

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def duration_s(text: str) -> float:
    """``90``, ``90s``, ``1h30m`` or ``250ms`` in seconds. Raises `InvalidRequest`."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidRequest(f"{text!r} is no duration; write 90s, 30m, 1h30m or a number of seconds")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
