"""Which agents could take which tasks, kept between steps and changed only by what changed.

Owns the rankings of agents, one set for each combination of hard demands (a `Reach`). It must not know what makes an
agent a good choice: keys come from the functions that `strategies` hands in.

A ranking holds keys in order that may be out of date. A key that became *worse* is put right when it comes up; one that
became *better* must be noted at once, or it would not come up: whoever makes an agent more open or less loaded calls
`Fleet.changed`. A forgotten call is found by `check`. So a step costs what changed, not how many agents there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.placement.order import PRIORITIES
from outrider_coordinator.core.spec import Constraint, Demands

#: Sorts before the better agents first; the last part is the agent's id. None: it can take nothing now.
Key = tuple[Any, ...]
KeyOf = Callable[[Agent], Key | None]

#: Reaches that nobody has used are forgotten beyond this many.
REACHES_MAX = 256


class Hard(NamedTuple):
    """The demands that an agent meets or does not, whatever else it does."""

    constraints: tuple[Constraint, ...] = ()
    resources: tuple[tuple[str, float], ...] = ()
    runner: str = ""
    task_type: str = ""
    is_signed: bool = False
    refused_by: tuple[str, ...] = ()


def demands_of(task: Task) -> Demands:
    """What a task asks of an agent, which no agent meets that has refused it."""
    if not task.refusals:
        return task.spec.demands
    return task.spec.demands._replace(refused_by=tuple(agent_id for agent_id, _ in task.refusals))


def hard_of(demands: Demands) -> Hard:
    """What of the demands decides which agents can be reached."""
    return Hard(
        demands.constraints,
        demands.resources,
        demands.runner,
        demands.task_type,
        demands.is_signed,
        demands.refused_by,
    )


class Ranking:
    """Agents by a key, best first. ``known`` is the key under which each stands; entries of other keys are dead.

    What was noted since somebody asked stands in ``fresh``, sorted when it is asked, the best last: most agents that
    become free are taken at once, and to put each into the heap and take it out again would cost ten comparisons.
    """

    __slots__ = ("fresh", "heap", "is_sorted", "key_of", "known")

    def __init__(self, key_of: KeyOf) -> None:
        self.key_of = key_of
        self.heap: list[Key] = []
        self.fresh: list[Key] = []
        self.is_sorted = True
        self.known: dict[str, Key] = {}

    def note(self, agent: Agent) -> bool:
        """An agent's key may have become better; False when it can take nothing."""
        key = self.key_of(agent)
        if key is None:
            return False
        known, agent_id = self.known, agent.id
        before = known.get(agent_id)
        if before is None or key < before:
            known[agent_id] = key
            fresh = self.fresh
            fresh.append(key)
            self.is_sorted = False
            if len(fresh) + len(self.heap) > 2 * len(known) + 64:
                self.heap, self.fresh = list(known.values()), []
                heapq.heapify(self.heap)
        return True

    def first(self, agents: dict[str, Agent]) -> Agent | None:
        """The best agent, None when none can take anything."""
        heap, fresh, known, key_of = self.heap, self.fresh, self.known, self.key_of
        if not self.is_sorted:
            fresh.sort(reverse=True)
            self.is_sorted = True
        while heap or fresh:
            is_fresh = bool(fresh) and not (heap and heap[0] < fresh[-1])
            key = fresh[-1] if is_fresh else heap[0]
            agent_id = key[-1]
            now = None
            if known.get(agent_id) is key:
                agent = agents.get(agent_id)
                now = None if agent is None else key_of(agent)
                if now == key:
                    return agent
                if now is None:
                    del known[agent_id]
                else:
                    known[agent_id] = now
            if is_fresh:
                fresh.pop()
                if now is not None:
                    heapq.heappush(heap, now)
            elif now is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, now)
        return None

    def drop(self, agent_id: str) -> None:
        """An agent is none of these any more: its entry is dead."""
        self.known.pop(agent_id, None)

    def take(self) -> Key:
        """Take out the entry that stands first, dead or not; there is one, and everything is sorted."""
        heap, fresh = self.heap, self.fresh
        if fresh and not (heap and heap[0] < fresh[-1]):
            return fresh.pop()
        return heapq.heappop(heap)

    def best(self, agents: dict[str, Agent], count: int) -> list[Agent]:
        """The ``count`` best agents, best first."""
        found: list[Key] = []
        chosen: list[Agent] = []
        while len(chosen) < count and (agent := self.first(agents)) is not None:
            found.append(self.take())
            chosen.append(agent)
        for key in found:
            heapq.heappush(self.heap, key)
        return chosen

    def each(self, agents: dict[str, Agent]) -> Iterator[Agent]:
        """Agents, best first, for one who takes the first that suits; nothing may be offered in between."""
        passed: list[Key] = []
        try:
            while (agent := self.first(agents)) is not None:
                yield agent
                passed.append(self.take())
        finally:
            for key in passed:
                heapq.heappush(self.heap, key)


class Lot:
    """Agents to draw from by chance; those that can take nothing leave when they are drawn."""

    __slots__ = ("ids", "key_of", "places")

    def __init__(self, key_of: KeyOf) -> None:
        self.key_of = key_of
        self.ids: list[str] = []
        self.places: dict[str, int] = {}

    def note(self, agent: Agent) -> bool:
        """An agent may be open again; False when it can take nothing."""
        if self.key_of(agent) is None:
            return False
        if agent.id not in self.places:
            self.places[agent.id] = len(self.ids)
            self.ids.append(agent.id)
        return True

    def draw(self, agents: dict[str, Agent], below: Callable[[int], int]) -> Agent | None:
        """One of those that can take something; ``below(n)`` gives a number from 0 to below n."""
        while self.ids:
            place = below(len(self.ids))
            agent = agents.get(self.ids[place])
            if agent is not None and self.key_of(agent) is not None:
                return agent
            self._leave(place)
        return None

    def drop(self, agent_id: str) -> None:
        """An agent is none of these any more."""
        if agent_id in self.places:
            self._leave(self.places[agent_id])

    def _leave(self, place: int) -> None:
        gone, last = self.ids[place], self.ids.pop()
        del self.places[gone]
        if gone != last:
            self.ids[place] = last
            self.places[last] = place


Index = Ranking | Lot


@dataclass(slots=True)
class Reach:
    """The agents that meet one set of hard demands, and the indexes over them that somebody asked for, by name.

    ``asleep`` are needs that found nobody; they look again when an agent of the reach has changed.
    """

    hard: Hard
    members: dict[str, Agent] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)
    asleep: dict[Any, None] = field(default_factory=dict)
    needs: int = 0

    def drop(self, agent: Agent) -> None:
        """An agent does not meet these demands any more."""
        self.members.pop(agent.id, None)
        for index in self.indexes.values():
            index.drop(agent.id)

    def index(self, name: str, make: Callable[[], Index]) -> Index:
        """The index of this name, made over all members when it is asked for first."""
        index = self.indexes.get(name)
        if index is None:
            index = self.indexes[name] = make()
            for agent in self.members.values():
                index.note(agent)
        return index


@dataclass(slots=True)
class Fleet:
    """Every reach in use, and the agents that changed since the last placement; `Agent.reaches` has those of each.

    ``lines`` are agents with attempts ahead of a slot. ``victims`` are live attempts that may be stopped for a more
    urgent task, by priority, oldest first. ``measured_kinds`` of work are compared between agents. ``turn`` counts
    offers, for taking turns, ``reaches_made`` how often all agents were read.
    """

    reaches: dict[Hard, Reach] = field(default_factory=dict)
    dirty: dict[str, Agent] = field(default_factory=dict)
    lines: dict[str, Agent] = field(default_factory=dict)
    victims: list[dict[tuple[str, int], Attempt]] = field(default_factory=lambda: [{} for _ in range(PRIORITIES)])
    measured_kinds: set[str] = field(default_factory=set)
    turn: int = 0
    reaches_made: int = 0

    def changed(self, agent: Agent) -> None:
        """An agent may take more than before: it is open again, or less loaded."""
        self.dirty[agent.id] = agent

    def joined(self, agent: Agent, fits: Callable[[Agent, Hard], bool]) -> None:
        """An agent is new, or offers other things than before: ``fits`` tells whether it meets hard demands."""
        for reach in agent.reaches:
            if not fits(agent, reach.hard):
                reach.drop(agent)
        agent.reaches = [reach for hard, reach in self.reaches.items() if fits(agent, hard)]
        for reach in agent.reaches:
            reach.members[agent.id] = agent
        self.changed(agent)

    def left(self, agent: Agent) -> None:
        """An agent is forgotten for good."""
        for reach in agent.reaches:
            reach.drop(agent)
        agent.reaches = []
        self.dirty.pop(agent.id, None)
        self.lines.pop(agent.id, None)

    def reach(self, hard: Hard, agents: dict[str, Agent], fits: Callable[[Agent, Hard], bool]) -> Reach:
        """The reach of these demands, made when it is asked for first: that reads all agents."""
        reach = self.reaches.get(hard)
        if reach is None:
            if len(self.reaches) >= REACHES_MAX:
                self._forget_unused()
            reach = self.reaches[hard] = Reach(hard)
            self.reaches_made += 1
            for agent in agents.values():
                if fits(agent, hard):
                    reach.members[agent.id] = agent
                    agent.reaches.append(reach)
        return reach

    def _forget_unused(self) -> None:
        unused = [hard for hard, reach in self.reaches.items() if not reach.needs and hard != Hard()]
        for hard in unused:
            gone = self.reaches.pop(hard)
            for agent in gone.members.values():
                agent.reaches.remove(gone)


def check(fleet: Fleet, agents: dict[str, Agent], fits: Callable[[Agent, Hard], bool]) -> None:
    """Every agent stands where it belongs, under no worse a key than it has. Raises AssertionError."""
    for hard, reach in fleet.reaches.items():
        expected = {agent.id for agent in agents.values() if fits(agent, hard)}
        assert reach.members.keys() == expected, f"{hard} reaches {sorted(reach.members)}, should {sorted(expected)}"
        for name, index in reach.indexes.items():
            strangers = (index.places if isinstance(index, Lot) else index.known).keys() - expected
            assert not strangers, f"{name} of {hard} still has {sorted(strangers)}"
            for agent_id in expected - fleet.dirty.keys():
                key = index.key_of(agents[agent_id])
                if key is not None:
                    story = f"agent {agent_id} got better and nobody said so: {name} of {hard} does not know {key}"
                    assert _is_known(index, agent_id, key), story


def _is_known(index: Index, agent_id: str, key: Key) -> bool:
    if isinstance(index, Lot):
        return agent_id in index.places
    known = index.known.get(agent_id)
    return known is not None and known <= key
