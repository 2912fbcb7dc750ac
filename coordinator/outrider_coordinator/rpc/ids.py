"""Time-ordered ids, 32 hexadecimal digits, like UUIDv7 (RFC 9562): random keys double a store's cost per task."""

from __future__ import annotations

import os
import time

#: Random bytes are fetched for this many ids at once: a call of the kernel for each costs more than all the rest.
_IDS_PER_FETCH = 256


class IdMaker:
    """Ids that rise within a process, also when the wall clock steps back."""

    def __init__(self) -> None:
        self._last = 0
        self._random: list[str] = []

    def next(self) -> str:
        """48 bits of milliseconds, 16 bits that keep order within one, 64 random bits."""
        if not self._random:
            digits = os.urandom(8 * _IDS_PER_FETCH).hex()
            self._random = [digits[start : start + 16] for start in range(0, len(digits), 16)]
        now = (time.time_ns() // 1_000_000) << 16
        self._last = last = now if now > self._last else self._last + 1
        return f"{last:016x}{self._random.pop()}"
