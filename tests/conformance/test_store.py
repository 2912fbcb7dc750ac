"""What every store must do with records: keep them, replace them, find them again, and lose nothing at a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider_coordinator.core import records
from outrider_coordinator.core.states import TaskState
from outrider_coordinator.store.errors import StoreFailed, StoreRefused
from outrider_coordinator.store.filters import EventFilter, TaskFilter
from outrider_coordinator.store.reader import Ambiguous, Reader
from outrider_coordinator.store.sqlite import SqliteStore
from support.memory_folders import MemoryFolders
from support.store_records import drawn, example, task
from support.stores import OpenStore

on_one_store = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))

OPEN_TASK = "open"
#: How each record is found again.
READS: dict[type, Callable[[Reader, Any], Any]] = {
    records.InsertTask: lambda reader, row: getattr(reader.task(row.namespace, row.id), "task", None),
    records.PutAttempt: lambda reader, row: next(part for part in reader.open_attempts() if part.number == row.number),
    records.PutWait: lambda reader, row: next(part for part in reader.open_waits() if part.key == row.key),
    records.PutRun: lambda reader, row: getattr(reader.run(row.namespace, row.id), "run", None),
    records.InsertRunPart: lambda reader, row: reader.run_part(row.run_id, row.number),
    records.PutAgent: lambda reader, row: next(part for part in reader.agents() if part.id == row.id),
    records.PutBreaker: lambda reader, row: next(part for part in reader.breakers() if part[:3] == row[:3]),
    records.PutOutbox: lambda reader, row: next(part for part in reader.outboxes() if part[:2] == row[:2]),
    records.PutLimit: lambda reader, row: next(part for part in reader.limits() if part[:2] == row[:2]),
    records.PutSchedule: lambda reader, row: next(part for part in reader.schedules() if part[:2] == row[:2]),
    records.InsertLog: lambda reader, row: records.InsertLog(
        row.task_id, row.attempt, *reader.logs(row.task_id, row.attempt, row.number - 1, 1)[0]
    ),
    records.InsertEvent: lambda reader, row: reader.events(EventFilter(), row.cursor - 1, row.cursor).events[0],
}
#: What a drawn record of a kind must have to be found as above.
FIELDS: dict[type, dict[str, Any]] = {
    records.PutAttempt: {"task_id": OPEN_TASK, "state": st.sampled_from((1, 2, 3, 4, 8))},
    records.PutWait: {"task_id": OPEN_TASK},
    records.InsertLog: {"number": st.integers(1, 2**40)},
    records.InsertEvent: {"outcome": b"", "cursor": st.integers(1, 2**40)},
}


@pytest.mark.parametrize("record", list(READS), ids=lambda record: record.__name__)
def test_every_record_comes_back_as_it_was_written(store: SqliteStore, record: type) -> None:
    """Whatever is in its fields, a record is read as it was committed."""
    if record in (records.PutAttempt, records.PutWait):
        store.commit([task(OPEN_TASK)])
    seen = set()

    @on_one_store
    @given(drawn(record, **FIELDS.get(record, {})))
    def check(row: Any) -> None:
        key = row[:2] if record is records.InsertRunPart else row[0]
        if record in (records.InsertTask, records.InsertEvent, records.InsertRunPart) and key in seen:
            return
        seen.add(key)
        store.commit([row])
        assert READS[record](store.reader, row) == row

    check()


def test_every_kind_of_record_is_tested() -> None:
    """No record is added to the core without a test of how it is stored; evidence and deletes have their own."""
    kinds = {kind for kind in vars(records).values() if isinstance(kind, type) and kind.__module__ == records.__name__}
    deletes = {records.DeleteAgent, records.DeleteBreaker, records.DeleteLimit, records.DeleteSchedule}
    others = {records.UpdateTask, records.InsertEvidence, records.PutEpoch} | deletes
    assert {kind for kind in kinds if hasattr(kind, "_fields")} == set(READS) | others


def test_an_update_changes_what_it_names_and_nothing_else(store: SqliteStore) -> None:
    """A task's update replaces its state; what was submitted stays."""
    before = task("t", namespace="default")
    update = example(records.UpdateTask, id="t", state=8, error=b"changed", outcome=b"new")
    store.commit([before, task("other")])
    store.commit([update])
    found = store.reader.task("default", "t")
    assert found is not None
    assert found.task == before._replace(**{name: value for name, value in update._asdict().items() if name != "id"})
    other = store.reader.task("default", "other")
    assert other is not None
    assert other.task == task("other")


def test_the_last_word_of_a_batch_counts(store: SqliteStore) -> None:
    """Of several rows for one thing in a batch, also of an insert and its updates, the last one is what is kept."""
    updates = [example(records.UpdateTask, id="t", state=state) for state in (3, 4, 7)]
    attempts = [example(records.PutAttempt, task_id="t", number=1, state=state) for state in (1, 2, 5)]
    waits = [example(records.PutWait, task_id="t", key="k", body=body, is_open=True) for body in (b"1", b"2")]
    outboxes = [records.PutOutbox("a", "box", seq) for seq in (1, 5)]
    runs = [example(records.PutRun, id="r", namespace="n", ended_us=ended_us) for ended_us in (0, 9)]
    store.commit([task("t"), *updates, *attempts, *waits, *outboxes, *runs])
    found = store.reader.task("default", "t")
    assert found is not None
    assert (found.task.state, found.attempts, found.waits) == (7, [attempts[-1]], [waits[-1]])
    assert store.reader.outboxes() == [outboxes[-1]]
    run = store.reader.run("n", "r")
    assert run is not None
    assert run.run == runs[-1]


@pytest.mark.parametrize("count", [1, 5, 64, 150])
def test_many_rows_of_a_kind_keep_their_own_values(store: SqliteStore, count: int) -> None:
    """However many rows one batch has, each task, update and log ends up with what was meant for it."""
    names = [f"t{number:03}" for number in range(count)]
    updates = [example(records.UpdateTask, id=name, state=8, reason=at) for at, name in enumerate(names)]
    logs = [records.InsertLog("t", 1, number, number, bytes([number])) for number in range(1, count + 1)]
    store.commit([task(name) for name in names])
    store.commit([*updates, *logs])
    found = store.reader.tasks(TaskFilter("default"), 1000)
    assert [(record.task.id, record.task.reason) for record in found[::-1]] == [(row.id, row.reason) for row in updates]
    assert store.reader.logs("t", 1, 0, 1000) == [row[2:] for row in logs]
    store.commit([example(records.PutAgent, id=name) for name in [*names, "other"]])
    store.commit([records.DeleteAgent(name) for name in names])
    assert [row.id for row in store.reader.agents()] == ["other"]


def test_output_that_is_reported_again_is_kept_once(store: SqliteStore) -> None:
    """A replay after a crash writes the same row again and changes nothing."""
    rows = [records.InsertLog("t", 1, number, number, b"line") for number in (1, 2, 3)]
    store.commit(rows)
    store.commit(rows[1:])
    assert store.reader.logs("t", 1, 0, 10) == [(1, 1, b"line"), (2, 2, b"line"), (3, 3, b"line")]
    assert store.reader.logs("t", 1, 1, 1) == [(2, 2, b"line")]
    assert store.reader.logs("t", 2, 0, 10) == []


def test_a_batch_that_fails_leaves_nothing(store: SqliteStore) -> None:
    """One row that cannot be written takes its whole batch back."""
    store.commit([task("t")])
    with pytest.raises(StoreFailed):
        store.commit([records.InsertEvent(1, 1, 1), task("new"), task("t")])
    assert store.reader.cursors() == (1, 0)
    assert store.reader.task("default", "new") is None
    store.commit([task("new")])
    assert store.reader.task("default", "new") is not None


LIMITS = st.lists(
    st.one_of(
        st.builds(
            lambda key, capacity: example(records.PutLimit, key=key, capacity=capacity),
            st.sampled_from("ab"),
            st.integers(1, 9),
        ),
        st.builds(records.DeleteLimit, st.just("namespace"), st.sampled_from("ab")),
    ),
    max_size=6,
)


@on_one_store
@given(batches=st.lists(LIMITS, min_size=1, max_size=3))
def test_limits_are_defined_and_forgotten_in_the_order_given(
    open_store: OpenStore, memory_folders: MemoryFolders, batches: Any
) -> None:
    """However definitions and their ends are mixed in a batch, the last word on each limit is what is found."""
    store = open_store(memory_folders.make())
    store.commit([records.DeleteLimit("namespace", key) for key in "ab"])
    found: dict[str, Any] = {}
    for batch in batches:
        store.commit(batch)
        for row in batch:
            found.pop(row.key, None)
            if isinstance(row, records.PutLimit):
                found[row.key] = row
    assert store.reader.limits() == [found[key] for key in sorted(found)]
    store.close()


SCHEDULES = st.lists(
    st.one_of(
        st.builds(
            lambda name, due: example(records.PutSchedule, name=name, next_us=due),
            st.sampled_from("ab"),
            st.integers(1, 9),
        ),
        st.builds(records.DeleteSchedule, st.just("namespace"), st.sampled_from("ab")),
    ),
    max_size=6,
)


@on_one_store
@given(batches=st.lists(SCHEDULES, min_size=1, max_size=3))
def test_schedules_are_put_and_forgotten_in_the_order_given(
    open_store: OpenStore, memory_folders: MemoryFolders, batches: Any
) -> None:
    """However schedules and their ends are mixed in a batch, the last word on each is what is found."""
    store = open_store(memory_folders.make())
    found: dict[str, Any] = {}
    for batch in batches:
        store.commit(batch)
        for row in batch:
            found.pop(row.name, None)
            if isinstance(row, records.PutSchedule):
                found[row.name] = row
    assert store.reader.schedules() == [found[name] for name in sorted(found)]
    store.close()


FLEET = st.lists(
    st.one_of(
        st.builds(
            lambda name, slots: example(records.PutAgent, id=name, slots=slots),
            st.sampled_from("ab"),
            st.integers(1, 9),
        ),
        st.builds(records.DeleteAgent, st.sampled_from("ab")),
        st.builds(records.PutOutbox, st.sampled_from("ab"), st.sampled_from("xy"), st.integers(1, 99)),
        st.builds(
            lambda name, kind, count: example(
                records.PutBreaker, agent_id=name, kind=kind, system="", opened_count=count
            ),
            st.sampled_from("ab"),
            st.sampled_from(("", "k")),
            st.integers(1, 9),
        ),
        st.builds(records.DeleteBreaker, st.sampled_from("ab"), st.sampled_from(("", "k")), st.just("")),
    ),
    max_size=12,
)


@on_one_store
@given(st.lists(FLEET, max_size=4))
def test_agents_are_removed_and_come_back_in_order(
    open_store: OpenStore, memory_folders: MemoryFolders, batches: list[list[records.Write]]
) -> None:
    """However puts and deletes of agents and breakers are spread over batches, their order decides what is left."""
    store = open_store(memory_folders.make())
    agents: dict[str, Any] = {}
    outboxes: dict[tuple[str, str], Any] = {}
    breakers: dict[tuple[str, str, str], Any] = {}
    for batch in batches:
        store.commit(batch)
        for row in batch:
            if isinstance(row, records.DeleteAgent):
                agents.pop(row.id, None)
                outboxes = {key: value for key, value in outboxes.items() if key[0] != row.id}
                breakers = {key: value for key, value in breakers.items() if key[0] != row.id}
            elif isinstance(row, records.PutAgent):
                agents[row.id] = row
            elif isinstance(row, records.PutOutbox):
                outboxes[row[:2]] = row
            elif isinstance(row, records.PutBreaker):
                breakers[row[:3]] = row
            elif isinstance(row, records.DeleteBreaker):
                breakers.pop(row, None)
    assert store.reader.breakers() == [breakers[key] for key in sorted(breakers)]
    assert store.reader.agents() == [agents[name] for name in sorted(agents)]
    assert sorted(store.reader.outboxes()) == sorted(outboxes.values())
    store.close()


def test_ids_are_found_by_what_they_begin_with(store: SqliteStore) -> None:
    """A prefix finds the one id of its namespace that begins with it, and says so when there are several."""
    runs = [example(records.PutRun, id=name, namespace="default") for name in ("0aff", "0b")]
    store.commit([task("0aaa", state=1), task("0aab", state=7), task("0b", namespace="other"), *runs])
    find_task, find_run = store.reader.task_id, store.reader.run_id
    assert find_task("default", "0aab") == "0aab"
    assert find_task("other", "0") == "0b"
    assert find_task("default", "0b") is None
    assert find_task("default", "0aaaa") is None
    assert find_run("default", "0a") == "0aff"
    assert find_run("other", "0") is None
    several = find_task("default", "0a")
    assert isinstance(several, Ambiguous)
    assert sorted(several.ids) == ["0aaa", "0aab"]
    assert isinstance(find_run("default", "0"), Ambiguous)


def test_ids_are_found_in_every_state(store: SqliteStore) -> None:
    """A prefix finds its task, and a list shows it, wherever the task is in its life."""
    store.commit([task(f"{state:04}", state=int(state)) for state in TaskState])
    for state in TaskState:
        assert store.reader.task_id("default", f"{state:04}") == f"{state:04}"
    assert len(store.reader.tasks(TaskFilter("default"), 100)) == len(TaskState)


def test_request_ids_are_found_in_their_namespace(store: SqliteStore) -> None:
    """What was accepted under a request id is found with its digest; no request id finds nothing."""
    run = example(records.PutRun, id="r", namespace="n", request_id="two", digest=b"r")
    store.commit([task("t", request_id="one", digest=b"t"), task("u", request_id=""), run])
    assert store.reader.request("default", "one") == ("t", b"t")
    assert store.reader.request("n", "one") is None
    assert store.reader.request("default", "") is None
    assert store.reader.request("n", "two", "run") == ("r", b"r")
    assert store.reader.request("n", "two") is None


def test_parts_of_runs_are_found(store: SqliteStore) -> None:
    """A run comes with its parts in order; an addition is found by its request id, a submit is not taken for one."""
    run = example(records.PutRun, id="r", namespace="n", ended_us=0)
    parts = [
        example(records.InsertRunPart, run_id="r", number=number, namespace="n", request_id=request_id, digest=b"d")
        for number, request_id in ((1, "more"), (0, ""))
    ]
    store.commit([run, *parts])
    found = store.reader.run("n", "r")
    assert found is not None
    assert found.parts == parts[::-1]
    assert list(store.reader.open_run_parts()) == parts[::-1]
    assert store.reader.request("n", "more", "part") == ("r/1", b"d")
    assert store.reader.request("n", "", "part") is None
    assert store.reader.request("n", "more", "run") is None


def test_runs_count_their_tasks(store: SqliteStore) -> None:
    """A run knows its tasks by state, those whose condition was not met, and how long the ended ones ran."""
    rows = [
        task("a", run_id="r", state=7, reason=0, start_us=10, end_us=30),
        task("b", run_id="r", state=11, reason=19, start_us=0, end_us=30),
        task("c", run_id="r", state=11, reason=7, start_us=0, end_us=30),
        task("d", run_id="r", state=4, reason=0, start_us=20, end_us=0),
    ]
    store.commit([example(records.PutRun, id="r", namespace="n"), *rows])
    found = store.reader.run("n", "r")
    assert found is not None
    assert dict(found.counts) == {4: 1, 7: 1, 11: 2}
    assert (found.unmet_count, found.busy_us, found.start_us) == (1, 20, 10)
    assert sorted(row.id for row in store.reader.run_tasks("r")) == ["a", "b", "c", "d"]
    assert store.reader.task_ends(["a", "b", "d", "none"]) == {"a": (7, 0), "b": (11, 19)}


def test_outcomes_and_states_of_tasks(store: SqliteStore) -> None:
    """A task's state is known when it is stored; its outcome when it succeeded."""
    store.commit([task("s", state=7, outcome=b"result"), task("f", state=8, outcome=b""), task("p")])
    assert store.reader.task_states(("s", "f", "p", "none")) == {"s": 7, "f": 8, "p": 1, "none": None}
    assert store.reader.outcomes(("s", "f", "p", "none")) == {"s": b"result"}


def test_cursors_of_the_log(store: SqliteStore) -> None:
    """First and last cursor, and when the last entry was made; an empty log begins at 1."""
    assert store.reader.cursors() == (1, 0)
    assert store.reader.last_event_us() == 0
    store.commit([records.InsertEvent(cursor, 1, cursor + 40) for cursor in (5, 6, 7)])
    assert store.reader.cursors() == (5, 7)
    assert store.reader.last_event_us() == 47


OPEN_STATES = range(1, 7)
TASKS = st.lists(st.tuples(st.integers(1, 11), st.integers(1, 9), st.booleans()), max_size=8)


@on_one_store
@given(TASKS)
def test_a_start_reads_what_is_not_over(
    open_store: OpenStore, memory_folders: MemoryFolders, drawn_tasks: list[tuple[int, int, bool]]
) -> None:
    """Recovery gets open tasks in the order accepted with their live attempts and strays, all waits, open runs."""
    rows: list[Any] = []
    for at, (state, attempt_state, is_open) in enumerate(drawn_tasks):
        name = f"t{at}"
        rows.append(task(name, state=state, order=100 - at))
        rows.append(example(records.PutAttempt, task_id=name, number=1, state=9))
        rows.append(example(records.PutAttempt, task_id=name, number=2, state=attempt_state))
        rows.append(example(records.PutWait, task_id=name, key="k", is_open=is_open))
        rows.append(example(records.PutRun, id=f"r{at}", ended_us=int(not is_open)))
    folder = memory_folders.make()
    first = open_store(folder)
    first.commit(rows)
    first.close()
    reader = open_store(folder).reader
    open_ids = {row.id for row in rows if isinstance(row, records.InsertTask) and row.state in OPEN_STATES}

    def of(kind: type) -> list[Any]:
        return [row for row in rows if isinstance(row, kind)]

    tasks = [row for row in of(records.InsertTask) if row.id in open_ids]
    assert list(reader.open_tasks()) == tasks[::-1]
    assert reader.last_sequence() == max((row.order for row in tasks), default=0)
    attempts = [row for row in of(records.PutAttempt) if row.task_id in open_ids and row.state in (1, 2, 3, 4, 8)]
    assert sorted(reader.open_attempts()) == sorted(attempts)
    assert sorted(reader.open_waits()) == sorted(row for row in of(records.PutWait) if row.task_id in open_ids)
    assert sorted(reader.open_runs()) == sorted(row for row in of(records.PutRun) if not row.ended_us)


def test_an_epoch_that_was_raised_stays_below_the_next(open_store: OpenStore, tmp_path: Path) -> None:
    """A coordinator that went on as a later start is followed by a later one, whether that was applied or not."""
    store = open_store(tmp_path)
    store.commit([records.PutEpoch(7)])
    store.close()
    store = open_store(tmp_path)
    assert store.coordinator_epoch == 8
    store.append([records.PutEpoch(20)])
    store.close()
    assert open_store(tmp_path).coordinator_epoch == 21


def test_the_epoch_rises_with_every_open(open_store: OpenStore, tmp_path: Path) -> None:
    """Each open has a higher epoch than all before it, in a store that stays the same one."""
    epochs, names = [], set()
    for _ in range(3):
        store = open_store(tmp_path / "state")
        epochs.append(store.coordinator_epoch)
        names.add(store.store_id)
        store.close()
    assert epochs == [1, 2, 3]
    assert len(names) == 1
    assert open_store(tmp_path / "other").store_id not in names


def test_a_folder_has_one_coordinator(open_store: OpenStore, tmp_path: Path) -> None:
    """A second open is refused with the way out and harms nothing; after a close the folder is free."""
    store = open_store(tmp_path)
    with pytest.raises(StoreRefused, match=r"another coordinator .* stop it or choose another"):
        open_store(tmp_path)
    store.commit([task("t")])
    store.close()
    again = open_store(tmp_path)
    assert again.coordinator_epoch == 2
    assert again.reader.task("default", "t") is not None


def test_a_folder_that_cannot_be_used_is_refused(open_store: OpenStore, tmp_path: Path) -> None:
    """The message names the folder and what the system says."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreRefused, match=r"cannot use the state directory .*file"):
        open_store(tmp_path / "file" / "state")
