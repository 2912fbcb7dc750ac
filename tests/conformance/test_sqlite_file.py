"""The SQLite store's file: whose it is, which files are refused and why, and what only people read."""

from __future__ import annotations

import stat
from pathlib import Path

import apsw
import pytest

from outrider_coordinator.core import records
from outrider_coordinator.store.errors import StoreFailed, StoreRefused
from outrider_coordinator.store.migrate import migrations
from outrider_coordinator.store.sqlite import SqliteStore
from support.store_records import example, task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a store that holds tasks and is closed."""
    store = SqliteStore(tmp_path)
    store.commit([task(f"t{number:03}", body=b"x" * 1000) for number in range(300)])
    store.close()
    return tmp_path


def refusal(folder: Path) -> str:
    """Why a store is refused."""
    with pytest.raises(StoreRefused) as refused:
        SqliteStore(folder)
    return str(refused.value)


def change(folder: Path, statement: str) -> None:
    """Change the file behind the store's back."""
    with apsw.Connection(str(folder / "coordinator.db")) as connection:
        connection.execute(statement)
    connection.close()


def test_the_files_belong_to_their_owner_alone(folder: Path) -> None:
    """Nobody else may read what tasks contain."""
    for name in ("coordinator.db", "coordinator.lock"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_every_commit_is_synced(folder: Path) -> None:
    """The write-ahead log is synced at each commit, not at checkpoints only."""
    store = SqliteStore(folder)
    try:
        assert store._connection.pragma("synchronous") == 2
        assert store._connection.pragma("journal_mode") == "wal"
    finally:
        store.close()


def test_a_newer_schema_is_refused(folder: Path) -> None:
    """A file of a newer version says which one it needs, and stays as it is."""
    newest = migrations()[-1][0]
    change(folder, f"INSERT INTO migrations VALUES ({newest + 1}, 'x')")
    message = refusal(folder)
    assert f"schema {newest + 1}, this one knows {newest}" in message
    assert "upgrade Outrider" in message
    change(folder, f"DELETE FROM migrations WHERE number = {newest + 1}")
    store = SqliteStore(folder)
    assert store.coordinator_epoch == 2
    store.close()


def test_a_schema_of_another_history_is_refused(folder: Path) -> None:
    """A migration that is not the one this version has is never run over."""
    change(folder, "UPDATE migrations SET checksum = 'other'")
    assert "migration 1 is not the one this version has" in refusal(folder)


def test_a_file_that_is_no_database_is_refused(folder: Path) -> None:
    """The message names the file and says what to do; the file is not touched, the folder is free again."""
    file = folder / "coordinator.db"
    file.write_bytes(b"this is no database at all" * 100)
    for _ in range(2):
        message = refusal(folder)
        assert str(file) in message
        assert "restore a backup" in message
    assert file.read_bytes().startswith(b"this is no database")


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    """A database with tables of the same names and another shape is not ours to change."""
    with apsw.Connection(str(tmp_path / "coordinator.db")) as connection:
        connection.execute("CREATE TABLE tasks (something)")
    connection.close()
    assert "tasks already exists" in refusal(tmp_path)


def test_damage_inside_the_file_is_found_when_it_is_read(folder: Path) -> None:
    """A page that was overwritten ends the start with the file's name, not with half of the tasks."""
    file = folder / "coordinator.db"
    content = bytearray(file.read_bytes())
    for start in range(4096 * 20, len(content), 4096):
        content[start : start + 4096] = b"\xff" * 4096
    file.write_bytes(content)
    with pytest.raises((StoreRefused, StoreFailed), match=r"coordinator\.db.*restore a backup"):
        list(SqliteStore(folder).reader.open_tasks())


def test_evidence_is_kept_as_it_came(folder: Path) -> None:
    """Reports that could not be applied are kept in order, with what they carried."""
    rows = [example(records.InsertEvidence, seq=seq, body=bytes([seq])) for seq in (1, 2)]
    store = SqliteStore(folder)
    store.commit(rows)
    store.close()
    with apsw.Connection(str(folder / "coordinator.db")) as connection:
        kept = connection.execute("SELECT * FROM evidence ORDER BY rowid").fetchall()
    connection.close()
    assert kept == [tuple(row) for row in rows]
