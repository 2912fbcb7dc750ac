"""Judges named limits and write scopes on committed attempts (I21): never exceeded when one is granted.

Written from the protocol: an attempt holds what its task claims from its offer to its end; a lock has one holder, or
any number of shared ones; a semaphore its capacity; a rate gives out at most its burst and what time adds to it.
"""

from __future__ import annotations

from typing import Any

from outrider_coordinator.core import records
from sim.verdicts import Marks

SEMAPHORE, RATE = 1, 2


class LimitJudge:
    """Who holds what, by the name of the limit."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._definitions: dict[str, records.PutLimit] = {}
        self._holders: dict[str, dict[tuple[str, int], Any]] = {}
        self._granted_us: dict[str, list[int]] = {}
        self._writers: dict[tuple[str, int], tuple[str, ...]] = {}

    def define(self, row: Any) -> None:
        """Somebody says what a limit is."""
        self._granted_us.pop(row.key, None)
        if isinstance(row, records.PutLimit):
            self._definitions[row.key] = row
        else:
            self._definitions.pop(row.key, None)

    def note(self, view: Any, row: records.PutAttempt, *, is_live: bool) -> None:
        """An attempt became live or ended."""
        key = row[:2]
        for claim in view.spec.limits:
            holders = self._holders.setdefault(claim.key, {})
            if is_live:
                holders[key] = claim
            else:
                holders.pop(key, None)
        if view.spec.write_scopes and is_live:
            self._writers[key] = tuple(view.spec.write_scopes)
        else:
            self._writers.pop(key, None)

    def judge(self, tasks: Any, attempt: records.PutAttempt) -> None:
        """An attempt was offered: is there room for what it claims?"""
        key = attempt[:2]
        for claim in tasks[attempt.task_id].spec.limits:
            definition = self._definitions.get(claim.key)
            if definition is not None and definition.kind == RATE:
                self._judge_rate(definition, attempt.offered_us)
                continue
            others = [held for other, held in self._holders[claim.key].items() if other != key]
            if definition is not None and definition.kind == SEMAPHORE:
                units = sum(held.units or 1 for held in others) + (claim.units or 1)
                good = units <= definition.capacity
            else:
                good = not others or (claim.shared and all(held.shared for held in others))
            self._marks.demand("I21", good, "attempt {}/{} exceeds limit {}", *key, claim.key)
        for other, scopes in self._writers.items():
            if other != key and key in self._writers:
                good = not any(_overlap(mine, theirs) for mine in self._writers[key] for theirs in scopes)
                self._marks.demand("I21", good, "attempts {} and {} write to the same place", key, other)

    def _judge_rate(self, definition: records.PutLimit, now_us: int) -> None:
        granted = self._granted_us.setdefault(definition.key, [])
        granted.append(now_us)
        for count, began_us in enumerate(reversed(granted), 1):
            allowed = definition.burst + (now_us - began_us) / 1e6 * definition.per_second
            good = count <= allowed + 1e-6
            self._marks.demand("I21", good, "rate {} gave {} in {} us", definition.key, count, now_us - began_us)
            if now_us - began_us > 5_000_000:
                return


def _overlap(one: str, other: str) -> bool:
    """Paths, and folders with everything below them (`src/**`)."""
    for scope, path in ((one, other), (other, one)):
        if scope.endswith("/**") and path.startswith(scope[:-2]):
            return True
    return one == other
