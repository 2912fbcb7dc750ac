"""Where a queued task stands: how much work that could take the same agents is looked at before it.

Reads the queue's order for Explain; changes nothing. It costs something for each strand of the queue, not for each
task: within a strand entries are counted by their place, so tasks that have left the queue since then count too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Sequence
from typing import NamedTuple

from outrider_coordinator.core.eligibility import fits
from outrider_coordinator.core.fleet import hard_of
from outrider_coordinator.core.model import Agent, Task
from outrider_coordinator.core.order import Entry, Strand, entry_of
from outrider_coordinator.core.queue import Need
from outrider_coordinator.core.state import State

#: Strands that are read, entries out of order that are counted, and agents that are asked, before the rest is left out.
STRANDS_MAX, LATE_MAX, AGENTS_MAX = 20_000, 10_000, 20
_SLICE = 100

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


def ahead(state: State, place: Place, agents: Sequence[Agent]) -> Generator[None, None, list[Ahead]]:
    """What goes before a place among tasks that one of these agents could take. Yields between slices.

    Priorities compare by rank; inside one, submitters take turns: of another submitter at most as many go first as of
    the own one.
    """
    competes: dict[Need, bool] = {}
    strands: list[tuple[Need, Strand]] = []
    for group in list(state.queue.classes.values()):
        need = group.need
        if not group.is_held:
            strands += ((need, strand) for strand in group.strands.values() if len(strand.line))
        if len(strands) > STRANDS_MAX:
            break
    own_turns = sum(_before(strand, place.entry) for _, strand in strands if strand.place == place[:3])
    found: dict[str, Ahead] = {}
    for position, (need, strand) in enumerate(strands):
        if position % _SLICE == _SLICE - 1:
            yield
        count = _count(state, strand, place, own_turns)
        if count and need not in competes:
            competes[need] = any(fits(agent, hard_of(need.demands)) for agent in agents[:AGENTS_MAX])
        if count and competes[need]:
            known = found.get(need.kind) or Ahead(need.kind, 0, _estimate_us(state, strand))
            found[need.kind] = known._replace(tasks=known.tasks + count)
    return [found[kind] for kind in sorted(found)]


def _estimate_us(state: State, strand: Strand) -> int:
    first = strand.line.first(state.queue.tasks)
    return state.queue.tasks[first[2]].spec.estimated_us if first is not None else 0


def _count(state: State, strand: Strand, place: Place, own_turns: int) -> int:
    priority = strand.place[0]
    if strand.place == place[:3]:
        return _before(strand, place.entry)
    if priority == place.priority:
        return min(len(strand.line), own_turns)
    first = strand.line.first(state.queue.tasks)
    rank_us = state.queue.tasks[first[2]].rank_us or 0 if first is not None else 0
    is_before = first is not None and (rank_us, -priority) < (place.rank_us, -place.priority)
    return len(strand.line) if is_before else 0


def _before(strand: Strand, entry: Entry) -> int:
    """Entries of a strand before this one."""
    late = strand.line.late[:LATE_MAX]
    return bisect_left(strand.line.fresh, entry) + sum(other < entry for other in late)
