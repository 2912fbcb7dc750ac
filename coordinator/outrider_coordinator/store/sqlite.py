"""The embedded store: SQLite in WAL mode behind a journal, every commit synced before it counts.

`SqliteStore.append` makes a batch durable in the journal; `SqliteStore.apply` brings everything appended so far into
the database, in one synced transaction that also says how far it is. What many batches said of a task is then written
once. A start applies what the last run left in the journal. One connection writes, on the engine's store thread;
another reads what is applied, on the reader thread. Any failure of a write raises `StoreFailed`: after a failed sync
nobody knows what is on disk, so the daemon stops.

Invariants: the database holds whole batches, in the order appended; the journal file that is written holds nothing
but what the database does not.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from outrider_coordinator.core import records
from outrider_coordinator.store import batch, files, record_codec
from outrider_coordinator.store.errors import StoreFailed, StoreRefused
from outrider_coordinator.store.journal import SALT_BYTES, Journal, JournalDamaged
from outrider_coordinator.store.migrate import migrate
from outrider_coordinator.store.reader import Reader

#: Pages of a new file: rows of a task are next to each other, so large ones are written a quarter as often.
_PAGE_BYTES = 16_384
#: An apply dirties many pages: what does not fit is written before its time, and then again.
_PRAGMAS = ("PRAGMA cache_size = -32768", "PRAGMA wal_autocheckpoint = 1000", "PRAGMA temp_store = MEMORY")
_META = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"
_PUT_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


class Backlog(NamedTuple):
    """Durable rows on their way into the database, and the number of the last batch among them."""

    rows: list[records.Write]
    number: int


class SqliteStore:
    """One coordinator's store in ``folder``.

    ``store_id`` is random and made with the file; ``coordinator_epoch`` has risen by one, durably, when the
    constructor returns. Raises `StoreRefused` when the store cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = files.lock(folder)
        self.path = folder / "coordinator.db"
        self._backlog: list[records.Write] = []
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._lock)
            try:
                self._connection = apsw.Connection(str(self.path))
                undo.callback(self._connection.close)
                self._journal = Journal(folder)
                undo.callback(self._journal.close)
                self._prepare()
                self.reader = Reader(self.path)
            except (apsw.Error, OSError) as error:
                message = f"cannot open {self.path}: {error}; restore a backup if it is damaged"
                raise StoreRefused(message) from None
            undo.pop_all()

    def _prepare(self) -> None:
        connection = self._connection
        self.path.chmod(0o600)
        connection.set_busy_timeout(5_000)
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        connection.transaction_mode = "IMMEDIATE"
        migrate(connection, str(self.path))
        connection.execute(_META)
        meta: dict[str, Any] = dict(_pairs(connection.execute("SELECT key, value FROM meta").fetchall()))
        left, number = self._left_in_journal(meta)
        self.store_id = str(meta.get("store_id") or secrets.token_hex(16))
        raised = max((row.epoch for row in left if isinstance(row, records.PutEpoch)), default=0)
        self.coordinator_epoch = max(int(meta.get("epoch", 0)), raised) + 1
        salt = secrets.token_bytes(SALT_BYTES)
        with connection:
            for statement, bindings in batch.statements(left):
                connection.execute(statement, bindings)
            for pair in (
                ("store_id", self.store_id),
                ("epoch", str(self.coordinator_epoch)),
                ("journal_format", record_codec.FORMAT),
                ("journal_salt", salt.hex()),
                ("journal_applied", str(number)),
            ):
                connection.execute(_PUT_META, pair)
        self._journal.begin(salt, number)

    def _left_in_journal(self, meta: dict[str, Any]) -> tuple[list[records.Write], int]:
        """Rows that the last run made durable and did not apply, and the number of its last batch."""
        applied = int(meta.get("journal_applied", 0))
        if "journal_salt" not in meta:
            return [], applied
        try:
            left = self._journal.unapplied(bytes.fromhex(meta["journal_salt"]), applied)
            if left and meta["journal_format"] != record_codec.FORMAT:
                raise StoreRefused(
                    f"the journal beside {self.path} was written by another version and holds what the database does "
                    "not; start that version once and stop it in good order"
                )
            rows = [row for record in left for row in record_codec.decode(record.body)]
        except (JournalDamaged, msgspec.DecodeError, IndexError) as error:
            raise StoreRefused(
                f"the journal beside {self.path} is damaged: {error}; restore a backup, or, to go on without those "
                "batches, move the files coordinator.journal.* away"
            ) from None
        return rows, left[-1].number if left else applied

    @property
    def backlog_rows(self) -> int:
        """Rows that are durable and were not taken yet."""
        return len(self._backlog)

    @property
    def backlog_bytes(self) -> int:
        """How much of the journal they take."""
        return self._journal.size_bytes

    def append(self, rows: Sequence[records.Write]) -> None:
        """Make these rows durable, all or none. Raises `StoreFailed`; nothing of the batch counts then."""
        with self._failures():
            self._journal.append(record_codec.encode(rows))
        self._backlog += rows

    def take_backlog(self) -> Backlog:
        """Everything appended and not taken yet, for `apply`; what was taken before must be applied by now."""
        rows, self._backlog = self._backlog, []
        return Backlog(rows, self._journal.rotate())

    def apply(self, backlog: Backlog) -> None:
        """Bring these rows into the database; another thread may append meanwhile. Raises `StoreFailed`."""
        with self._failures(), self._connection:
            for statement, bindings in batch.statements(backlog.rows):
                self._connection.execute(statement, bindings)
            self._connection.execute(_PUT_META, ("journal_applied", str(backlog.number)))

    def commit(self, rows: Sequence[records.Write]) -> None:
        """Make these rows durable and readable at once. Raises `StoreFailed`."""
        self.append(rows)
        self.apply(self.take_backlog())

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except apsw.FullError:
            raise self._full() from None
        except (apsw.Error, OSError) as error:
            if isinstance(error, OSError) and error.errno in files.FULL:
                raise self._full() from None
            raise StoreFailed(f"writing {self.path} failed: {error}") from error

    def _full(self) -> StoreFailed:
        return StoreFailed(f"the disk with {self.path} is full; free some space and start again")

    def close(self) -> None:
        """Close everything and free the folder for another coordinator. Closing again does nothing."""
        self.reader.close()
        self._connection.close()
        self._journal.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _pairs(rows: list[Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in rows]
