"""In which order ready tasks are looked at: priority that ages, then fair shares, then deadlines, then first come.

A task gets one static key when it is first queued: ``rank_us = clock - priority * aging``. The clock only runs while
tasks are *passed over*, that is while a task of a lower priority that could have been placed waits because one of a
higher priority was placed instead. So a level of priority is worth ``aging`` of being passed over, and a backlog that
nobody overtakes does not grow more important by waiting: a fresh CRITICAL goes before it.

Inside a priority namespaces take turns by weight, inside a namespace its submitters do (start-time fair queueing,
Goyal, Vin, Cheng 1996, with the finish tag of the last start as virtual time): each has a tag that grows by 1 / weight
with every start, and the smallest goes next. Inside a submitter: earliest deadline first, and what has no deadline
counts as due a day after it was submitted; then first come, first served.

Bound (starvation): let a task of priority p be next of its priority. A task of priority q > p that is queued after it
has been passed over for more than (q - p) * aging does not go before it. Invariant: tags never fall.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from outrider_coordinator.core.model import Task
from outrider_coordinator.core.spec import SECOND_US

#: What has no deadline counts as due so long after it was submitted.
NO_DEADLINE_US = 24 * 3600 * SECOND_US
PRIORITIES = 11

#: When it is due, in which order it was accepted, and the task itself, which is never compared: no two have one order.
Entry = tuple[int, int, Task]


def entry_of(task: Task) -> Entry:
    """Position among the tasks of one submitter: smaller goes first. The order is unique, so ties cannot happen."""
    deadline_us = task.spec.deadline_us
    due_us = task.created_us + deadline_us if deadline_us else task.created_us + NO_DEADLINE_US
    return due_us, task.order, task


@dataclass(slots=True)
class Line:
    """Entries in order: most come in order and stand in ``fresh``, the others in a heap beside it."""

    fresh: deque[Entry] = field(default_factory=deque)
    late: list[Entry] = field(default_factory=list)

    def push(self, entry: Entry) -> None:
        """Add an entry."""
        if not self.fresh or self.fresh[-1] < entry:
            self.fresh.append(entry)
        else:
            heapq.heappush(self.late, entry)

    def __iter__(self) -> Iterator[Entry]:
        yield from self.fresh
        yield from self.late

    def __len__(self) -> int:
        return len(self.fresh) + len(self.late)


@dataclass(slots=True, eq=False)
class Strand:
    """Tasks of one class, priority, namespace and submitter (the ``place``). ``group`` may hold all of them up at once.

    ``known`` is the entry under which it stands in its lane's heap, with ``serial``; entries of other serials are dead.
    """

    group: Any
    place: tuple[int, str, str]
    lane: Lane
    line: Line = field(default_factory=Line)
    known: Entry | None = None
    serial: int = 0
    is_parked: bool = False

    def first(self) -> Entry | None:
        """The first entry of a task that stands here; those before it are dropped.

        They are of tasks that left the queue, or came back to it in another class.
        """
        fresh, late = self.line.fresh, self.line.late
        while fresh and fresh[0][2].strand is not self:
            fresh.popleft()
        while late and late[0][2].strand is not self:
            heapq.heappop(late)
        if late and not (fresh and fresh[0] < late[0]):
            return late[0]
        return fresh[0] if fresh else None


@dataclass(slots=True, eq=False)
class Lane:
    """A priority, a namespace of it, or a submitter of that: who takes turns with its neighbours.

    ``step`` is 1 / weight. ``tag`` grows by it with every start; ``virtual`` is the tag that its own lanes have
    reached. ``heap`` holds its lanes by tag (the longest not served first among equals), or a submitter's strands by
    their first entry; what is empty or held up leaves when it comes up, and is listed again when that ends.
    """

    name: str
    parent: Lane | None
    step: float = 1.0
    tag: float = 0.0
    served: int = 0
    virtual: float = 0.0
    lanes: dict[str, Lane] = field(default_factory=dict)
    strands: int = 0
    heap: list[Any] = field(default_factory=list)
    is_listed: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing stands in it."""
        return not (self.is_listed or self.strands or self.lanes)

    def enlist(self) -> None:
        """It has something to start: it takes its turn again, without credit for the time it was away."""
        lane: Lane | None = self
        while lane is not None and not lane.is_listed and lane.parent is not None:
            parent = lane.parent
            if lane.tag < parent.virtual:
                lane.tag = parent.virtual
            lane.is_listed = True
            heapq.heappush(parent.heap, (lane.tag, lane.served, lane.name, lane))
            lane = parent

    def charge(self, served: int) -> None:
        """One of its tasks starts: it and those it belongs to move on. ``served`` rises with every start."""
        lane: Lane | None = self
        while lane is not None and lane.parent is not None:
            lane.tag += lane.step
            lane.served = served
            if lane.parent.virtual < lane.tag:
                lane.parent.virtual = lane.tag
            lane = lane.parent

    def sweep(self, keep: int) -> None:
        """Forget lanes that are idle and owe nothing, once there are more than ``keep``."""
        if len(self.lanes) > keep:
            for lane in [lane for lane in self.lanes.values() if lane.is_idle and lane.tag <= self.virtual]:
                del self.lanes[lane.name]
