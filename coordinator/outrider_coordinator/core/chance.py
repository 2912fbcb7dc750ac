"""The only source of chance in the core's decisions: a seeded sequence, so that the same seed decides the same.

SplitMix64, as in Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
"""

from __future__ import annotations

from dataclasses import dataclass

_MASK = (1 << 64) - 1


@dataclass(slots=True)
class Chance:
    """A sequence of numbers that only its seed decides."""

    seed: int = 0

    def bits(self) -> int:
        """The next 64 bits."""
        self.seed = (self.seed + 0x9E3779B97F4A7C15) & _MASK
        mixed = self.seed
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def randrange(self, stop: int) -> int:
        """A number from 0 to below ``stop``; ``stop`` is at least 1."""
        return self.bits() * stop >> 64
