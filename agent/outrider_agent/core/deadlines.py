"""How long each attempt may still run; the clock stands while the attempt is blocked.

Owns budgets and nothing else; time is an argument, in microseconds of the machine's boot clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Budget:
    left_us: int
    since_us: int | None


class Deadlines:
    """Time budgets by attempt key. Methods on a key without a budget do nothing."""

    def __init__(self) -> None:
        self._budgets: dict[int, _Budget] = {}

    def start(self, key: int, budget_us: int, now_us: int) -> None:
        """Begin to count; ``budget_us`` 0 means no limit."""
        if budget_us > 0:
            self._budgets[key] = _Budget(budget_us, now_us)

    def pause(self, key: int, now_us: int) -> None:
        """Stop the clock."""
        budget = self._budgets.get(key)
        if budget is not None and budget.since_us is not None:
            budget.left_us -= now_us - budget.since_us
            budget.since_us = None

    def resume(self, key: int, now_us: int) -> None:
        """Let the clock go on."""
        budget = self._budgets.get(key)
        if budget is not None and budget.since_us is None:
            budget.since_us = now_us

    def extend(self, key: int, more_us: int) -> None:
        """Add to the budget."""
        budget = self._budgets.get(key)
        if budget is not None:
            budget.left_us += more_us

    def restart(self, key: int, budget_us: int, now_us: int) -> None:
        """Begin anew with the whole budget; a clock that stands goes on standing."""
        budget = self._budgets.get(key)
        if budget is not None:
            budget.left_us = budget_us
            budget.since_us = None if budget.since_us is None else now_us

    def drop(self, key: int) -> None:
        """The attempt has ended."""
        self._budgets.pop(key, None)

    def expired(self, now_us: int) -> list[int]:
        """Take out and return the keys whose budget is used up."""
        if not self._budgets:
            return []
        late = [key for key, budget in self._budgets.items() if _left_us(budget, now_us) <= 0]
        for key in late:
            del self._budgets[key]
        return late


def _left_us(budget: _Budget, now_us: int) -> int:
    return budget.left_us if budget.since_us is None else budget.left_us - (now_us - budget.since_us)
