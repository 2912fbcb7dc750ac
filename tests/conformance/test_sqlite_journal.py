"""The SQLite store with batches in its journal: what a start finds, and what it refuses to start with."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from outrider_coordinator.core import records
from outrider_coordinator.store import record_codec
from outrider_coordinator.store.errors import StoreFailed, StoreRefused
from outrider_coordinator.store.filters import EventFilter, TaskFilter
from outrider_coordinator.store.journal import FILES
from outrider_coordinator.store.sqlite import SqliteStore
from support.store_records import example, task


def ids(store: SqliteStore) -> list[str]:
    """Tasks that can be read, oldest first."""
    return [record.task.id for record in reversed(store.reader.tasks(TaskFilter("default"), 1000))]


def killed(store: SqliteStore, folder: Path) -> Path:
    """A copy of the store's files as they are now: what a coordinator that is killed leaves."""
    copy = folder.with_name("killed")
    shutil.copytree(folder, copy)
    return copy


def event(cursor: int) -> records.InsertEvent:
    """A plain event."""
    return records.InsertEvent(cursor, 1, 5, "default", f"t{cursor}")


def test_what_is_durable_is_found_by_the_next_start(tmp_path: Path) -> None:
    """Batches that were appended and not applied are there after a kill, each once, and in order."""
    store = SqliteStore(tmp_path / "state")
    store.commit([task("t1"), event(1)])
    store.append([task("t2", state=1), event(2)])
    store.append([example(records.UpdateTask, id="t2", state=3), example(records.UpdateTask, id="t1", state=3)])
    store.append([task("t3"), event(3)])
    assert ids(store) == ["t1"]
    again = SqliteStore(killed(store, tmp_path / "state"))
    assert ids(again) == ["t1", "t2", "t3"]
    assert [row.task.state for row in again.reader.tasks(TaskFilter("default"), 10)] == [1, 3, 3]
    assert [found.cursor for found in again.reader.events(EventFilter(), 0, 9).events] == [1, 2, 3]
    assert again.coordinator_epoch == store.coordinator_epoch + 1
    store.close()
    again.close()
    third = SqliteStore(tmp_path / "killed")
    assert ids(third) == ["t1", "t2", "t3"]
    third.close()


def test_a_kill_in_the_middle_of_an_apply_loses_nothing(tmp_path: Path) -> None:
    """An apply that did not commit counts as none, and what was appended meanwhile comes after it."""
    store = SqliteStore(tmp_path / "state")
    store.append([task(f"t{number:03}") for number in range(100)])
    backlog = store.take_backlog()
    store.append([task("u000")])
    copy = killed(store, tmp_path / "state")
    store.apply(backlog)
    assert len(ids(store)) == 100
    again = SqliteStore(copy)
    assert len(ids(again)) == 101
    again.close()
    store.close()


def test_many_batches_leave_one_row(tmp_path: Path) -> None:
    """What a task went through between two applies is written as it is in the end."""
    store = SqliteStore(tmp_path)
    store.append([task("t", state=1), task("other", state=1)])
    for state in (3, 4, 7):
        store.append([example(records.UpdateTask, id="t", state=state, outcome=b"%d" % state)])
    store.apply(store.take_backlog())
    found = store.reader.task("default", "t")
    assert found is not None
    assert (found.task.state, found.task.outcome, found.task.title) == (7, b"7", "title")
    other = store.reader.task("default", "other")
    assert other is not None
    assert other.task.state == 1
    store.close()


def test_a_damaged_journal_is_refused_until_it_is_moved_away(tmp_path: Path) -> None:
    """The message says which batch cannot be read and what there is to do; doing it works."""
    folder = tmp_path / "state"
    store = SqliteStore(folder)
    store.commit([task("t1")])
    for name in ("t2", "t3"):
        store.append([task(name)])
    copy = killed(store, folder)
    store.close()
    file = copy / FILES[1]
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    for _ in range(2):
        with pytest.raises(StoreRefused, match=r"journal beside .* is damaged: .* restore a backup, or"):
            SqliteStore(copy)
    for name in FILES:
        (copy / name).unlink()
    again = SqliteStore(copy)
    assert ids(again) == ["t1"]
    again.close()


def test_a_journal_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes whose meaning may have changed are not guessed at; once they are applied the version may change."""
    folder = tmp_path / "state"
    store = SqliteStore(folder)
    store.append([task("t1")])
    copy = killed(store, folder)
    store.close()
    with monkeypatch.context() as patched:
        patched.setattr(record_codec, "FORMAT", "other")
        with pytest.raises(StoreRefused, match=r"written by another version .* start that version once"):
            SqliteStore(copy)
    SqliteStore(copy).close()
    monkeypatch.setattr(record_codec, "FORMAT", "other")
    again = SqliteStore(copy)
    assert ids(again) == ["t1"]
    again.close()


def test_a_store_of_the_time_before_the_journal_goes_on(tmp_path: Path) -> None:
    """A database that knows nothing of a journal starts with an empty one."""
    store = SqliteStore(tmp_path)
    store.commit([task("t1")])
    store.close()
    with apsw.Connection(str(tmp_path / "coordinator.db")) as connection:
        connection.execute("DELETE FROM meta WHERE key LIKE 'journal%'")
    connection.close()
    for name in FILES:
        (tmp_path / name).unlink()
    again = SqliteStore(tmp_path)
    assert ids(again) == ["t1"]
    assert again.coordinator_epoch == 2
    again.close()


@pytest.mark.parametrize(("method", "rows"), [("append", [task("t2")]), ("commit", [task("t2")])])
def test_a_full_disk_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, rows: Sequence[records.Write]
) -> None:
    """No room for the journal reads like no room for the database: free some and start again; nothing is lost."""
    from outrider_coordinator.store import journal

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    store = SqliteStore(tmp_path)
    store.commit([task("t1")])
    with monkeypatch.context() as patched:
        patched.setattr(journal.os, "pwrite", full)
        with pytest.raises(StoreFailed, match=r"the disk with .* is full; free some space and start again"):
            getattr(store, method)(rows)
    store.close()
    again = SqliteStore(tmp_path)
    assert ids(again) == ["t1"]
    again.close()
