"""A story in words: what happened to whom, line by line, for whoever reads a failure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sim.kernel import START_US

_QUIET = frozenset(("HeartbeatReceived", "Ticked"))
_BYTES_MAX = 40
_CALLABLE = re.compile(r"<(?:function|bound method|built-in method) .*? at 0x[0-9a-f]+>")


def lines(story: Iterable[tuple[Any, ...]], about: str = "") -> list[str]:
    """The story, one line each; ``about`` keeps lines with this text only. Heartbeats and ticks are left out."""
    told = (_line(*entry) for entry in story if entry[2] not in _QUIET)
    return [line for line in told if about in line]


def _line(now_us: int, who: str, what: str, details: tuple[Any, ...]) -> str:
    words = " ".join(_word(detail) for detail in details)
    return f"{(now_us - START_US) / 1e6:10.6f} {who:<12} {what} {words}".rstrip()


def _word(detail: Any) -> str:
    if isinstance(detail, str | int | float):
        return str(detail)
    text = re.sub(r"<(?:function|bound method|built-in method) .*? at 0x[0-9a-f]+>", "...", repr(detail)).replace(
        "\n", " "
    )
    return re.sub(r"b(['\"])(.*?)\1", _short_bytes, text)


def _short_bytes(found: re.Match[str]) -> str:
    text = found.group(0)
    return text if len(text) <= _BYTES_MAX else text[: _BYTES_MAX - 3] + "..."
