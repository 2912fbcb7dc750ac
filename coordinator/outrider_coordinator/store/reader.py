"""Committed data, read: what the API shows and what a start rebuilds memory from."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import apsw

from outrider_coordinator.core import records
from outrider_coordinator.core.states import EventType, Reason, TaskState
from outrider_coordinator.store import chunks, filters, queries
from outrider_coordinator.store.errors import StoreFailed
from outrider_coordinator.store.filters import LAST, EventFilter, TaskFilter

PAGE_EVENTS_MAX = 500
#: One page of events ends with the one that passes this.
PAGE_BYTES_MAX = 1 << 20

_IDS_PER_READ = 1000
#: What a request id can stand for.
Accepts = Literal["task", "run", "part"]
_BY_REQUEST: dict[Accepts, str] = {
    "task": queries.TASK_BY_REQUEST,
    "run": queries.RUN_BY_REQUEST,
    "part": queries.PART_BY_REQUEST,
}


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task with its attempts, oldest first, and its open waits, as committed."""

    task: records.InsertTask
    attempts: list[records.PutAttempt]
    waits: list[records.PutWait]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run with the number of its tasks in each state, as committed.

    ``unmet_count`` of the SKIPPED ones had a condition that was not met: nothing failed. ``busy_us`` is how long ended
    tasks ran in their last try, ``start_us`` when the first began, 0 before that. ``parts`` only where asked for.
    """

    run: records.PutRun
    counts: list[tuple[int, int]]
    unmet_count: int
    busy_us: int
    start_us: int
    parts: list[records.InsertRunPart]


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
        """One run with its counts and parts."""
        with self._snapshot():
            rows = self._rows(queries.RUN, (run_id, namespace))
            return self._counted(_run(rows[0]), self._parts(run_id)) if rows else None

    def runs(self, namespace: str, *, id_prefix: str, before_id: str, limit: int) -> list[RunRecord]:
        """A page of runs, newest first, without their parts."""
        parameters = (namespace, before_id or LAST, id_prefix, id_prefix + LAST, limit)
        with self._snapshot():
            runs = [_run(row) for row in self._rows(queries.RUNS_PAGE, parameters)]
            return [self._counted(run, []) for run in runs]

    def run_tasks(self, run_id: str) -> list[records.InsertTask]:
        """All tasks of a run, in no order."""
        return [_task(row) for row in self._rows(queries.TASKS_OF_RUN, (run_id,))]

    def run_part(self, run_id: str, number: int) -> records.InsertRunPart:
        """One part of a run, which there must be."""
        return _part(self._rows(queries.RUN_PART, (run_id, number))[0])

    def _parts(self, run_id: str) -> list[records.InsertRunPart]:
        return [_part(row) for row in self._rows(queries.PARTS_OF_RUN, (run_id,))]

    def _counted(self, run: records.PutRun, parts: list[records.InsertRunPart]) -> RunRecord:
        counts: dict[int, int] = {}
        unmet_count = busy_us = start_us = 0
        for state, reason, number, busy, start in self._rows(queries.RUN_COUNTS, (run.id,)):
            counts[state] = counts.get(state, 0) + number
            busy_us += busy
            start_us = min(start_us or start, start or start_us)
            if (state, reason) == (TaskState.SKIPPED, Reason.CONDITION_NOT_MET):
                unmet_count += number
        return RunRecord(run, list(counts.items()), unmet_count, busy_us, start_us, parts)

    def task_ends(self, task_ids: Sequence[str]) -> dict[str, tuple[TaskState, Reason]]:
        """How those of these tasks that are over ended, and why."""
        ends: dict[str, tuple[TaskState, Reason]] = {}
        for start in range(0, len(task_ids), _IDS_PER_READ):
            some = json.dumps(task_ids[start : start + _IDS_PER_READ])
            for task_id, state, reason in self._rows(queries.TASK_ENDS, (some,)):
                ends[task_id] = (TaskState(state), Reason(reason))
        return ends

    def task_states(self, task_ids: tuple[str, ...]) -> dict[str, int | None]:
        """State of each task, None for unknown ones."""
        states: dict[str, int | None] = {}
        for task_id in task_ids:
            rows = self._rows(queries.TASK_STATE, (task_id,))
            states[task_id] = rows[0][0] if rows else None
        return states

    def task_namespaces(self, task_ids: tuple[str, ...]) -> dict[str, str]:
        """Namespace of each task that there is."""
        found = {}
        for task_id in task_ids:
            rows = self._rows(queries.TASK_NAMESPACE, (task_id,))
            if rows:
                found[task_id] = rows[0][0]
        return found

    def outcomes(self, task_ids: tuple[str, ...]) -> dict[str, bytes]:
        """Serialized Completed of each task that succeeded."""
        outcomes = {}
        for task_id in task_ids:
            rows = self._rows(queries.TASK_OUTCOME, (task_id,))
            if rows:
                outcomes[task_id] = rows[0][0]
        return outcomes

    def request(self, namespace: str, request_id: str, of: Accepts = "task") -> tuple[str, bytes] | None:
        """Id and digest of what was accepted under a request id: task, run or part of one."""
        statement = _BY_REQUEST[of]
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

    def last_event_us(self) -> int:
        """When the last entry of the event log was made; 0 when it is empty."""
        last = self.cursors()[1]
        page = self.events(EventFilter(), last - 1, last)
        return page.events[-1].time_us if page.events else 0

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

    def open_run_parts(self) -> Iterator[records.InsertRunPart]:
        """Parts of runs that are not over, those of a run in order."""
        return map(_part, self._stream(queries.OPEN_RUN_PARTS))

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
    lists = (tuple(json.loads(part)) if part != "[]" else () for part in row[14:17])
    return records.InsertTask._make((*row[:14], *lists, *row[17:]))


def _attempt(row: tuple[Any, ...]) -> records.PutAttempt:
    return records.PutAttempt(*row)


def _wait(row: tuple[Any, ...]) -> records.PutWait:
    return records.PutWait._make((*row[:-1], tuple(json.loads(row[-1])) if row[-1] != "[]" else ()))


def _agent(row: tuple[Any, ...]) -> records.PutAgent:
    labels, resources, task_types, runners = (json.loads(text) for text in row[4:8])
    return records.PutAgent._make((*row[:4], labels, resources, tuple(task_types), tuple(runners), *row[8:]))


def _run(row: tuple[Any, ...]) -> records.PutRun:
    milestones = tuple((name, reached_us) for name, reached_us in json.loads(row[6]))
    return records.PutRun._make((*row[:6], milestones, *row[7:]))


def _part(row: tuple[Any, ...]) -> records.InsertRunPart:
    lists = (tuple(json.loads(part)) if part != "[]" else () for part in row[3:8])
    return records.InsertRunPart._make((*row[:3], *lists, *row[8:]))
