"""Committed data, read: what the API shows and what a start rebuilds memory from."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from outrider_coordinator.core import records
from outrider_coordinator.store import queries

_LAST = "\uffff"


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task with its attempts, oldest first, and its open waits, as committed."""

    task: records.InsertTask
    attempts: list[records.PutAttempt]
    waits: list[records.PutWait]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run with the number of its tasks in each state, as committed."""

    run: records.PutRun
    counts: list[tuple[int, int]]


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
            (not self.namespace or event.namespace in ("", self.namespace))
            and (not self.task_ids or event.task_id in self.task_ids)
            and (not self.run_id or event.run_id == self.run_id)
            and (not self.client_id or event.client_id == self.client_id)
            and (not self.types or event.type in self.types)
        )


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


@dataclass(slots=True)
class Ambiguous:
    """More than one id starts with a prefix."""

    ids: list[str] = field(default_factory=list)


class Reader:
    """One read-only connection. Methods block; they take a lock, so any thread may call them."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        self._connection.set_busy_timeout(5_000)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def _rows(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(statement, parameters).fetchall()

    def task_id(self, namespace: str, prefix: str) -> str | Ambiguous | None:
        """The one task whose id starts with ``prefix``."""
        return _one(self._rows(queries.TASK_IDS_BY_PREFIX, (prefix, prefix + _LAST, namespace)))

    def run_id(self, namespace: str, prefix: str) -> str | Ambiguous | None:
        """The one run whose id starts with ``prefix``."""
        return _one(self._rows(queries.RUN_IDS_BY_PREFIX, (prefix, prefix + _LAST, namespace)))

    def task(self, namespace: str, task_id: str) -> TaskRecord | None:
        """One task with its attempts and open waits."""
        rows = self._rows(queries.TASK, (task_id, namespace))
        return self._with_parts(_task(rows[0])) if rows else None

    def tasks(self, wanted: TaskFilter, limit: int) -> list[TaskRecord]:
        """A page of tasks, newest first."""
        conditions, parameters = _task_conditions(wanted)
        rows = self._rows(queries.tasks_page(conditions), (*parameters, limit))
        return [self._with_parts(_task(row)) for row in rows]

    def _with_parts(self, task: records.InsertTask) -> TaskRecord:
        attempts = [_attempt(row) for row in self._rows(queries.ATTEMPTS_OF_TASK, (task.id,))]
        waits = [_wait(row) for row in self._rows(queries.OPEN_WAITS_OF_TASK, (task.id,))]
        return TaskRecord(task, attempts, waits)

    def run(self, namespace: str, run_id: str) -> RunRecord | None:
        """One run with its counts."""
        rows = self._rows(queries.RUN, (run_id, namespace))
        return RunRecord(_run(rows[0]), self._run_counts(run_id)) if rows else None

    def runs(self, namespace: str, *, id_prefix: str, before_id: str, limit: int) -> list[RunRecord]:
        """A page of runs, newest first."""
        parameters = (namespace, before_id or _LAST, id_prefix, id_prefix + _LAST, limit)
        runs = [_run(row) for row in self._rows(queries.RUNS_PAGE, parameters)]
        return [RunRecord(run, self._run_counts(run.id)) for run in runs]

    def _run_counts(self, run_id: str) -> list[tuple[int, int]]:
        return [(state, count) for state, count in self._rows(queries.RUN_COUNTS, (run_id,))]

    def task_states(self, task_ids: tuple[str, ...]) -> dict[str, int | None]:
        """State of each task, None for unknown ones."""
        states: dict[str, int | None] = {}
        for task_id in task_ids:
            rows = self._rows(queries.TASK_STATE, (task_id,))
            states[task_id] = rows[0][0] if rows else None
        return states

    def outcomes(self, task_ids: tuple[str, ...]) -> dict[str, bytes]:
        """Serialized Completed of each task that succeeded."""
        outcomes = {}
        for task_id in task_ids:
            rows = self._rows(queries.TASK_OUTCOME, (task_id,))
            if rows:
                outcomes[task_id] = rows[0][0]
        return outcomes

    def request(self, namespace: str, request_id: str, *, of_run: bool = False) -> tuple[str, bytes] | None:
        """Id and digest of what was accepted under a request id."""
        statement = queries.RUN_BY_REQUEST if of_run else queries.TASK_BY_REQUEST
        rows = self._rows(statement, (namespace, request_id))
        return (rows[0][0], rows[0][1]) if rows else None

    def logs(self, task_id: str, attempt: int, after_number: int, limit: int) -> list[tuple[int, int, bytes]]:
        """(number, time, serialized Log) of an attempt after a number, in order."""
        rows = self._rows(queries.LOGS, (task_id, attempt, after_number, limit))
        return [(number, time_us, body) for number, time_us, body in rows]

    def cursors(self) -> tuple[int, int]:
        """First and last cursor in the event log; (1, 0) when it is empty."""
        first, last = self._rows(queries.CURSORS)[0]
        return first, last

    def events(self, wanted: EventFilter, after: int, until: int, limit: int) -> list[records.InsertEvent]:
        """Events with ``after`` < cursor <= ``until``, in order."""
        conditions, parameters = _event_conditions(wanted, after, until)
        statement = queries.events_page(conditions, include_results=wanted.include_results)
        return [records.InsertEvent(*row) for row in self._rows(statement, (*parameters, limit))]

    # --- recovery: streamed, before anything else reads

    def _stream(self, statement: str) -> Iterator[tuple[Any, ...]]:
        return iter(self._connection.execute(statement))

    def open_tasks(self) -> Iterator[records.InsertTask]:
        """Tasks that are not terminal, in the order accepted."""
        return map(_task, self._stream(queries.OPEN_TASKS))

    def open_attempts(self) -> Iterator[records.PutAttempt]:
        """Live attempts and strays of open tasks."""
        return map(_attempt, self._stream(queries.OPEN_ATTEMPTS))

    def open_waits(self) -> Iterator[records.PutWait]:
        """Waits, answered ones too, of open tasks."""
        return map(_wait, self._stream(queries.OPEN_TASKS_WAITS))

    def open_runs(self) -> Iterator[records.PutRun]:
        """Runs that are not over."""
        return map(_run, self._stream(queries.OPEN_RUNS))

    def agents(self) -> list[records.PutAgent]:
        """All agents, by id."""
        return [records.PutAgent._make((*row[:7], json.loads(row[7]), *row[8:])) for row in self._rows(queries.AGENTS)]

    def outboxes(self) -> list[records.PutOutbox]:
        """All outbox positions."""
        return [records.PutOutbox(*row) for row in self._rows(queries.OUTBOXES)]

    def last_sequence(self) -> int:
        """Highest sequence number of a task that is not terminal; 0 when there is none."""
        return int(self._rows(queries.LAST_SEQUENCE)[0][0])


def _one(rows: list[tuple[Any, ...]]) -> str | Ambiguous | None:
    if len(rows) > 1:
        return Ambiguous([row[0] for row in rows])
    return rows[0][0] if rows else None


def _task(row: tuple[Any, ...]) -> records.InsertTask:
    return records.InsertTask._make((*row[:14], tuple(json.loads(row[14])), *row[15:]))


def _attempt(row: tuple[Any, ...]) -> records.PutAttempt:
    return records.PutAttempt(*row)


def _wait(row: tuple[Any, ...]) -> records.PutWait:
    return records.PutWait(*row)


def _run(row: tuple[Any, ...]) -> records.PutRun:
    counts = tuple((state, count) for state, count in json.loads(row[8]))
    return records.PutRun._make((*row[:6], tuple(json.loads(row[6])), tuple(json.loads(row[7])), counts, *row[9:]))


def _task_conditions(wanted: TaskFilter) -> tuple[list[str], list[Any]]:
    conditions, parameters = ["t.namespace = ?"], [wanted.namespace]
    pairs: list[tuple[str, Any]] = [
        ("t.run_id <> '' AND t.run_id = ?", wanted.run_id),
        ("t.client_id = ?", wanted.client_id),
        ("t.id >= ?", wanted.id_prefix),
        ("t.id < ?", wanted.id_prefix and wanted.id_prefix + _LAST),
        ("t.id < ?", wanted.before_id),
    ]
    for condition, value in pairs:
        if value:
            conditions.append(condition)
            parameters.append(value)
    if wanted.states:
        conditions.append(f"t.state IN ({', '.join(str(int(state)) for state in wanted.states)})")
    if wanted.open_waits_only:
        conditions.append("t.state <= 6 AND t.id IN (SELECT task_id FROM waits WHERE is_open = 1)")
    return conditions, parameters


def _event_conditions(wanted: EventFilter, after: int, until: int) -> tuple[list[str], list[Any]]:
    conditions = ["e.cursor > ?", "e.cursor <= ?"]
    parameters: list[Any] = [after, until]
    pairs = [("e.run_id <> '' AND e.run_id = ?", wanted.run_id), ("e.client_id = ?", wanted.client_id)]
    for condition, value in pairs:
        if value:
            conditions.append(condition)
            parameters.append(value)
    if wanted.namespace:
        conditions.append("e.namespace IN ('', ?)")
        parameters.append(wanted.namespace)
    if wanted.task_ids:
        conditions.append(f"e.task_id <> '' AND e.task_id IN ({', '.join('?' * len(wanted.task_ids))})")
        parameters.extend(sorted(wanted.task_ids))
    if wanted.types:
        conditions.append(f"e.type IN ({', '.join(str(int(kind)) for kind in sorted(wanted.types))})")
    return conditions, parameters
