"""Where a queued task stands: how much work that could take the same agents is looked at before it.

Reads the queue's order for Explain; changes nothing. It costs something for each strand of the queue, not for each
task: within a strand entries are counted by their place, so tasks that have left the queue since then count too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from outrider_coordinator.core.model import Agent, Task
from outrider_coordinator.core.placement.eligibility import fits
from outrider_coordinator.core.placement.fleet import hard_of
from outrider_coordinator.core.placement.order import Entry, Strand, entry_of
from outrider_coordinator.core.placement.queue import Need
from outrider_coordinator.core.state import State

#: Strands that are read, entries out of order that are counted, and agents that are asked, before the rest is left out.
STRANDS_MAX, LATE_MAX, AGENTS_MAX = 20_000, 10_000, 20
_SLICE = 200

Steps = Generator[None, None, None]


class Ahead(NamedTuple):
    """So many tasks of one kind go before; ``estimated_us`` is what one of them is said to take, 0 for nothing."""

    kind: str
    tasks: int
    estimated_us: int = 0


class Place(NamedTuple):
    """What decides when a task is looked at."""

    priority: int
    namespace: str
    submitter: str
    rank_us: int
    entry: Entry


def place_of(state: State, task: Task, priority: int | None = None) -> Place:
    """The place of a task, or that which it would have with another priority from the start."""
    wanted = task.spec.priority if priority is None else priority
    queue = state.queue
    rank_us = queue.clock_us - task.spec.priority * queue.aging_us if task.rank_us is None else task.rank_us
    rank_us -= (wanted - task.spec.priority) * queue.aging_us
    return Place(wanted, task.namespace, task.submitter, rank_us, entry_of(task))


@dataclass(slots=True)
class Rivals:
    """Strands of the queue, and whether the agents that could take a task could take theirs too."""

    agents: Sequence[Agent]
    strands: list[tuple[Need, Strand]] = field(default_factory=list)
    competes: dict[Need, bool] = field(default_factory=dict)


def rivals(state: State, agents: Sequence[Agent]) -> Generator[None, None, Rivals]:
    """What stands in the queue and is not held up. Yields between slices."""
    found = Rivals(agents[:AGENTS_MAX])
    paused = 0
    for number, group in enumerate(list(state.queue.classes.values())):
        if number % _SLICE == _SLICE - 1 or len(found.strands) - paused > 4 * _SLICE:
            paused = len(found.strands)
            yield
        if not group.is_held:
            found.strands += ((group.need, strand) for strand in group.strands.values() if len(strand.line))
        if len(found.strands) > STRANDS_MAX:
            break
    return found


def ahead(place: Place, others: Rivals) -> Generator[None, None, list[Ahead]]:
    """What goes before a place among tasks that could go to the same agents. Yields between slices.

    Priorities compare by rank; inside one, submitters take turns: of another submitter at most as many go first as of
    the own one.
    """
    own = [strand for _, strand in others.strands if strand.place == place[:3]]
    yield
    own_turns = sum(_before(strand, place.entry) for strand in own)
    found: dict[str, Ahead] = {}
    for number, (need, strand) in enumerate(others.strands):
        if number % _SLICE == _SLICE - 1:
            yield
        count = _count(strand, place, own_turns)
        if count and need not in others.competes:
            hard = hard_of(need.demands)
            others.competes[need] = any(fits(agent, hard) for agent in others.agents)
        if count and others.competes[need]:
            known = found.get(need.kind) or Ahead(need.kind, 0, _estimate_us(strand))
            found[need.kind] = known._replace(tasks=known.tasks + count)
    return [found[kind] for kind in sorted(found)]


def _estimate_us(strand: Strand) -> int:
    first = strand.first()
    return first[2].spec.estimated_us if first is not None else 0


def _count(strand: Strand, place: Place, own_turns: int) -> int:
    priority = strand.place[0]
    if strand.place == place[:3]:
        return _before(strand, place.entry)
    if priority == place.priority:
        return min(len(strand.line), own_turns)
    first = strand.first()
    if first is None:
        return 0
    is_before = (first[2].rank_us or 0, -priority) < (place.rank_us, -place.priority)
    return len(strand.line) if is_before else 0


def _before(strand: Strand, entry: Entry) -> int:
    """Entries of a strand before this one."""
    late = strand.line.late[:LATE_MAX]
    return bisect_left(strand.line.fresh, entry) + sum(other < entry for other in late)
