"""Dice that fall as those of `random` do, and sooner: of a seed's time every tenth part went into throwing them.

Owns how a whole number below a bound is drawn. Invariant: every draw is the one that `random.Random` would give, in
the same state, with the same state left behind; `test_dice.py` compares them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice(random.Random):
    """One stream. Bounds are whole numbers and ranges are not empty: nobody asks for anything else here."""

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """A whole number from ``start`` up to and without ``stop``; below ``start`` when that is all."""
        if stop is None:
            start, stop = 0, start
        width = stop - start
        assert width > 0, f"no number is below {stop} and not below {start}"
        assert step == 1, "dice without steps"
        bits, draw = width.bit_length(), self.getrandbits
        drawn = draw(bits)
        while drawn >= width:
            drawn = draw(bits)
        return start + drawn

    def choice(self, options: Sequence[T]) -> T:  # type: ignore[override]  # sequences that are not empty, as typeshed has it
        """One of these."""
        width = len(options)
        bits, draw = width.bit_length(), self.getrandbits
        drawn = draw(bits)
        while drawn >= width:
            drawn = draw(bits)
        return options[drawn]
