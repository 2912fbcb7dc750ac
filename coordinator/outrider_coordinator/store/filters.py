"""What callers may ask for: which tasks and which events, and the statements that find them.

A filter of events means the same here and in memory (`EventFilter.matches`). Every statement walks an index that
belongs to what was asked for, so that it costs what it returns, not what the store holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from outrider_coordinator.core import records
from outrider_coordinator.store import queries
from outrider_coordinator.store.chunks import CHUNK_EVENTS_MAX

#: Behind every id that starts with a prefix, when appended to it.
LAST = "\uffff"
#: How many cursors one read looks at when no index belongs to the filter.
CURSORS_PER_READ = 20_000

#: A condition on ``t``: the task has an open wait.
_HAS_OPEN_WAIT = "t.id IN (SELECT task_id FROM waits WHERE is_open = 1)"
Query = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events: all conditions must hold; empty ones do not count. Outcomes only with ``include_results``."""

    namespace: str = ""
    task_ids: frozenset[str] = frozenset()
    run_id: str = ""
    client_id: str = ""
    types: frozenset[int] = frozenset()
    include_results: bool = False

    def matches(self, event: records.InsertEvent) -> bool:
        """Whether an event is wanted."""
        return (
            # First what leaves most events out.
            (not self.types or event.type in self.types)
            and (not self.task_ids or event.task_id in self.task_ids)
            and (not self.run_id or event.run_id == self.run_id)
            and (not self.client_id or event.client_id == self.client_id)
            and (not self.namespace or event.namespace in ("", self.namespace))
        )

    def read_until(self, after: int, until: int) -> int:
        """How far one read goes: to ``until`` along an index, otherwise over a bounded range of cursors."""
        has_index = bool(self.task_ids or self.run_id)
        return until if has_index else min(until, after + CURSORS_PER_READ)


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks: all conditions must hold; empty ones do not count. Newest first, ids below ``before_id``."""

    namespace: str
    states: tuple[int, ...] = ()
    run_id: str = ""
    client_id: str = ""
    id_prefix: str = ""
    open_waits_only: bool = False
    before_id: str = ""


def task_ids(wanted: TaskFilter, limit: int) -> list[Query]:
    """Statements that give ids of wanted tasks, newest first, ``limit`` each: the newest of all are the page."""
    if wanted.run_id:
        return [_task_ids(wanted, limit, "tasks_by_run", _state_condition(wanted.states))]
    if wanted.client_id:
        return [_task_ids(wanted, limit, "tasks_by_client", _state_condition(wanted.states))]
    ends = sorted({max(int(state), queries.OPEN) for state in wanted.states}) or queries.ENDS
    if wanted.open_waits_only:
        ends = [end for end in ends if end == queries.OPEN]
    states = _state_condition(wanted.states)
    at_end = [f"max(t.state, {queries.OPEN}) = {end}" for end in ends]
    return [_task_ids(wanted, limit, "tasks_by_end", [condition, *states]) for condition in at_end]


def _state_condition(states: tuple[int, ...]) -> list[str]:
    return [f"t.state IN ({_numbers(states)})"] if states else []


def _task_ids(wanted: TaskFilter, limit: int, index: str, conditions: list[str]) -> Query:
    parameters: list[Any] = []
    pairs = [
        ("t.namespace = ?", wanted.namespace),
        ("t.run_id <> '' AND t.run_id = ?", wanted.run_id),
        ("t.client_id <> '' AND t.client_id = ?", wanted.client_id),
        ("t.id >= ?", wanted.id_prefix),
        ("t.id < ?", wanted.id_prefix and wanted.id_prefix + LAST),
        ("t.id < ?", wanted.before_id),
    ]
    for condition, value in pairs:
        if value:
            conditions = [*conditions, condition]
            parameters.append(value)
    if wanted.open_waits_only:
        conditions = [*conditions, _HAS_OPEN_WAIT]
    return queries.task_ids_page(index, conditions), (*parameters, limit)


def chunks(wanted: EventFilter, after: int, until: int) -> Query:
    """Chunks of the log that may hold wanted events with ``after`` < cursor <= ``until``, in order."""
    begins = (after - CHUNK_EVENTS_MAX, until)
    if wanted.task_ids:
        return queries.CHUNKS_OF_TASKS, (json.dumps(sorted(wanted.task_ids)), *begins)
    if wanted.run_id:
        return queries.CHUNKS_OF_RUN, (wanted.run_id, *begins)
    return queries.CHUNKS, begins


def _numbers(values: tuple[int, ...] | list[int]) -> str:
    return ", ".join(str(int(value)) for value in values)
