"""How much of the coordinator one caller from another machine may have: calls a second, and streams at once.

Agents are not bounded here: there is one session of each, and what it reports is wanted. Local callers are not either:
whoever reaches the socket has the machine's account anyhow.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator

from outrider.errors import RateLimited
from outrider_coordinator.access.principals import Door, Principal, Role
from outrider_coordinator.access.throttle import Throttle

__all__ = ["Quotas"]

#: A caller may make so many seconds' worth of calls at once.
BURST_S = 2.0


class Quotas:
    """Bounds for each principal by name: ``rate`` calls a second, ``streams`` open at once."""

    def __init__(self, rate: float = 200.0, streams: int = 100) -> None:
        burst = max(1, int(rate * BURST_S))
        self._throttle = Throttle(rate, burst, 1e9, 1_000_000_000, time.monotonic)
        self._streams_max = streams
        self._streams: Counter[str] = Counter()

    def call(self, principal: Principal) -> None:
        """One call. Raises `RateLimited`."""
        if _is_bounded(principal):
            self._throttle.take(principal.name)

    @contextlib.contextmanager
    def stream(self, principal: Principal) -> Iterator[None]:
        """One stream while it is open. Raises `RateLimited`."""
        if not _is_bounded(principal):
            yield
            return
        if self._streams[principal.name] >= self._streams_max:
            raise RateLimited(f"{principal.name!r} has {self._streams_max} streams open already; close one first")
        self._streams[principal.name] += 1
        try:
            yield
        finally:
            self._streams[principal.name] -= 1
            if not self._streams[principal.name]:
                del self._streams[principal.name]


def _is_bounded(principal: Principal) -> bool:
    return principal.door is not Door.LOCAL and principal.role is not Role.AGENT and bool(principal.name)
