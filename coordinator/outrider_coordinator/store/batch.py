"""The rows of one transaction as statements: what replaces what, and in which order they run.

Within a batch only the last word on a task, an attempt, a wait, a run, an agent, an outbox, a limit or a schedule is
written. Agents, limits and schedules can be deleted: a delete takes back what stood before it in the batch, and what
comes after it counts again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from outrider_coordinator.core import records
from outrider_coordinator.store import queries
from outrider_coordinator.store.chunks import chunks

Row = tuple[Any, ...]
#: So many fields of a new task never change; those of an update, behind its id, are all the others.
_FIXED = len(records.InsertTask._fields) - len(records.UpdateTask._fields) + 1
#: A statement and the values of all its rows, one after the other.
Statement = tuple[str, list[Any]]


def statements(rows: Sequence[records.Write]) -> Iterator[Statement]:
    """What to run, in order; each statement writes one of `queries.ROWS_PER_RUN` rows."""
    by_type: dict[type, list[Any]] = {}
    for kind, group in groupby(rows, type):
        by_type.setdefault(kind, []).extend(group)
    if records.DeleteAgent in by_type:
        by_type |= _fleet(rows)
    elif records.DeleteBreaker in by_type:
        by_type |= _breakers(rows)
    for put, delete in _DELETABLE:
        if delete in by_type:
            by_type[delete], by_type[put] = _last_words(rows, put, delete)
    tasks, updates = _tasks(by_type.get(records.InsertTask, []), by_type.get(records.UpdateTask, []))
    yield from _runs(queries.INSERT_TASK, tasks)
    yield from _runs(queries.UPDATE_TASK, updates)
    for record, run, convert, key in _WRITES:
        if record in by_type:
            latest = by_type[record]
            if key is not None:
                latest = list({key(row): row for row in latest}.values())
            if convert is not None:
                latest = [convert(row) for row in latest]
            for writing in run:
                yield from _runs(writing, latest)
    if records.InsertEvent in by_type:
        yield from _log(by_type[records.InsertEvent])


def _tasks(inserts: list[records.InsertTask], updates: list[records.UpdateTask]) -> tuple[list[Row], list[Row]]:
    """New tasks as their last update leaves them, and the last updates of the others."""
    latest: dict[str, Row] = {row[0]: row for row in updates}
    rows: list[Row] = []
    for insert in inserts:
        lists = [json.dumps(part) if part else "[]" for part in insert[14:17]]
        update = latest.pop(insert[0], None)
        changes = insert[_FIXED:] if update is None else update[1:]
        rows.append((*insert[:14], *lists, *insert[17:_FIXED], *changes))
    return rows, list(latest.values())


def _log(events: list[records.InsertEvent]) -> Iterator[Statement]:
    """The chunks of the log, and where the events of each task and run are."""
    made: list[Row] = []
    of_tasks: list[Row] = []
    of_runs: list[Row] = []
    for chunk, held in chunks(events):
        first_cursor = chunk.first_cursor
        made.append(chunk)
        of_tasks += [(task_id, first_cursor) for task_id in set(map(_task_id_of, held)) if task_id]
        of_runs += [(run_id, first_cursor) for run_id in set(map(_run_id_of, held)) if run_id]
    yield from _runs(queries.INSERT_CHUNK, made)
    yield from _runs(queries.INSERT_TASK_CHUNK, sorted(of_tasks))
    yield from _runs(queries.INSERT_RUN_CHUNK, sorted(of_runs))


def _runs(writing: queries.Writing, rows: list[Row]) -> Iterator[Statement]:
    start = 0
    for size in queries.ROWS_PER_RUN:
        while len(rows) - start >= size:
            yield writing.for_rows(size), list(chain.from_iterable(rows[start : start + size]))
            start += size


def _fleet(rows: Sequence[records.Write]) -> dict[type, list[Any]]:
    """What of agents and their outboxes and breakers is deleted at first, and what is put afterwards."""
    deletes: dict[str, records.DeleteAgent] = {}
    agents: dict[str, records.PutAgent] = {}
    outboxes: dict[str, list[records.PutOutbox]] = {}
    kept: list[records.Write] = []
    for row in rows:
        if isinstance(row, records.DeleteAgent):
            deletes[row.id] = row
            agents.pop(row.id, None)
            outboxes.pop(row.id, None)
            kept = [known for known in kept if known[0] != row.id]
        elif isinstance(row, records.PutAgent):
            agents[row.id] = row
        elif isinstance(row, records.PutOutbox):
            outboxes.setdefault(row.agent_id, []).append(row)
        elif isinstance(row, records.PutBreaker | records.DeleteBreaker):
            kept.append(row)
    return {
        records.DeleteAgent: list(deletes.values()),
        records.PutAgent: list(agents.values()),
        records.PutOutbox: [row for of_agent in outboxes.values() for row in of_agent],
        **_breakers(kept),
    }


def _breakers(rows: Sequence[records.Write]) -> dict[type, list[Any]]:
    """Breakers whose last word is that they are CLOSED, and those that are put."""
    latest: dict[Any, Any] = {
        _triple(row): row for row in rows if isinstance(row, records.PutBreaker | records.DeleteBreaker)
    }
    return {
        records.PutBreaker: [row for row in latest.values() if isinstance(row, records.PutBreaker)],
        records.DeleteBreaker: [row for row in latest.values() if isinstance(row, records.DeleteBreaker)],
    }


def _last_words(rows: Sequence[records.Write], put: type, delete: type) -> tuple[list[Any], list[Any]]:
    """What is forgotten and what is put, by namespace and name: the last word on each."""
    latest = {row[:2]: row for row in rows if isinstance(row, (put, delete))}
    deletes = [row for row in latest.values() if isinstance(row, delete)]
    return deletes, [row for row in latest.values() if isinstance(row, put)]


def _run_row(record: Any) -> Row:
    values = list(record)
    values[6] = json.dumps(record.milestones)
    return tuple(values)


def _part_row(record: Any) -> Row:
    return (*record[:3], *(json.dumps(part) if part else "[]" for part in record[3:8]), *record[8:])


def _wait_row(record: Any) -> Row:
    return (*record[:-1], json.dumps(record.moved_from) if record.moved_from else "[]")


def _agent_row(record: Any) -> Row:
    values = list(record)
    values[4:8] = map(json.dumps, values[4:8])
    return tuple(values)


_id = itemgetter(0)
_pair = itemgetter(0, 1)
_triple = itemgetter(0, 1, 2)
_task_id_of = itemgetter(records.InsertEvent._fields.index("task_id"))
_run_id_of = itemgetter(records.InsertEvent._fields.index("run_id"))

#: What `sqlite` keeps of the file itself: the highest epoch of this store.
_PUT_EPOCH = queries.Writing("INSERT OR REPLACE INTO meta (key, value)", 2)
#: Records known by namespace and name that can be forgotten.
_DELETABLE: tuple[tuple[type, type], ...] = (
    (records.PutLimit, records.DeleteLimit),
    (records.PutSchedule, records.DeleteSchedule),
)

_Write = tuple[type, tuple[queries.Writing, ...], Callable[[Any], Row] | None, Callable[[Any], Any] | None]
#: Record; its statements; a record as a row, None when it is one; what later records of a batch replace earlier ones
#: by, None for those that only gather. In the order in which one transaction runs them, behind the tasks.
_WRITES: tuple[_Write, ...] = (
    (records.PutAttempt, (queries.PUT_ATTEMPT,), None, _pair),
    (records.PutWait, (queries.PUT_WAIT,), _wait_row, _pair),
    (records.PutRun, (queries.PUT_RUN,), _run_row, _id),
    (records.InsertRunPart, (queries.INSERT_RUN_PART,), _part_row, None),
    (records.DeleteAgent, (queries.DELETE_AGENT, queries.DELETE_OUTBOXES, queries.DELETE_BREAKERS), None, None),
    (records.PutAgent, (queries.PUT_AGENT,), _agent_row, _id),
    (records.DeleteBreaker, (queries.DELETE_BREAKER,), None, None),
    (records.PutBreaker, (queries.PUT_BREAKER,), None, _triple),
    (records.PutOutbox, (queries.PUT_OUTBOX,), None, _pair),
    (records.DeleteLimit, (queries.DELETE_LIMIT,), None, None),
    (records.PutLimit, (queries.PUT_LIMIT,), None, _pair),
    (records.PutEpoch, (_PUT_EPOCH,), lambda record: ("epoch", str(record.epoch)), lambda record: "epoch"),
    (records.DeleteSchedule, (queries.DELETE_SCHEDULE,), None, None),
    (records.PutSchedule, (queries.PUT_SCHEDULE,), None, _pair),
    (records.InsertLog, (queries.INSERT_LOG,), None, None),
    (records.InsertEvidence, (queries.INSERT_EVIDENCE,), None, None),
)
