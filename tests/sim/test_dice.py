"""Dice of the simulator fall as those of the standard library."""

from __future__ import annotations

import random

from sim.dice import Dice


def test_dice_fall_as_those_of_the_standard_library() -> None:
    """Whatever is drawn, in whatever order, the draws are those of `random.Random` with the same seed."""
    ours, theirs = Dice("one"), random.Random("one")
    for width in (1, 2, 3, 7, 64, 65, 1_000, 1 << 40):
        for _ in range(50):
            assert ours.randrange(width) == theirs.randrange(width)
            assert ours.randrange(10, 10 + width) == theirs.randrange(10, 10 + width)
            assert ours.choice("abcde") == theirs.choice("abcde")
            assert ours.sample(range(100), 5) == theirs.sample(range(100), 5)
            assert ours.random() == theirs.random()
