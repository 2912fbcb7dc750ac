"""The books of named limits: what each is, who holds it, and what is kept for whom while one placement pass lasts.

Owns the arithmetic of locks, semaphores and rates, one limit at a time; knows neither tasks nor agents.

Invariant I21: units and exclusive holders are the sums over the holders; they never pass what the limit allows, save
where its definition was changed under its holders, who keep what they hold until they end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from outrider_coordinator.core.spec import SECOND_US, Claim

#: Namespace and name of a limit.
LimitKey = tuple[str, str]
#: Task id and number of an attempt.
AttemptKey = tuple[str, int]


class LimitKind(IntEnum):
    """How a limit counts."""

    LOCK = 0
    SEMAPHORE = 1
    RATE = 2


class Definition(NamedTuple):
    """What a limit is. ``capacity`` is a semaphore's; a rate gives a unit back every ``interval_us``, up to ``burst``.

    ``per_second`` is the rate as it was asked for, for people.
    """

    kind: LimitKind = LimitKind.LOCK
    capacity: int = 0
    per_second: float = 0.0
    burst: int = 0

    @property
    def interval_us(self) -> int:
        """Time from one unit of a rate to the next, rounded so that the rate is never exceeded."""
        return max(1, -int(-SECOND_US // self.per_second))


#: The place of somebody who stands before everybody.
FIRST = (-(1 << 62), 0, "")
#: What a name is that nobody defined.
LOCK = Definition()


@dataclass(slots=True)
class Tally:
    """Sums over claims: all units, those of shared claims among them, and how many claims are not shared."""

    units: int = 0
    shared: int = 0
    exclusive: int = 0

    def add(self, claim: Claim, sign: int = 1) -> None:
        """Count a claim; with ``sign`` -1, no longer."""
        self.units += sign * claim.units
        if claim.shared:
            self.shared += sign
        else:
            self.exclusive += sign


NOTHING = Tally()


@dataclass(slots=True)
class Pool:
    """One limit. ``holders`` are live attempts with what they hold, in the order in which they got it.

    A rate's units are not given back: ``full_us`` is when its bucket will be full again, ``taken_us`` when the last
    units were taken. ``was_changed`` while holders of before a change of its definition hold more than it allows now.
    """

    definition: Definition = LOCK
    is_defined: bool = False
    holders: dict[AttemptKey, Claim] = field(default_factory=dict)
    held: Tally = field(default_factory=Tally)
    full_us: int = 0
    taken_us: int = 0
    timer_us: int = 0
    was_changed: bool = False

    def admits(self, claim: Claim, now_us: int, beside: Tally = NOTHING, own: AttemptKey | None = None) -> bool:
        """Whether a claim can be granted now, beside what is held and what is set aside for others.

        A holder that claims more (``own``) does not stand in its own way at a lock.
        """
        definition, held = self.definition, self.held
        if definition.kind is LimitKind.LOCK:
            mine = self.holders.get(own) if own is not None else None
            if mine is not None and (claim.shared or not mine.shared):
                return True
            exclusive, shared = held.exclusive + beside.exclusive, held.shared + beside.shared
            return not exclusive and (claim.shared or shared <= (mine is not None))
        if definition.kind is LimitKind.SEMAPHORE:
            return held.units + beside.units + claim.units <= definition.capacity
        return self.ready_us(claim.units + beside.units, now_us) <= now_us

    def can_ever(self, claim: Claim) -> bool:
        """Whether a claim could be granted if nobody held anything."""
        definition = self.definition
        if definition.kind is LimitKind.SEMAPHORE:
            return claim.units <= definition.capacity
        return definition.kind is LimitKind.LOCK or claim.units <= definition.burst

    def ready_us(self, units: int, now_us: int) -> int:
        """When a rate has so many units. The bucket is a time: that at which it is full, one interval for a unit."""
        short = units - self.definition.burst
        return max(self.full_us, now_us) + short * self.definition.interval_us

    def available(self, now_us: int) -> float:
        """Units that can be taken now; a lock has 1 or 0."""
        definition = self.definition
        if definition.kind is LimitKind.LOCK:
            return 0.0 if self.held.exclusive or self.held.shared else 1.0
        if definition.kind is LimitKind.SEMAPHORE:
            return float(max(0, definition.capacity - self.held.units))
        missing = -(-max(0, self.full_us - now_us) // definition.interval_us)
        return float(max(0, definition.burst - missing))

    def hold(self, holder: AttemptKey, claim: Claim) -> None:
        """Write a claim down; one holder's claims are added up."""
        known = self.holders.get(holder)
        if known is not None:
            self.held.add(known, -1)
            claim = known.with_(claim)
        self.holders[holder] = claim
        self.held.add(claim)

    def take(self, claim: Claim, now_us: int) -> None:
        """Use up units of a rate; nothing of other limits."""
        if self.definition.kind is LimitKind.RATE:
            self.full_us = max(self.full_us, now_us) + claim.units * self.definition.interval_us
            self.taken_us = now_us

    def release(self, holder: AttemptKey) -> None:
        """Forget what one holder holds. Raises KeyError when it holds nothing: a fault of ours."""
        self.held.add(self.holders.pop(holder), -1)
        if self.was_changed:
            self.was_changed = self.is_over

    @property
    def is_over(self) -> bool:
        """Whether more is held than the definition allows."""
        held = self.held
        if self.definition.kind is LimitKind.LOCK:
            return held.exclusive > 1 or bool(held.exclusive and held.shared)
        return self.definition.kind is LimitKind.SEMAPHORE and held.units > self.definition.capacity

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return not self.is_defined and not self.holders

    def define(self, definition: Definition, now_us: int) -> None:
        """Change what it is; holders keep what they hold. A rate that is redefined keeps what it owes, in units."""
        before, self.definition, self.is_defined = self.definition, definition, True
        if before.kind is LimitKind.RATE and definition.kind is LimitKind.RATE:
            owed = -(-max(0, self.full_us - now_us) // before.interval_us)
            self.full_us = now_us + min(owed, definition.burst) * definition.interval_us
            self.taken_us = now_us
        else:
            self.full_us = 0
        self.was_changed = self.is_over


@dataclass(slots=True)
class Holding:
    """What one live attempt holds: names of limits, and globs that it may write."""

    namespace: str
    claims: set[str] = field(default_factory=set)
    scopes: tuple[str, ...] = ()


@dataclass(slots=True)
class LimitBook:
    """All limits that are defined or held, and the write scopes of live attempts by namespace.

    ``waits`` are the (task id, wait key) of running attempts that wait for a limit; deadlocks are looked for
    again at ``look_us``. ``is_changed``: those that wait must be asked again. ``is_asking``, ``line``, ``reserved`` and
    ``reserved_scopes`` belong to the placement pass under way: those waits, last first, and what is set aside for
    those that sort before.
    """

    pools: dict[LimitKey, Pool] = field(default_factory=dict)
    scopes: dict[str, dict[AttemptKey, tuple[str, ...]]] = field(default_factory=dict)
    waits: dict[tuple[str, str], None] = field(default_factory=dict)
    look_us: int = 0
    is_changed: bool = False
    is_asking: bool = False
    again_us: int = 0
    last: tuple[int, int, str] = FIRST
    line: list[tuple[tuple[int, int, str], str]] = field(default_factory=list)
    reserved: dict[LimitKey, Tally] = field(default_factory=dict)
    reserved_scopes: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)

    def pool(self, key: LimitKey) -> Pool:
        """The limit of this name, made when nobody knows it yet."""
        pool = self.pools.get(key)
        if pool is None:
            pool = self.pools[key] = Pool()
        return pool

    def set_aside(self, key: LimitKey, claim: Claim) -> None:
        """Keep what a claim waits for from those that sort behind it, for the rest of the pass."""
        self.reserved.setdefault(key, Tally()).add(claim)

    def drop_if_idle(self, key: LimitKey) -> None:
        """Forget a plain lock that nobody holds."""
        if self.pools[key].is_idle:
            del self.pools[key]
