"""Every statement the store runs, each with its purpose. Columns are those of `core.records`, in order.

SQLite uses a partial index only where the statement repeats the index's own condition, hence ``run_id <> ''`` beside
``run_id = ?``. A test asks the planner of every statement here whether it scans a table that grows.
"""

from __future__ import annotations

from typing import NamedTuple

from outrider_coordinator.core import records
from outrider_coordinator.core.states import TaskState

#: Record field to column where a SQL word is in the way.
_COLUMN = {"order": "sequence"}


def _columns(record: type) -> tuple[str, ...]:
    fields: tuple[str, ...] = record._fields  # type: ignore[attr-defined]  # a NamedTuple class
    return tuple(_COLUMN.get(name, name) for name in fields)


#: How many rows one run of a writing statement takes: the GIL changes hands once for all of them, not once for each,
#: and a few sizes make few statements to prepare.
ROWS_PER_RUN = (64, 16, 4, 1)


#: What index tasks_by_end holds for every open state, and all it can hold.
OPEN = int(TaskState.CANCELLING)
ENDS = tuple(range(OPEN, int(max(TaskState)) + 1))


class Writing(NamedTuple):
    """A writing statement: ``head``, then a tuple of values for each row, then ``tail``."""

    head: str
    columns: int
    tail: str = ""

    def for_rows(self, count: int) -> str:
        """The statement for this many rows; its parameters are the rows' values, one after the other."""
        marks = f"({', '.join('?' * self.columns)})"
        return f"{self.head} VALUES {', '.join([marks] * count)}{self.tail}"


def _insert(table: str, columns: tuple[str, ...], verb: str = "INSERT") -> Writing:
    return Writing(f"{verb} INTO {table} ({', '.join(columns)})", len(columns))


TASK_COLUMNS = _columns(records.InsertTask)
ATTEMPT_COLUMNS = _columns(records.PutAttempt)
WAIT_COLUMNS = _columns(records.PutWait)
RUN_COLUMNS = _columns(records.PutRun)
RUN_PART_COLUMNS = _columns(records.InsertRunPart)
AGENT_COLUMNS = _columns(records.PutAgent)
BREAKER_COLUMNS = _columns(records.PutBreaker)

_TASK_CHANGES = _columns(records.UpdateTask)[1:]

#: A new task.
INSERT_TASK = _insert("tasks", TASK_COLUMNS)
_CHANGES = ", ".join(f"{name} = changed.column{number}" for number, name in enumerate(_TASK_CHANGES, 2))
#: A known task's new state.
UPDATE_TASK = Writing(
    f"UPDATE tasks SET {_CHANGES} FROM (", len(_TASK_CHANGES) + 1, ") AS changed WHERE tasks.id = changed.column1"
)
#: An attempt, new or changed.
PUT_ATTEMPT = _insert("attempts", ATTEMPT_COLUMNS, "INSERT OR REPLACE")
#: A wait, new or changed.
PUT_WAIT = _insert("waits", WAIT_COLUMNS, "INSERT OR REPLACE")
#: A run, new or changed.
PUT_RUN = _insert("runs", RUN_COLUMNS, "INSERT OR REPLACE")
#: Tasks that entered a run together.
INSERT_RUN_PART = _insert("run_parts", RUN_PART_COLUMNS)
#: An agent, new or changed.
PUT_AGENT = _insert("agents", AGENT_COLUMNS, "INSERT OR REPLACE")
#: A removed agent.
DELETE_AGENT = Writing("DELETE FROM agents WHERE id IN (", 1, ")")
#: A removed agent's outbox positions.
DELETE_OUTBOXES = Writing("DELETE FROM outboxes WHERE agent_id IN (", 1, ")")
#: A removed agent's breakers.
DELETE_BREAKERS = Writing("DELETE FROM breakers WHERE agent_id IN (", 1, ")")
#: A breaker that is not CLOSED, new or changed.
PUT_BREAKER = _insert("breakers", BREAKER_COLUMNS, "INSERT OR REPLACE")
#: A breaker that is CLOSED again.
DELETE_BREAKER = Writing("DELETE FROM breakers WHERE (agent_id, kind, system) IN (", 3, ")")
#: How far an outbox is applied.
PUT_OUTBOX = _insert("outboxes", _columns(records.PutOutbox), "INSERT OR REPLACE")
#: A limit, new or changed.
PUT_LIMIT = _insert("limits", _columns(records.PutLimit), "INSERT OR REPLACE")
#: A limit that is forgotten.
DELETE_LIMIT = Writing("DELETE FROM limits WHERE (namespace, key) IN (", 2, ")")
#: A schedule, new or changed.
PUT_SCHEDULE = _insert("schedules", _columns(records.PutSchedule), "INSERT OR REPLACE")
#: A schedule that is forgotten.
DELETE_SCHEDULE = Writing("DELETE FROM schedules WHERE (namespace, name) IN (", 2, ")")
#: Captured output; a replay after a crash writes the same row again.
INSERT_LOG = _insert("logs", _columns(records.InsertLog), "INSERT OR REPLACE")
#: A report that could not be applied.
INSERT_EVIDENCE = _insert("evidence", _columns(records.InsertEvidence))
#: A piece of the event log.
INSERT_CHUNK = _insert("event_chunks", ("first_cursor", "last_cursor", "body"))
#: That a chunk holds events of a task.
INSERT_TASK_CHUNK = _insert("task_chunks", ("task_id", "first_cursor"))
#: That a chunk holds events of a run.
INSERT_RUN_CHUNK = _insert("run_chunks", ("run_id", "first_cursor"))

_TASKS = f"SELECT {', '.join(f't.{name}' for name in TASK_COLUMNS)} FROM tasks t"
_ATTEMPTS = f"SELECT {', '.join(f'a.{name}' for name in ATTEMPT_COLUMNS)} FROM attempts a"
_WAITS = f"SELECT {', '.join(f'w.{name}' for name in WAIT_COLUMNS)} FROM waits w"
_RUNS = f"SELECT {', '.join(RUN_COLUMNS)} FROM runs"
_RUN_PARTS = f"SELECT {', '.join(f'p.{name}' for name in RUN_PART_COLUMNS)} FROM run_parts p"

#: One task.
TASK = f"{_TASKS} WHERE t.id = ? AND t.namespace = ?"
#: Ids of tasks that start with a prefix, at most two: one means it is unique.
TASK_IDS_BY_PREFIX = (
    "SELECT id FROM tasks INDEXED BY tasks_by_end "
    f"WHERE namespace = ? AND max(state, {OPEN}) IN ({', '.join(str(state) for state in ENDS)}) "
    "AND id >= ? AND id < ? LIMIT 2"
)
#: Ids of runs that start with a prefix, at most two.
RUN_IDS_BY_PREFIX = (
    "SELECT id FROM runs INDEXED BY runs_by_namespace WHERE namespace = ? AND id >= ? AND id < ? LIMIT 2"
)
#: All attempts of a task, oldest first.
ATTEMPTS_OF_TASK = f"{_ATTEMPTS} WHERE a.task_id = ? ORDER BY a.number"
#: Open waits of a task.
OPEN_WAITS_OF_TASK = f"{_WAITS} WHERE w.task_id = ? AND w.is_open = 1 ORDER BY w.key"
#: One run.
RUN = f"{_RUNS} WHERE id = ? AND namespace = ?"
#: The parts of a run, in order.
PARTS_OF_RUN = f"{_RUN_PARTS} WHERE p.run_id = ? ORDER BY p.number"
#: One part of a run.
RUN_PART = f"{_RUN_PARTS} WHERE p.run_id = ? AND p.number = ?"
#: How many tasks of a run are in each state for each reason, how long the ended ones ran, when the first one began.
RUN_COUNTS = (
    "SELECT state, reason, count(*), sum(CASE WHEN start_us > 0 THEN max(0, end_us - start_us) ELSE 0 END), "
    "coalesce(min(nullif(start_us, 0)), 0) FROM tasks WHERE run_id = ? AND run_id <> '' "
    "GROUP BY state, reason ORDER BY state, reason"
)
#: All tasks of a run.
TASKS_OF_RUN = f"{_TASKS} WHERE t.run_id = ? AND t.run_id <> ''"
#: Runs, newest first, before an id.
RUNS_PAGE = (
    f"{_RUNS} INDEXED BY runs_by_namespace WHERE namespace = ? AND id < ? AND id >= ? AND id < ? "
    "ORDER BY id DESC LIMIT ?"
)
#: Terminal states of tasks, for dependencies.
TASK_STATE = "SELECT state FROM tasks WHERE id = ?"
#: Whose a task is.
TASK_NAMESPACE = "SELECT namespace FROM tasks WHERE id = ?"
#: How tasks that are over ended (a JSON list of ids).
TASK_ENDS = f"SELECT id, state, reason FROM tasks WHERE id IN (SELECT value FROM json_each(?)) AND state > {OPEN}"
#: Outcome of a task that succeeded, for inputs of others.
TASK_OUTCOME = "SELECT outcome FROM tasks WHERE id = ? AND state = 7"
#: Task accepted under a request id.
TASK_BY_REQUEST = "SELECT id, digest FROM tasks WHERE namespace = ? AND request_id = ? AND request_id <> ''"
#: Run accepted under a request id.
RUN_BY_REQUEST = "SELECT id, digest FROM runs WHERE namespace = ? AND request_id = ? AND request_id <> ''"
#: Addition accepted under a request id.
PART_BY_REQUEST = (
    "SELECT run_id || '/' || number, digest FROM run_parts WHERE namespace = ? AND request_id = ? AND request_id <> ''"
)
#: Output of one attempt after a message number.
LOGS = "SELECT number, time_us, body FROM logs WHERE task_id = ? AND attempt = ? AND number > ? ORDER BY number LIMIT ?"
#: First and last cursor of the event log.
CURSORS = (
    "SELECT coalesce((SELECT min(first_cursor) FROM event_chunks), 1), coalesce((SELECT last_cursor FROM event_chunks "
    "WHERE first_cursor = (SELECT max(first_cursor) FROM event_chunks)), 0)"
)
#: Chunks that begin in a range of cursors, in order.
CHUNKS = (
    "SELECT first_cursor, body FROM event_chunks WHERE first_cursor > ? AND first_cursor <= ? ORDER BY first_cursor"
)
#: Of these, the ones that hold events of some tasks (a JSON list of ids).
CHUNKS_OF_TASKS = (
    "SELECT c.first_cursor, c.body FROM event_chunks c WHERE c.first_cursor IN (SELECT first_cursor FROM task_chunks "
    "WHERE task_id IN (SELECT value FROM json_each(?)) AND first_cursor > ? AND first_cursor <= ?) "
    "ORDER BY c.first_cursor"
)
#: Of these, the ones that hold events of a run.
CHUNKS_OF_RUN = (
    "SELECT c.first_cursor, c.body FROM event_chunks c WHERE c.first_cursor IN (SELECT first_cursor FROM run_chunks "
    "WHERE run_id = ? AND first_cursor > ? AND first_cursor <= ?) ORDER BY c.first_cursor"
)
#: Tasks that are not terminal, in the order they were accepted.
OPEN_TASKS = f"{_TASKS} WHERE t.state <= 6 ORDER BY t.sequence"
#: Attempts that may still matter: live ones and strays of open tasks, failures that the task may be at fault for, and
#: refusals by agents' policies.
OPEN_ATTEMPTS = (
    f"SELECT {', '.join(f'a.{name}' for name in ATTEMPT_COLUMNS)} FROM tasks t INDEXED BY tasks_open "
    "CROSS JOIN attempts a ON a.task_id = t.id "
    "WHERE t.state <= 6 AND (a.state IN (1, 2, 3, 4, 8) OR a.blame = 1 OR (a.state = 6 AND a.reason = 27))"
)
#: Waits of open tasks.
OPEN_TASKS_WAITS = (
    f"SELECT {', '.join(f'w.{name}' for name in WAIT_COLUMNS)} FROM tasks t INDEXED BY tasks_open "
    "CROSS JOIN waits w ON w.task_id = t.id WHERE t.state <= 6"
)
#: Runs that are not over.
OPEN_RUNS = f"{_RUNS} WHERE ended_us = 0"
#: Parts of runs that are not over, in order.
OPEN_RUN_PARTS = (
    f"SELECT {', '.join(f'p.{name}' for name in RUN_PART_COLUMNS)} FROM runs r INDEXED BY runs_open "
    "CROSS JOIN run_parts p ON p.run_id = r.id WHERE r.ended_us = 0 ORDER BY r.id, p.number"
)
#: All agents.
AGENTS = f"SELECT {', '.join(AGENT_COLUMNS)} FROM agents ORDER BY id"
#: All breakers.
BREAKERS = f"SELECT {', '.join(BREAKER_COLUMNS)} FROM breakers ORDER BY agent_id, kind, system"
#: All outbox positions.
OUTBOXES = "SELECT agent_id, outbox_id, applied_seq FROM outboxes"
#: All limits that somebody defined.
LIMITS = f"SELECT {', '.join(_columns(records.PutLimit))} FROM limits ORDER BY namespace, key"
#: All schedules.
SCHEDULES = f"SELECT {', '.join(_columns(records.PutSchedule))} FROM schedules ORDER BY namespace, name"
#: Highest sequence number of a task that is not terminal: what a later one must sort behind.
LAST_SEQUENCE = "SELECT coalesce(max(sequence), 0) FROM tasks WHERE state <= 6"


def task_ids_page(index: str, conditions: list[str]) -> str:
    """Ids of tasks along an index, newest first, that meet all conditions; the limit is the last parameter."""
    return f"SELECT t.id FROM tasks t INDEXED BY {index} WHERE {' AND '.join(conditions)} ORDER BY t.id DESC LIMIT ?"
