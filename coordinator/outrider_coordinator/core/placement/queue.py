"""Ready tasks: in what order they are looked at, and which of them cannot go now, so that those cost nothing.

Tasks that the same agents could take share a `Need`: when nobody can take one, the need sleeps with all its tasks until
an agent that it could reach has changed. Tasks that also wait for the same limits and systems share a `TaskClass`: it
is held when one of them has to wait, until somebody says that it may be asked again. What sleeps or is held leaves the
heaps as a whole, so that a thousand classes that nobody can run are looked at once, not in every step.

`order` owns what goes first. This module knows neither agents nor limits.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from outrider_coordinator.core.model import Cap, Task
from outrider_coordinator.core.placement.fleet import Index, Reach, demands_of
from outrider_coordinator.core.placement.order import PRIORITIES, Entry, Lane, Line, Strand, entry_of
from outrider_coordinator.core.spec import SECOND_US, Demands
from outrider_coordinator.core.states import TaskState

#: Empty classes, and idle lanes of one parent, are kept up to so many: most come back.
CLASSES_KEPT, LANES_KEPT = 256, 256
#: Entries of tasks that are gone are kept up to so many beside twice those of tasks that wait.
GONE_KEPT = 10_000

_QUEUED = TaskState.QUEUED


class ClassKey(NamedTuple):
    """What placement can tell two tasks apart by, save their priority and submitter."""

    demands: Demands
    kind: str
    is_plain: bool
    namespace: str = ""
    caps: tuple[Cap, ...] = ()


@dataclass(slots=True, eq=False)
class Need:
    """What agents see of tasks: they can all go to the same ones. ``may_be_held``: they wait for limits or systems too.

    ``waiting`` counts queued tasks, ``classes`` those that belong to it. ``parked`` are strands that came up while it
    slept. ``has_wishes``, ``reach`` and ``index`` are filled in by who looks for agents.
    """

    demands: Demands
    kind: str
    is_plain: bool
    is_awake: bool = True
    may_be_held: bool = False
    waiting: int = 0
    classes: int = 0
    parked: list[Strand] = field(default_factory=list)
    has_wishes: bool = False
    reach: Reach | None = None
    index: Index | None = None

    @property
    def name(self) -> tuple[Demands, str, bool, bool]:
        """What tells it from others."""
        return self.demands, self.kind, self.is_plain, self.may_be_held


@dataclass(slots=True, eq=False)
class TaskClass:
    """Tasks that wait for the same things. ``is_held`` while one of them had to wait for a limit or a system.

    ``held_at`` is the priority of that one.
    """

    key: ClassKey
    need: Need
    is_held: bool = False
    held_at: int = 0
    strands: dict[tuple[int, str, str], Strand] = field(default_factory=dict)
    parked: list[Strand] = field(default_factory=list)


def class_key(task: Task) -> ClassKey:
    """The class a task waits in."""
    spec = task.spec
    demands = _elsewhere(task) if task.waits or task.failed_on or task.refusals else spec.demands
    is_limited = bool(demands.claims or demands.scopes)
    is_plain = spec.is_function and not (is_limited or spec.exclusive or spec.at_most_once or demands.resources)
    if demands.is_signed or demands.refused_by:
        is_plain = False  # lines are for what any agent takes
    if task.caps:
        # In a line an attempt would count against its caps without need.
        return ClassKey(demands, spec.kind, False, task.namespace if is_limited else "", task.caps)
    return ClassKey(demands, spec.kind, is_plain, task.namespace if is_limited else "")


def _elsewhere(task: Task) -> Demands:
    """The task's demands, rather anywhere else than where it failed or where one of its waits ran out of time."""
    expired = (agent_id for wait in task.waits for agent_id in (wait.expired_on, *wait.moved_from))
    avoided = {*task.failed_on, *expired} - {""}
    left = tuple((agent_id, -100) for agent_id in sorted(avoided))
    demands = demands_of(task)
    return demands._replace(affinities=demands.affinities + left) if left else demands


@dataclass(slots=True)
class ReadyQueue:
    """QUEUED tasks. Entries of tasks that left the queue are dropped when they come up.

    ``waiting`` counts them, ``urgent`` are those of the highest priority. ``active`` counts needs that are awake and
    have tasks: 0 means that there is nothing to look at. ``shares`` are weights of namespaces (``name``) and submitters
    (``namespace/name``), 1 where nothing is said. ``clock_us`` is the time for which tasks were passed over,
    ``is_passing`` whether it runs since ``seen_us``; ``lowest`` is the least priority that had a task to place when one
    was chosen last.
    """

    aging_us: int = 600 * SECOND_US
    shares: dict[str, float] = field(default_factory=dict)
    waiting: int = 0
    classes: dict[ClassKey, TaskClass] = field(default_factory=dict)
    needs: dict[tuple[Demands, str, bool, bool], Need] = field(default_factory=dict)
    held: dict[ClassKey, TaskClass] = field(default_factory=dict)
    to_ask: dict[ClassKey, TaskClass] = field(default_factory=dict)
    urgent: dict[str, Task] = field(default_factory=dict)
    levels: list[Lane] = field(default_factory=lambda: [Lane(str(level), None) for level in range(PRIORITIES)])
    active: int = 0
    served: int = 0
    serial: int = 0
    removed: int = 0
    clock_us: int = 0
    seen_us: int = 0
    is_passing: bool = False
    lowest: int = PRIORITIES

    def __len__(self) -> int:
        return self.waiting

    def __iter__(self) -> Iterator[Task]:
        """Every task, class by class: for tests and for people, it reads all there are."""
        for group in self.classes.values():
            for strand in group.strands.values():
                yield from {entry[1]: entry[2] for entry in strand.line if entry[2].strand is strand}.values()

    def push(self, task: Task) -> None:
        """Add a QUEUED task; one that was here before takes its old place."""
        assert task.state is _QUEUED
        if task.rank_us is None:
            task.rank_us = self.clock_us - task.spec.priority * self.aging_us
        key = class_key(task)
        group = self.classes.get(key) or self._new_class(key)
        place = (task.spec.priority, task.namespace, task.submitter)
        strand = group.strands.get(place)
        if strand is None:
            strand = group.strands[place] = Strand(group, place, self._lane(*place))
            strand.lane.strands += 1
        task.strand = strand
        if task.spec.priority == PRIORITIES - 1:
            self.urgent[task.id] = task
        need = group.need
        self.waiting += 1
        need.waiting += 1
        if need.waiting == 1 and need.is_awake:
            self.active += 1
        entry = entry_of(task)
        strand.line.push(entry)
        if strand.known is None or (entry < strand.known and not strand.is_parked):
            self._list(strand, entry)

    def remove(self, task: Task) -> None:
        """Take a task out, wherever it stands."""
        strand: Strand = task.strand
        task.strand = None
        need: Need = strand.group.need
        if self.urgent:
            self.urgent.pop(task.id, None)
        self.waiting -= 1
        need.waiting -= 1
        if need.waiting == 0 and need.is_awake:
            self.active -= 1
        self.removed += 1
        if self.removed > 2 * self.waiting + GONE_KEPT:
            self._sweep()

    def begin(self, now_us: int) -> None:
        """A placement begins: count the time for which tasks have been passed over."""
        if self.is_passing:
            self.clock_us += now_us - self.seen_us
        self.seen_us = now_us

    def next(self) -> Strand | None:
        """Whose first task is to be looked at next, None when no task can go: its entry is ``known``."""
        best: Strand | None = None
        for level in self.levels:
            if level.heap and (strand := self._champion(level)) is not None:
                if best is None:
                    best, self.lowest = strand, strand.place[0]
                elif self._rank_us(strand) <= self._rank_us(best):
                    best = strand
        return best

    def _rank_us(self, strand: Strand) -> int:
        assert strand.known is not None
        return strand.known[2].rank_us or 0

    def started(self, strand: Strand, priority: int) -> None:
        """The first task of a strand was placed: its submitter and namespace have had their turn."""
        self.is_passing = self.lowest < priority
        self.served += 1
        strand.lane.charge(self.served)

    def sleep(self, need: Need) -> None:
        """Nobody can take a task of this need, which has one, now."""
        need.is_awake = False
        self.active -= 1

    def wake(self, need: Need) -> None:
        """Somebody may be able to take a task of this need, which sleeps."""
        need.is_awake = True
        self.active += need.waiting > 0
        parked, need.parked = need.parked, []
        for strand in parked:
            self._relist(strand)

    def hold(self, group: TaskClass, priority: int) -> None:
        """A task of this class and priority must wait for something that is not an agent."""
        group.is_held, group.held_at = True, priority
        self.held[group.key] = group

    def ask_again(self) -> None:
        """What is held now may go, or its place in line has changed: `let_go` lists it again, some at a time."""
        self.to_ask.update(self.held)
        self.held = {}

    def let_go(self, most: int) -> None:
        """List the first few classes that are to be asked again."""
        for key in list(islice(self.to_ask, most)):
            group = self.to_ask.pop(key)
            group.is_held = False
            parked, group.parked = group.parked, []
            for strand in parked:
                self._relist(strand)

    def _relist(self, strand: Strand) -> None:
        strand.known, strand.is_parked = None, False
        entry = strand.first()
        if entry is not None:
            self._list(strand, entry)
        else:
            self._forget(strand)

    def _list(self, strand: Strand, entry: Entry) -> None:
        strand.known = entry
        self.serial = strand.serial = self.serial + 1
        heapq.heappush(strand.lane.heap, (entry[0], entry[1], self.serial, strand))
        strand.lane.enlist()

    def _champion(self, above: Lane) -> Strand | None:
        """The strand whose turn it is among those that are neither asleep nor held, in a priority or a namespace."""
        heap = above.heap
        while heap:
            tag, _, _, lane = heap[0]
            if tag != lane.tag:
                heapq.heapreplace(heap, (lane.tag, lane.served, lane.name, lane))
                continue
            strand = self._champion(lane) if above.parent is None else self._of_submitter(lane)
            if strand is not None:
                return strand
            heapq.heappop(heap)
            lane.is_listed = False
            above.sweep(LANES_KEPT)
        return None

    def _of_submitter(self, lane: Lane) -> Strand | None:
        heap = lane.heap
        while heap:
            strand: Strand = heap[0][3]
            known = strand.known
            if known is None or heap[0][2] != strand.serial:
                heapq.heappop(heap)
                continue
            group: TaskClass = strand.group
            if group.is_held or not group.need.is_awake:
                heapq.heappop(heap)
                strand.is_parked = True
                (group.parked if group.is_held else group.need.parked).append(strand)
                continue
            # One that came back in another class stands there, and not here.
            stands_here: bool = known[2].strand is strand
            if stands_here:
                return strand
            entry = strand.first()
            if entry is not None:
                strand.known = entry
                heapq.heapreplace(heap, (entry[0], entry[1], strand.serial, strand))
            else:
                heapq.heappop(heap)
                strand.known = None
                self._forget(strand)
        return None

    def _lane(self, priority: int, namespace: str, submitter: str) -> Lane:
        level = self.levels[priority]
        space = level.lanes.get(namespace)
        if space is None:
            space = level.lanes[namespace] = Lane(namespace, level, 1.0 / self.shares.get(namespace, 1.0))
        lane = space.lanes.get(submitter)
        if lane is None:
            weight = self.shares.get(f"{namespace}/{submitter}", 1.0)
            lane = space.lanes[submitter] = Lane(submitter, space, 1.0 / weight)
        return lane

    def _new_class(self, key: ClassKey) -> TaskClass:
        demands = key.demands
        may_be_held = bool(demands.claims or demands.scopes or demands.systems or key.caps)
        if demands.claims or demands.scopes or demands.systems:
            demands = demands._replace(claims=(), scopes=(), systems=())
        name = (demands, key.kind, key.is_plain, may_be_held)
        need = self.needs.get(name)
        if need is None:
            need = self.needs[name] = Need(*name[:3], may_be_held=may_be_held)
        need.classes += 1
        made = self.classes[key] = TaskClass(key, need)
        return made

    def _forget(self, strand: Strand) -> None:
        """A strand has nothing left: forget it, its class and its need, unless they are few and may come back."""
        group: TaskClass = strand.group
        if len(self.classes) <= CLASSES_KEPT and len(group.strands) <= LANES_KEPT:
            return
        del group.strands[strand.place]
        strand.lane.strands -= 1
        if group.strands:
            return
        del self.classes[group.key]  # not held: its strands were looked at, or listed again
        need = group.need
        need.classes -= 1
        if need.classes == 0:
            del self.needs[need.name]
            if need.reach is not None:
                need.reach.needs -= 1
                need.reach.asleep.pop(need, None)

    def _sweep(self) -> None:
        """Drop the entries of tasks that are gone, as many as there are tasks: most were cancelled while they slept."""
        self.removed = 0
        for group in self.classes.values():
            for strand in group.strands.values():
                kept = sorted(entry for entry in strand.line if entry[2].strand is strand)
                strand.line = Line()
                strand.line.fresh.extend(kept)

    def claimants(self, of_class_max: int) -> list[Task]:
        """Tasks that claim limits, about in the order in which they are looked at; of each class only the first few."""
        found: list[Task] = []
        for key, group in self.classes.items():
            if key.demands.claims:
                for strand in group.strands.values():
                    known = (entry[2] for entry in sorted(strand.line) if entry[2].strand is strand)
                    found += islice(known, of_class_max)
        return sorted(found, key=lambda task: (task.rank_us or 0, task.order))
