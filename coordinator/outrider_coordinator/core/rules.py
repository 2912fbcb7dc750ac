"""Why something does not go where it could: a name for programs and a line for people."""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """Why a task waits, or an agent cannot take it: an UPPER_SNAKE name and a line for people."""

    name: str
    text: str
