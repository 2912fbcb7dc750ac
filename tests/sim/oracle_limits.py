"""Judges named limits and write scopes on committed records (I21): never exceeded when granted, given back once.

Written from the protocol: a live attempt holds what its task claims, from its offer to its end, and what it waited for
and got; a lock has one holder, or any number of shared ones; a semaphore its capacity; a rate gives out at most its
burst and what time adds to it. What people are shown of a limit is who holds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from outrider.v1 import task_pb2 as pb
from outrider_coordinator.core import records
from sim.verdicts import Marks

SEMAPHORE, RATE = 1, 2
#: Looking back further shows nothing: no bucket is that large.
_LOOK_BACK_US = 5_000_000
Key = tuple[str, int]


class Held(NamedTuple):
    """What one attempt holds of one limit, or wants of it."""

    is_shared: bool
    units: int

    def and_also(self, more: Held) -> Held:
        """Both together."""
        return Held(self.is_shared and more.is_shared, self.units + more.units)


class LimitJudge:
    """Who holds what, by the name of the limit."""

    def __init__(self, marks: Marks) -> None:
        self.definitions: dict[str, records.PutLimit] = {}
        #: By name and attempt: what it holds.
        self.holders: dict[str, dict[Key, Held]] = {}
        self._marks = marks
        self._writers: dict[Key, tuple[str, ...]] = {}
        #: What attempts, ended ones too, waited for and got, by the key of the wait.
        self._got: dict[Key, dict[str, tuple[str, Held]]] = {}
        #: Who got something in the step that is judged, with the units, 0 where a rate gives none for it.
        self._fresh: list[tuple[Key, str, int]] = []
        #: When each rate gave how many units.
        self._given: dict[str, list[tuple[int, int]]] = {}

    def copy(self) -> LimitJudge:
        """As it is now, to be told what is not committed yet."""
        copy = LimitJudge(Marks())
        copy.definitions = dict(self.definitions)
        copy.holders = {name: dict(held) for name, held in self.holders.items()}
        copy._writers, copy._got = dict(self._writers), {key: dict(got) for key, got in self._got.items()}
        return copy

    # --- rows ------------------------------------------------------------------------------------------------------

    def define(self, row: Any) -> None:
        """Somebody says what a limit is, or a rate has given units."""
        known = self.definitions.get(row.key)
        is_put = isinstance(row, records.PutLimit)
        if not is_put or known is None or known[2:6] != row[2:6]:
            self._given.pop(row.key, None)
        if is_put:
            self.definitions[row.key] = row
        else:
            self.definitions.pop(row.key, None)

    def attempt(self, spec: pb.TaskSpec, row: records.PutAttempt, *, is_live: bool, is_new: bool) -> None:
        """An attempt is live, or is not any more. ``is_new`` when it was just made: that uses up units of rates."""
        key = row[:2]
        if not is_live:
            for held in self.holders.values():
                held.pop(key, None)
            self._writers.pop(key, None)
        elif key not in self._writers and not any(key in held for held in self.holders.values()):
            for claim in spec.limits:
                self._hold(key, claim.key, Held(claim.shared, claim.units or 1), uses=is_new)
            for name, more in self._got.get(key, {}).values():
                self._hold(key, name, more, uses=False)
            if spec.write_scopes:
                self._writers[key] = tuple(spec.write_scopes)
                self._fresh.append((key, "", 0))

    def wait(self, row: records.PutWait, *, is_live: bool) -> None:
        """A wait for a limit; it says which attempt got it."""
        key = (row.task_id, row.held_by)
        if row.claim_key and row.held_by and row.key not in self._got.setdefault(key, {}):
            more = Held(bool(row.claim_shared), row.claim_units)
            self._got[key][row.key] = row.claim_key, more
            if is_live:
                self._marks.saw("saw:limit held by who waited for it")
                self._hold(key, row.claim_key, more, uses=True)

    def _hold(self, key: Key, name: str, more: Held, *, uses: bool) -> None:
        held = self.holders.setdefault(name, {})
        held[key] = held[key].and_also(more) if key in held else more
        self._fresh.append((key, name, more.units if uses else 0))

    # --- the end of a step -----------------------------------------------------------------------------------------

    def judge(self, now_us: int) -> None:
        """What was granted in this step was there; ``now_us`` is when, on the coordinator's clock."""
        fresh, self._fresh = self._fresh, []
        for key, name, units in fresh:
            if key in self._writers:
                self._judge_scopes(key)
            definition = self.definitions.get(name)
            if definition is not None and definition.kind == RATE:
                self._judge_rate(definition, now_us, units)
            elif name and key in self.holders[name]:
                self._judge_held(key, name, definition)

    def _judge_held(self, key: Key, name: str, definition: records.PutLimit | None) -> None:
        mine, everybody = self.holders[name][key], self.holders[name]
        if definition is not None and definition.kind == SEMAPHORE:
            self._marks.saw("saw:semaphore taken")
            good = sum(held.units for held in everybody.values()) <= definition.capacity
        else:
            self._marks.saw("saw:shared lock taken" if mine.is_shared else "saw:lock taken")
            good = len(everybody) == 1 or all(held.is_shared for held in everybody.values())
        self._marks.demand("I21", good, "attempt {} exceeds limit {}: {}", key, name, everybody)

    def _judge_scopes(self, key: Key) -> None:
        for other, scopes in self._writers.items():
            if other != key:
                good = not any(_overlap(mine, theirs) for mine in self._writers[key] for theirs in scopes)
                self._marks.demand("I21", good, "attempts {} and {} write to the same place", key, other)

    def _judge_rate(self, definition: records.PutLimit, now_us: int, units: int) -> None:
        if not units:
            return
        self._marks.saw("saw:rate used")
        given = self._given.setdefault(definition.key, [])
        given.append((now_us, units))
        total = 0
        for since_us, count in reversed(given):
            total += count
            allowed = definition.burst + (now_us - since_us) / 1e6 * definition.per_second
            good = total <= allowed + 1e-6
            self._marks.demand("I21", good, "rate {} gave {} in {} us", definition.key, total, now_us - since_us)
            if now_us - since_us > _LOOK_BACK_US:
                return

    # --- what people are shown -------------------------------------------------------------------------------------

    def judge_shown(self, shown: Iterable[Any]) -> None:
        """People are shown of each limit who holds it, and as much of it free as is."""
        seen = {one.key: one for one in shown}
        for name, everybody in self.holders.items():
            holders = {(party.task_id, party.attempt) for party in seen[name].holders} if name in seen else set()
            good = holders == everybody.keys()
            self._marks.demand("I21", good, "limit {} is held by {}, shown are {}", name, everybody, holders)
        for name, definition in self.definitions.items():
            units = sum(held.units for held in self.holders.get(name, {}).values())
            if definition.kind == SEMAPHORE:
                free = max(0, definition.capacity - units)
                good = seen[name].available == free
                self._marks.demand("I21", good, "limit {} has {} free, shown are {}", name, free, seen[name].available)

    def judge_rest(self) -> None:
        """Nobody runs: nobody holds anything."""
        for name, everybody in self.holders.items():
            self._marks.demand("I21", not everybody, "limit {} is never given back by {}", name, everybody)


def _overlap(one: str, other: str) -> bool:
    """Paths, and folders with everything below them (`src/**`)."""
    for scope, path in ((one, other), (other, one)):
        if scope.endswith("/**") and path.startswith(scope[:-2]):
            return True
    return one == other
