"""The embedded store: SQLite in WAL mode, every commit synced before it counts.

One connection writes, on the engine's store thread; another reads committed data, on the reader thread. Any failure
of a write raises `StoreFailed`: after a failed sync nobody knows what is on disk, so the daemon stops.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from outrider_coordinator.core import records
from outrider_coordinator.store import batch, files
from outrider_coordinator.store.errors import StoreFailed, StoreRefused
from outrider_coordinator.store.migrate import migrate
from outrider_coordinator.store.reader import Reader


class SqliteStore:
    """One coordinator's store in ``folder``.

    ``store_id`` is random and made with the file; ``coordinator_epoch`` has risen by one, durably, when the
    constructor returns. Raises `StoreRefused` when the store cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = files.lock(folder)
        self.path = folder / "coordinator.db"
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._lock)
            try:
                self._connection = apsw.Connection(str(self.path))
                undo.callback(self._connection.close)
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
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.transaction_mode = "IMMEDIATE"
        migrate(connection, str(self.path))
        with connection:
            connection.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT")
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('store_id', ?)", (secrets.token_hex(16),))
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('epoch', '0')")
            connection.execute("UPDATE meta SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE key = 'epoch'")
        meta: dict[str, Any] = dict(_pairs(connection.execute("SELECT key, value FROM meta").fetchall()))
        self.store_id: str = meta["store_id"]
        self.coordinator_epoch = int(meta["epoch"])

    def commit(self, rows: Sequence[records.Write]) -> None:
        """Write these rows in one transaction and sync it. Raises `StoreFailed`; nothing of the batch counts then."""
        try:
            with self._connection:
                for statement, bindings in batch.statements(rows):
                    self._connection.execute(statement, bindings)
        except apsw.FullError:
            raise StoreFailed(f"the disk with {self.path} is full; free some space and start again") from None
        except (apsw.Error, OSError) as error:
            raise StoreFailed(f"writing {self.path} failed: {error}") from error

    def close(self) -> None:
        """Close both connections and free the folder for another coordinator. Closing again does nothing."""
        self.reader.close()
        self._connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _pairs(rows: list[Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in rows]
