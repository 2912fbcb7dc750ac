"""Counts of what went well and what did not, over a sliding window, and what they allow to say.

Owns counting and its statistics; must not know what is counted. Memory is a fixed number of buckets a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

#: A window slides in steps of this part of its span.
_BUCKETS = 8
#: Two-sided 99 % of the normal distribution.
_Z = 2.576


@dataclass(slots=True)
class Window:
    """Successes and failures of the last ``span_us``, forgotten an eighth of the span at a time.

    A bucket is [number of the eighth since the epoch, successes, failures]; the oldest stands first.
    """

    span_us: int
    buckets: list[list[int]] = field(default_factory=list)

    def add(self, now_us: int, *, failed: bool) -> None:
        """Count one sample."""
        number = now_us * _BUCKETS // self.span_us
        if not self.buckets or self.buckets[-1][0] != number:
            self._forget(number)
            self.buckets.append([number, 0, 0])
        self.buckets[-1][2 if failed else 1] += 1

    def totals(self, now_us: int) -> tuple[int, int]:
        """Successes and failures that count now."""
        self._forget(now_us * _BUCKETS // self.span_us)
        return sum(bucket[1] for bucket in self.buckets), sum(bucket[2] for bucket in self.buckets)

    def take_back_failure(self) -> None:
        """Forget the latest failure: it was none."""
        for bucket in reversed(self.buckets):
            if bucket[2]:
                bucket[2] -= 1
                return

    def _forget(self, number: int) -> None:
        while self.buckets and self.buckets[0][0] <= number - _BUCKETS:
            del self.buckets[0]


def rate_bounds(failures: int, samples: int) -> tuple[float, float]:
    """Lower and upper bound of a failure rate, each 0 to 1: the Wilson score interval at 99 %.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927). It holds for
    few samples and for rates near 0 and 1, where the textbook interval does not. ``samples`` is at least 1.
    """
    rate, square = failures / samples, _Z * _Z
    centre = rate + square / (2 * samples)
    spread = _Z * math.sqrt(rate * (1 - rate) / samples + square / (4 * samples * samples))
    scale = 1 + square / samples
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


@dataclass(slots=True)
class Tally:
    """How one kind of work went over the fleet and on each agent, counted since ``since_us``."""

    since_us: int
    fleet: Window
    agents: dict[str, Window] = field(default_factory=dict)
