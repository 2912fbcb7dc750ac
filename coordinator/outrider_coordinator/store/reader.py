"""Committed data, read: what the API shows and what a start rebuilds memory from."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from outrider_coordinator.core import records
from outrider_coordinator.core.states import EventType
from outrider_coordinator.store import chunks, filters, queries
from outrider_coordinator.store.errors import StoreFailed
from outrider_coordinator.store.filters import LAST, EventFilter, TaskFilter

PAGE_EVENTS_MAX = 500
#: One page of events ends with the one that passes this.
PAGE_BYTES_MAX = 1 << 20


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


class EventPage(NamedTuple):
    """Events in order, and the cursor up to which nothing more is wanted: go on after it."""

    events: list[records.InsertEvent]
    reached: int


@dataclass(slots=True)
class Ambiguous:
    """More than one id starts with a prefix."""

    ids: list[str] = field(default_factory=list)


class Reader:
    """One read-only connection. Methods block; they take a lock, so any thread may call them.

    Raises `StoreFailed` when the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        self._connection.set_busy_timeout(5_000)
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()

    def _rows(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._lock, self._failures():
            return self._connection.execute(statement, parameters).fetchall()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except apsw.Error as error:
            raise StoreFailed(
                f"reading {self._path} failed: {error}; restore a backup if the file is damaged"
            ) from error

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Everything read inside is as of one commit."""
        with self._lock:
            self._rows("BEGIN")
            try:
                yield
            finally:
                self._rows("COMMIT")

    def task_id(self, namespace: str, prefix: str) -> str | Ambiguous | None:
        """The one task whose id starts with ``prefix``."""
        return _one(self._rows(queries.TASK_IDS_BY_PREFIX, (namespace, prefix, prefix + LAST)))

    def run_id(self, namespace: str, prefix: str) -> str | Ambiguous | None:
        """The one run whose id starts with ``prefix``."""
        return _one(self._rows(queries.RUN_IDS_BY_PREFIX, (namespace, prefix, prefix + LAST)))

    def task(self, namespace: str, task_id: str) -> TaskRecord | None:
        """One task with its attempts and open waits."""
        with self._snapshot():
            return self._task(namespace, task_id)

    def tasks(self, wanted: TaskFilter, limit: int) -> list[TaskRecord]:
        """A page of tasks, newest first."""
        with self._snapshot():
            ids = [row[0] for query in filters.task_ids(wanted, limit) for row in self._rows(*query)]
            newest = sorted(ids, reverse=True)[:limit]
            return [record for task_id in newest if (record := self._task(wanted.namespace, task_id))]

    def _task(self, namespace: str, task_id: str) -> TaskRecord | None:
        rows = self._rows(queries.TASK, (task_id, namespace))
        if not rows:
            return None
        attempts = [_attempt(row) for row in self._rows(queries.ATTEMPTS_OF_TASK, (task_id,))]
        waits = [_wait(row) for row in self._rows(queries.OPEN_WAITS_OF_TASK, (task_id,))]
        return TaskRecord(_task(rows[0]), attempts, waits)

    def run(self, namespace: str, run_id: str) -> RunRecord | None:
        """One run with its counts."""
        with self._snapshot():
            rows = self._rows(queries.RUN, (run_id, namespace))
            return RunRecord(_run(rows[0]), self._run_counts(run_id)) if rows else None

    def runs(self, namespace: str, *, id_prefix: str, before_id: str, limit: int) -> list[RunRecord]:
        """A page of runs, newest first."""
        parameters = (namespace, before_id or LAST, id_prefix, id_prefix + LAST, limit)
        with self._snapshot():
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

    def events(self, wanted: EventFilter, after: int, until: int, limit: int = PAGE_EVENTS_MAX) -> EventPage:
        """Wanted events with ``after`` < cursor <= ``until``, in order: as many as one page may hold."""
        read_until = wanted.read_until(after, until)
        events: list[records.InsertEvent] = []
        size_bytes = 0
        for event in self._log(wanted, after, read_until):
            events.append(event)
            size_bytes += event_bytes(event)
            if len(events) == limit or size_bytes >= PAGE_BYTES_MAX:
                return EventPage(events, event.cursor)
        return EventPage(events, read_until)

    def _log(self, wanted: EventFilter, after: int, until: int) -> Iterator[records.InsertEvent]:
        with self._lock, self._failures(), contextlib.closing(self._connection.cursor()) as cursor:
            for first_cursor, body in cursor.execute(*filters.chunks(wanted, after, until)):
                for event in chunks.read(first_cursor, body):
                    if after < event.cursor <= until and wanted.matches(event):
                        yield self._with_outcome(event) if wanted.include_results else event

    def _with_outcome(self, event: records.InsertEvent) -> records.InsertEvent:
        if event.type != EventType.TASK_SUCCEEDED:
            return event
        return event._replace(outcome=self.outcomes((event.task_id,)).get(event.task_id, b""))

    # --- recovery: streamed, before anything else reads

    def _stream(self, statement: str) -> Iterator[tuple[Any, ...]]:
        with self._failures():
            yield from self._connection.execute(statement)

    def open_tasks(self) -> Iterator[records.InsertTask]:
        """Tasks that are not terminal, in the order accepted."""
        return map(_task, self._stream(queries.OPEN_TASKS))

    def open_attempts(self) -> Iterator[records.PutAttempt]:
        """Live attempts and strays of open tasks, and failures that these may be at fault for."""
        return map(_attempt, self._stream(queries.OPEN_ATTEMPTS))

    def open_waits(self) -> Iterator[records.PutWait]:
        """Waits, answered ones too, of open tasks."""
        return map(_wait, self._stream(queries.OPEN_TASKS_WAITS))

    def open_runs(self) -> Iterator[records.PutRun]:
        """Runs that are not over."""
        return map(_run, self._stream(queries.OPEN_RUNS))

    def agents(self) -> list[records.PutAgent]:
        """All agents, by id."""
        return [_agent(row) for row in self._rows(queries.AGENTS)]

    def breakers(self) -> list[records.PutBreaker]:
        """All breakers that are not CLOSED."""
        return [records.PutBreaker(*row) for row in self._rows(queries.BREAKERS)]

    def outboxes(self) -> list[records.PutOutbox]:
        """All outbox positions."""
        return [records.PutOutbox(*row) for row in self._rows(queries.OUTBOXES)]

    def limits(self) -> list[records.PutLimit]:
        """All limits that somebody defined."""
        return [records.PutLimit(*row) for row in self._rows(queries.LIMITS)]

    def schedules(self) -> list[records.PutSchedule]:
        """All schedules."""
        return [records.PutSchedule(*row)._replace(is_paused=bool(row[5])) for row in self._rows(queries.SCHEDULES)]

    def last_sequence(self) -> int:
        """Highest sequence number of a task that is not terminal; 0 when there is none."""
        return int(self._rows(queries.LAST_SEQUENCE)[0][0])


def event_bytes(event: records.InsertEvent) -> int:
    """How much an event holds that may be large."""
    return len(event.body) + len(event.outcome) + len(event.text)


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


def _agent(row: tuple[Any, ...]) -> records.PutAgent:
    labels, resources, task_types, runners = (json.loads(text) for text in row[4:8])
    return records.PutAgent._make((*row[:4], labels, resources, tuple(task_types), tuple(runners), *row[8:]))


def _run(row: tuple[Any, ...]) -> records.PutRun:
    counts = tuple((state, count) for state, count in json.loads(row[8]))
    return records.PutRun._make((*row[:6], tuple(json.loads(row[6])), tuple(json.loads(row[7])), counts, *row[9:]))
