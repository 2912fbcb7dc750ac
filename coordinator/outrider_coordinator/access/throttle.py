"""How often somebody may call: a bucket for each name, and one for all, each refilled evenly. Pure but for the clock.

Invariants: memory is bounded, whoever calls; a name that has been quiet for long is full again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from outrider.errors import RateLimited

__all__ = ["Throttle"]

#: Names remembered; beyond it the one that was quiet for longest is forgotten, and the bucket for all still counts.
NAMES_MAX = 4096


class Throttle:
    """Token buckets: ``per_s`` calls a second on average, ``burst`` at once; ``all_...`` the same for all together."""

    def __init__(
        self, per_s: float, burst: int, all_per_s: float, all_burst: int, monotonic_s: Callable[[], float]
    ) -> None:
        self._per_s, self._burst = per_s, burst
        self._all_per_s, self._all_burst = all_per_s, all_burst
        self._monotonic_s = monotonic_s
        self._all = (float(all_burst), monotonic_s())
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, count: int = 1) -> None:
        """One call of this name. Raises `RateLimited`, which says when to come back."""
        now_s = self._monotonic_s()
        level = _filled(self._buckets.get(name, (float(self._burst), now_s)), now_s, self._per_s, self._burst)
        all_level = _filled(self._all, now_s, self._all_per_s, self._all_burst)
        wait_s = max((count - level) / self._per_s, (count - all_level) / self._all_per_s)
        if wait_s > 0:
            self._keep(name, level, now_s)
            raise _limited(wait_s)
        self._keep(name, level - count, now_s)
        self._all = (all_level - count, now_s)

    def _keep(self, name: str, level: float, now_s: float) -> None:
        self._buckets[name] = (level, now_s)
        self._buckets.move_to_end(name)
        if len(self._buckets) > NAMES_MAX:
            self._buckets.popitem(last=False)


def _filled(bucket: tuple[float, float], now_s: float, per_s: float, burst: int) -> float:
    level, at_s = bucket
    return min(float(burst), level + (now_s - at_s) * per_s)


def _limited(wait_s: float) -> RateLimited:
    error = RateLimited(f"too many calls; try again in {wait_s:.1f} s")
    error.retry_after_s = wait_s
    return error
