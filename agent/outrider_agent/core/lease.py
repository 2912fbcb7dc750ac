"""How long exclusive attempts may run without hearing from the coordinator.

Owns the end of the lease and which attempts it holds. Time is an argument, in microseconds of the machine's boot clock.
Invariant: the lease ends no later than the coordinator thinks: it counts from when the agent asked, not from when it
was answered.
"""

from __future__ import annotations


class Lease:
    """One lease for all exclusive attempts; it is over until the first answer."""

    def __init__(self) -> None:
        self.end_us = 0
        self._keys: set[int] = set()

    def renewed(self, asked_us: int, duration_us: int) -> None:
        """The coordinator answered what was sent at ``asked_us``; an answer that comes late changes nothing."""
        self.end_us = max(self.end_us, asked_us + duration_us)

    def add(self, key: int) -> None:
        """An exclusive attempt arrived."""
        self._keys.add(key)

    def drop(self, key: int) -> None:
        """It has ended."""
        self._keys.discard(key)

    def ended(self, now_us: int) -> list[int]:
        """Take out and return the attempts that must be stopped now, in the order in which they arrived."""
        if not self._keys or now_us < self.end_us:
            return []
        late = sorted(self._keys)
        self._keys.clear()
        return late
