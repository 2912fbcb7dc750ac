"""One thing that `outrider doctor` has looked at."""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = ["Finding", "Mark"]


class Mark(enum.Enum):
    """How bad it is."""

    FINE = "fine"
    WARNING = "warning"
    WRONG = "wrong"


class Finding(NamedTuple):
    """One thing looked at: how it is, and what to do about it (empty when it is fine)."""

    mark: Mark
    about: str
    text: str
    remedy: str = ""
