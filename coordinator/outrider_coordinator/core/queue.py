"""Ready tasks in the order in which they are to be placed: priority first, then first come first served.

Tasks that the same agents could take stand in one class, so that a thousand that nobody can run are looked at once.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from outrider_coordinator.core.model import Task
from outrider_coordinator.core.spec import Demands
from outrider_coordinator.core.states import TaskState


class ClassKey(NamedTuple):
    """What placement can tell two tasks apart by."""

    demands: Demands
    kind: str
    is_plain: bool
    namespace: str = ""

    @property
    def is_limited(self) -> bool:
        """Whether tasks of this class may have to wait for others that run."""
        return bool(self.demands.claims or self.demands.scopes)


Entry = tuple[int, int, str]


def class_key(task: Task) -> ClassKey:
    """The class a task waits in."""
    spec = task.spec
    demands = _elsewhere(task) if task.waits else spec.demands
    is_limited = bool(demands.claims or demands.scopes)
    is_plain = spec.is_function and not (is_limited or spec.exclusive or spec.at_most_once or demands.resources)
    return ClassKey(demands, spec.kind, is_plain, task.namespace if is_limited else "")


def _elsewhere(task: Task) -> Demands:
    """The task's demands, rather anywhere else than where one of its waits ran out of time."""
    left = tuple((agent_id, -100) for agent_id in sorted({wait.expired_on for wait in task.waits} - {""}))
    demands = task.spec.demands
    return demands._replace(affinities=demands.affinities + left) if left else demands


def sort_key(task: Task) -> Entry:
    """Position in the queue: smaller goes first. ``order`` is unique, so ties cannot happen."""
    return -task.spec.priority, task.order, task.id


@dataclass(slots=True)
class Line:
    """Entries of one class: most come in order and stand in ``fresh``, the others in a heap beside it."""

    fresh: deque[Entry] = field(default_factory=deque)
    late: list[Entry] = field(default_factory=list)

    def push(self, entry: Entry) -> None:
        """Add an entry."""
        if not self.fresh or self.fresh[-1] < entry:
            self.fresh.append(entry)
        else:
            heapq.heappush(self.late, entry)

    def first(self, tasks: Container[str]) -> Entry | None:
        """The first entry of these tasks; those of others that stand before it are dropped."""
        fresh, late = self.fresh, self.late
        while fresh and fresh[0][2] not in tasks:
            fresh.popleft()
        while late and late[0][2] not in tasks:
            heapq.heappop(late)
        if late and not (fresh and fresh[0] < late[0]):
            return late[0]
        return fresh[0] if fresh else None


@dataclass(slots=True)
class ReadyQueue:
    """QUEUED tasks in lines by class. Entries of tasks that left the queue are dropped when they come up."""

    tasks: dict[str, Task] = field(default_factory=dict)
    lines: dict[ClassKey, Line] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tasks)

    def push(self, task: Task) -> None:
        """Add a QUEUED task."""
        assert task.state is TaskState.QUEUED
        self.tasks[task.id] = task
        key = class_key(task)
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = Line()
        line.push(sort_key(task))

    def remove(self, task: Task) -> None:
        """Take a task out, wherever it stands; unknown ones are ignored."""
        self.tasks.pop(task.id, None)

    def head(self, key: ClassKey) -> Entry | None:
        """The first entry of a class, None when the class is empty (it is then forgotten)."""
        entry = self.lines[key].first(self.tasks)
        if entry is None:
            del self.lines[key]
        return entry

    def heads(self) -> list[tuple[Entry, ClassKey]]:
        """The first entry of every class, as a heap."""
        heads = [(entry, key) for key in list(self.lines) if (entry := self.head(key)) is not None]
        heapq.heapify(heads)
        return heads

    def claimants(self, of_class_max: int) -> list[Task]:
        """Tasks that claim limits, in the order of the queue; of each class only the first few."""
        entries: list[Entry] = []
        for key, line in self.lines.items():
            if key.demands.claims:
                entries += islice(heapq.merge(line.fresh, sorted(line.late)), of_class_max)
        return [self.tasks[entry[2]] for entry in sorted(entries) if entry[2] in self.tasks]

    def ahead_of(self, task: Task) -> int:
        """How many tasks would be placed before this one. Reads the whole queue: for Explain only."""
        mine = sort_key(task)
        return sum(1 for other in self._entries() if other < mine)

    def _entries(self) -> Iterator[Entry]:
        return (sort_key(task) for task in self.tasks.values())
