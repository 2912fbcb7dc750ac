"""No statement of the SQLite store reads a table that grows from end to end: the planner is asked of every one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import apsw
import pytest

from outrider_coordinator.store import filters, queries
from outrider_coordinator.store.filters import EventFilter, TaskFilter
from outrider_coordinator.store.migrate import migrate, migrations

#: Tables that get rows for as long as the coordinator is used.
GROWING = {
    "tasks",
    "attempts",
    "logs",
    "waits",
    "runs",
    "run_parts",
    "evidence",
    "event_chunks",
    "task_chunks",
    "run_chunks",
}
ALIASES = {"t": "tasks", "a": "attempts", "w": "waits", "c": "event_chunks", "r": "runs", "p": "run_parts"}
#: Statements that may read a whole partial index, and why that is bounded.
WHOLE_INDEX = {
    "OPEN_TASKS": ("tasks_open", "a start reads all tasks that are not over, in order"),
    "OPEN_ATTEMPTS": ("tasks_open", "a start reads the live attempts of all tasks that are not over"),
    "OPEN_TASKS_WAITS": ("tasks_open", "a start reads the waits of all tasks that are not over"),
    "OPEN_RUNS": ("runs_open", "a start reads all runs that are not over"),
    "OPEN_RUN_PARTS": ("runs_open", "a start reads the parts of all runs that are not over"),
    "open waits": ("waits_open", "who lists open waits reads the list of open waits"),
}
#: Statements that may walk a range of the log, and why that is bounded.
RANGES_OF_THE_LOG = "filters.CURSORS_PER_READ bounds what one read looks at, and a cursor to resume after is recent"


@pytest.fixture(scope="module")
def connection() -> Iterator[apsw.Connection]:
    """An empty database with the schema: nothing tells the planner that tables are small."""
    with apsw.Connection(":memory:") as connection:
        migrate(connection, ":memory:")
        yield connection


def named_statements() -> dict[str, str]:
    """Every statement that queries.py names, those that write for as many rows as they may take at once."""
    found: dict[str, str] = {}
    for name, value in vars(queries).items():
        if isinstance(value, queries.Writing):
            found |= {f"{name} {count}": value.for_rows(count) for count in queries.ROWS_PER_RUN}
        elif name.isupper() and name[0] != "_" and isinstance(value, str):
            found[name] = value
    return found


def task_statements() -> dict[str, str]:
    """Everything that a filter of tasks can become."""
    choices: list[tuple[object, ...]] = [((), (1, 8)), ("", "r"), ("", "c"), ("", "ab"), (False, True), ("", "x")]
    found = {}
    for states, run_id, client_id, prefix, open_waits_only, before_id in itertools.product(*choices):
        wanted = TaskFilter("n", states, run_id, client_id, prefix, open_waits_only, before_id)  # type: ignore[arg-type]  # drawn from the choices above
        for at, (text, _) in enumerate(filters.task_ids(wanted, 5)):
            found[f"{wanted} {at}"] = text
    return found


def event_statements() -> dict[str, tuple[EventFilter, str]]:
    """Everything that a filter of events can become."""
    choices: list[tuple[object, ...]] = [
        ("", "n"),
        (frozenset(), frozenset("ab")),
        ("", "r"),
        ("", "c"),
        (frozenset(), frozenset((1, 2))),
        (False, True),
    ]
    filters_of_events = [EventFilter(*parts) for parts in itertools.product(*choices)]  # type: ignore[arg-type]  # drawn from the choices above
    return {str(wanted): (wanted, filters.chunks(wanted, 1, 2)[0]) for wanted in filters_of_events}


def plan(connection: apsw.Connection, statement: str) -> list[str]:
    """The planner's steps, with the real names of tables."""
    parameters = (None,) * statement.count("?")
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
    return [re.sub(r"^(SCAN|SEARCH) (\w+)", _with_real_name, str(row[3])) for row in rows]


def _with_real_name(step: re.Match[str]) -> str:
    return f"{step[1]} {ALIASES.get(step[2], step[2])}"


def scans(connection: apsw.Connection, statement: str) -> list[str]:
    """Steps that read a growing table or one of its indexes from end to end.

    A bare SEARCH is a min or max: two steps down a tree for the log's own key, a whole table for any other column.
    """
    steps = plan(connection, statement)
    whole = {f"SEARCH {table}" for table in GROWING - {"event_chunks"}}
    return [step for step in steps if step in whole or (step.startswith("SCAN") and step.split()[1] in GROWING)]


def sorts(connection: apsw.Connection, statement: str) -> list[str]:
    """Steps that gather everything before the first row comes out."""
    return [step for step in plan(connection, statement) if "TEMP B-TREE FOR ORDER BY" in step]


@pytest.mark.parametrize("name", named_statements())
def test_no_named_statement_reads_a_whole_table(connection: apsw.Connection, name: str) -> None:
    """A statement finds its rows by key, or reads a partial index that holds only what is not over."""
    found = scans(connection, named_statements()[name])
    if name in WHOLE_INDEX:
        index, reason = WHOLE_INDEX[name]
        assert len(found) == 1, reason
        assert found[0].endswith((f" USING INDEX {index}", f" USING COVERING INDEX {index}")), reason
    else:
        assert found == []
    assert sorts(connection, named_statements()[name]) == []


def test_the_ends_of_the_log_are_looked_up(connection: apsw.Connection) -> None:
    """First and last cursor are two steps down a tree, and so is the highest open sequence number."""
    steps = plan(connection, queries.CURSORS)
    assert steps.count("SEARCH event_chunks") == 2
    assert steps.count("SEARCH event_chunks USING INTEGER PRIMARY KEY (rowid=?)") == 1
    (step,) = plan(connection, queries.LAST_SEQUENCE)
    assert (
        step.startswith("SEARCH tasks USING INDEX tasks_open") or step == "SEARCH tasks USING COVERING INDEX tasks_open"
    )


def test_no_list_of_tasks_reads_a_whole_table(connection: apsw.Connection) -> None:
    """Any filter of tasks walks an index of what it asks for, newest first, and stops when the page is full."""
    for name, statement in task_statements().items():
        index, _ = WHOLE_INDEX["open waits"]
        found = [step for step in scans(connection, statement) if not step.endswith(f" COVERING INDEX {index}")]
        assert found == [], name
        is_by_wait = "SELECT task_id FROM waits" in statement
        assert is_by_wait or sorts(connection, statement) == [], name


def test_no_history_reads_a_whole_log(connection: apsw.Connection) -> None:
    """Events of tasks or of a run are found by index; others in a bounded range of cursors. None are sorted."""
    for name, (wanted, statement) in event_statements().items():
        steps = plan(connection, statement)
        assert scans(connection, statement) == [], name
        assert sorts(connection, statement) == [], name
        if wanted.task_ids:
            assert any("task_chunks USING PRIMARY KEY (task_id=? AND first_cursor>?" in step for step in steps), name
        elif wanted.run_id:
            assert any("run_chunks USING PRIMARY KEY (run_id=? AND first_cursor>?" in step for step in steps), name
        else:
            assert steps == ["SEARCH event_chunks USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"], RANGES_OF_THE_LOG
            assert wanted.read_until(5, 10**9) == 5 + filters.CURSORS_PER_READ, RANGES_OF_THE_LOG


def test_every_table_is_known() -> None:
    """A new table says here whether it grows."""
    schema = "".join(text for _, text in migrations())
    assert set(re.findall(r"CREATE TABLE (\w+)", schema)) == GROWING | {
        "agents",
        "breakers",
        "outboxes",
        "limits",
        "schedules",
    }
