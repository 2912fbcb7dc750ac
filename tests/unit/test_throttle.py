"""How often somebody may call."""

from __future__ import annotations

import pytest

from outrider.errors import RateLimited
from outrider_coordinator.access.throttle import NAMES_MAX, Throttle


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.s


def let_in(throttle: Throttle, name: str, tries: int) -> int:
    """How many of so many calls are let in."""
    count = 0
    for _ in range(tries):
        try:
            throttle.take(name)
            count += 1
        except RateLimited:
            pass
    return count


def test_a_burst_then_a_rate() -> None:
    """Full at first; then as many as time allows, never more than a burst, each name for itself."""
    clock = Clock()
    throttle = Throttle(2.0, 4, 100.0, 100, clock)
    assert let_in(throttle, "a", 9) == 4
    assert let_in(throttle, "b", 9) == 4
    clock.s = 1.0
    assert let_in(throttle, "a", 9) == 2
    clock.s = 1000.0
    assert let_in(throttle, "a", 9) == 4


def test_all_together_are_bounded_too() -> None:
    """Many names at once share one bucket; who is refused is told when to come back."""
    clock = Clock()
    throttle = Throttle(10.0, 10, 1.0, 3, clock)
    assert sum(let_in(throttle, f"n{number}", 1) for number in range(9)) == 3
    with pytest.raises(RateLimited) as caught:
        throttle.take("late")
    assert caught.value.retry_after_s == pytest.approx(1.0)
    clock.s = 1.0
    throttle.take("late")


def test_memory_is_bounded() -> None:
    """Names beyond the bound push out those that were quiet for longest."""
    throttle = Throttle(1.0, 1, 1e9, 1_000_000, Clock())
    for number in range(NAMES_MAX + 100):
        throttle.take(f"n{number}")
    assert len(throttle._buckets) == NAMES_MAX
