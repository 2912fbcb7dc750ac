"""What every store must find: pages of tasks, runs and events, exactly those asked for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider_coordinator.core import records
from outrider_coordinator.core.records import InsertEvent, InsertTask
from outrider_coordinator.store import filters
from outrider_coordinator.store.filters import EventFilter, TaskFilter
from outrider_coordinator.store.reader import PAGE_BYTES_MAX, Reader
from outrider_coordinator.store.sqlite import SqliteStore
from support.memory_folders import MemoryFolders
from support.store_records import example, task
from support.stores import OpenStore

on_new_stores = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

NAMESPACES = st.sampled_from(["default", "other"])
NAMES = st.sampled_from(["", "a", "b"])
SUCCEEDED = 10

TASKS = st.lists(
    st.builds(
        lambda number, **fields: task(f"{number:03x}", **fields),
        st.integers(0, 0xFFF),
        namespace=NAMESPACES,
        run_id=NAMES,
        client_id=NAMES,
        state=st.integers(1, 11),
    ),
    max_size=15,
    unique_by=lambda row: row.id,
)
TASK_FILTERS = st.builds(
    TaskFilter,
    NAMESPACES,
    st.lists(st.integers(0, 12), max_size=3).map(tuple),
    NAMES,
    NAMES,
    st.sampled_from(["", "0", "8", "a1"]),
    st.booleans(),
    st.sampled_from(["", "500", "b"]),
)


def is_wanted(row: InsertTask, wanted: TaskFilter) -> bool:
    """A filter of tasks, as its docstring says; in these stores every second task waits for something."""
    return (
        row.namespace == wanted.namespace
        and (not wanted.states or row.state in wanted.states)
        and (not wanted.run_id or row.run_id == wanted.run_id)
        and (not wanted.client_id or row.client_id == wanted.client_id)
        and row.id.startswith(wanted.id_prefix)
        and (not wanted.before_id or row.id < wanted.before_id)
        and (not wanted.open_waits_only or waits(row))
    )


def waits(row: InsertTask) -> bool:
    """Whether a task has an open wait here; one that is over has none."""
    return row.state <= 6 and int(row.id, 16) % 2 == 0


def store_with(open_store: OpenStore, folders: MemoryFolders, rows: list[Any]) -> SqliteStore:
    """A new store that holds these."""
    store = open_store(folders.make())
    store.commit(rows)
    return store


@on_new_stores
@given(TASKS, TASK_FILTERS, st.integers(1, 5))
def test_pages_of_tasks_hold_all_that_is_wanted(
    open_store: OpenStore,
    memory_folders: MemoryFolders,
    tasks: list[InsertTask],
    wanted: TaskFilter,
    limit: int,
) -> None:
    """Page after page, newest first, a filter gives every task that it names, whole, and no other."""
    open_waits = [example(records.PutWait, task_id=row.id, key="k", is_open=waits(row)) for row in tasks]
    store = store_with(open_store, memory_folders, [*tasks, *open_waits])
    found: list[Any] = []
    page = store.reader.tasks(wanted, limit)
    while page:
        assert len(page) <= limit
        found += page
        at = {name: getattr(wanted, name) for name in TaskFilter.__dataclass_fields__}
        page = store.reader.tasks(TaskFilter(**at | {"before_id": found[-1].task.id}), limit)
    expected = [row for row in tasks if is_wanted(row, wanted)]
    assert [record.task for record in found] == sorted(expected, reverse=True)
    assert all(bool(record.waits) == waits(record.task) for record in found)
    store.close()


def test_tasks_with_open_waits_only(store: SqliteStore) -> None:
    """A task whose wait is answered or that is over is not listed among those that wait."""
    store.commit([task("a", state=5), task("b", state=5), task("c", state=9), task("d", state=5)])
    open_waits = [("a", True), ("b", False), ("c", True)]
    store.commit([example(records.PutWait, task_id=name, key="k", is_open=is_open) for name, is_open in open_waits])
    listed = store.reader.tasks(TaskFilter("default", open_waits_only=True), 10)
    assert [record.task.id for record in listed] == ["a"]
    assert [wait.key for wait in listed[0].waits] == ["k"]


@on_new_stores
@given(st.lists(st.integers(0, 0xFF), max_size=8, unique=True), st.sampled_from(["", "0", "a"]), st.integers(1, 3))
def test_pages_of_runs_hold_all_that_is_wanted(
    open_store: OpenStore, memory_folders: MemoryFolders, numbers: list[int], prefix: str, limit: int
) -> None:
    """Page after page, newest first, with the number of tasks in each state."""
    names = {f"{number:02x}": ("default", "other")[number % 2] for number in numbers}
    runs = [example(records.PutRun, id=name, namespace=namespace) for name, namespace in names.items()]
    tasks = [task(f"{name}{at}", run_id=name, state=7 + at) for name in names for at in (0, 1)]
    store = store_with(open_store, memory_folders, [*runs, *tasks, task("alone")])
    found: list[Any] = []
    while page := store.reader.runs(
        "default", id_prefix=prefix, before_id=found[-1].run.id if found else "", limit=limit
    ):
        assert len(page) <= limit
        found += page
    expected = [run for run in runs if run.namespace == "default" and run.id.startswith(prefix)]
    assert [record.run for record in found] == sorted(expected, reverse=True)
    assert all(record.counts == [(7, 1), (8, 1)] for record in found)
    store.close()


TASK_NAMES = ["a", "b", "c"]
EVENTS = st.lists(
    st.builds(
        lambda **fields: example(InsertEvent, **fields),
        type=st.sampled_from([1, 4, SUCCEEDED, 50]),
        namespace=st.sampled_from(["", "default", "other"]),
        task_id=st.sampled_from(["", *TASK_NAMES]),
        run_id=NAMES,
        client_id=NAMES,
        outcome=st.just(b""),
    ),
    max_size=25,
).map(lambda events: [event._replace(cursor=cursor) for cursor, event in enumerate(events, 3)])
EVENT_FILTERS = st.builds(
    EventFilter,
    st.sampled_from(["", "default"]),
    st.frozensets(st.sampled_from([*TASK_NAMES, "none"])),
    NAMES,
    NAMES,
    st.frozensets(st.sampled_from([1, SUCCEEDED, 50])),
    st.booleans(),
)


def read_all(reader: Reader, wanted: EventFilter, after: int, until: int, limit: int) -> list[InsertEvent]:
    """All pages of a range of cursors, as a watcher reads them."""
    found: list[InsertEvent] = []
    while after < until:
        page = reader.events(wanted, after, until, limit)
        assert len(page.events) <= limit
        assert after < page.reached <= until
        found += page.events
        after = page.reached
    return found


@on_new_stores
@given(EVENTS, EVENT_FILTERS, st.integers(0, 30), st.integers(0, 30), st.integers(1, 6))
def test_the_store_finds_what_the_filter_matches(
    open_store: OpenStore,
    memory_folders: MemoryFolders,
    events: list[InsertEvent],
    wanted: EventFilter,
    after: int,
    until: int,
    limit: int,
) -> None:
    """A filter selects the same events in the store as in memory, in order, and with outcomes if it asks for them."""
    tasks = [task(name, state=7, outcome=name.encode()) for name in TASK_NAMES]
    store = store_with(open_store, memory_folders, [*tasks, *events])
    expected = [
        event._replace(outcome=event.task_id.encode()) if wanted.include_results and event.type == SUCCEEDED else event
        for event in events
        if after < event.cursor <= until and wanted.matches(event)
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(filters, "CURSORS_PER_READ", 4)
        assert read_all(store.reader, wanted, after, until, limit) == expected
    store.close()


def test_history_carries_results(store: SqliteStore) -> None:
    """A success read from the log has the task's outcome, for who asks, as a live one has."""
    live = InsertEvent(1, SUCCEEDED, 1, "default", "t", outcome=b"result")
    store.commit([task("t", state=7, outcome=b"result"), live])
    (event,) = store.reader.events(EventFilter(include_results=True), 0, 1).events
    assert event == live
    (event,) = store.reader.events(EventFilter(), 0, 1).events
    assert event.outcome == b""


def test_pages_of_events_are_bounded_in_bytes(store: SqliteStore) -> None:
    """A page ends with the event that fills it, so that large results are read a few at a time."""
    half = PAGE_BYTES_MAX // 2
    names = [f"t{number}" for number in range(5)]
    tasks = [task(name, state=7, outcome=bytes(half)) for name in names]
    store.commit([*tasks, *(InsertEvent(at, SUCCEEDED, 1, task_id=name) for at, name in enumerate(names, 1))])
    pages = [store.reader.events(EventFilter(include_results=True), after, 5) for after in (0, 2, 4)]
    assert [len(page.events) for page in pages] == [2, 2, 1]
    assert [page.reached for page in pages] == [2, 4, 5]
    assert len(store.reader.events(EventFilter(), 0, 5).events) == 5


def test_a_page_is_read_as_of_one_commit(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit in the middle of reading a page shows in none of its tasks."""
    names = ["a", "b", "c"]
    store.commit([task(name, state=1) for name in names])
    read_one = Reader._task

    def read_and_commit(reader: Reader, namespace: str, task_id: str) -> Any:
        record = read_one(reader, namespace, task_id)
        store.commit([example(records.UpdateTask, id=name, state=9) for name in names])
        return record

    monkeypatch.setattr(Reader, "_task", read_and_commit)
    listed = store.reader.tasks(TaskFilter("default", states=(1,)), 10)
    assert [record.task.state for record in listed] == [1, 1, 1]
    assert all(later.task.id < earlier.task.id for earlier, later in pairwise(listed))
    assert store.reader.tasks(TaskFilter("default", states=(1,)), 10) == []
