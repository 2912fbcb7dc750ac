"""The embedded store: SQLite in WAL mode, every commit synced before it counts.

One connection writes, on the engine's store thread; another reads committed data, on the reader thread. Any failure
of a write raises `StoreFailed`: after a failed sync nobody knows what is on disk, so the daemon stops.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import apsw

from outrider_coordinator.core import records
from outrider_coordinator.store import files, queries
from outrider_coordinator.store.errors import StoreFailed, StoreRefused
from outrider_coordinator.store.migrate import migrate
from outrider_coordinator.store.reader import Reader

Row = tuple[Any, ...]


def _task_row(record: Any) -> Row:
    values = list(record)
    values[14] = json.dumps(record.dependency_ids)
    return tuple(values)


def _update_row(record: Any) -> Row:
    return (*record[1:], record.id)


def _run_row(record: Any) -> Row:
    values = list(record)
    values[6:9] = (json.dumps(record.task_ids), json.dumps(record.task_keys), json.dumps(record.counts))
    return tuple(values)


def _agent_row(record: Any) -> Row:
    values = list(record)
    values[7] = json.dumps(record.labels)
    return tuple(values)


def _event_row(record: Any) -> Row:
    return tuple(record[:-1])


#: Statement and row of each record, in the order in which one transaction runs them.
_WRITES: list[tuple[type, str, Callable[[Any], Row]]] = [
    (records.InsertTask, queries.INSERT_TASK, _task_row),
    (records.UpdateTask, queries.UPDATE_TASK, _update_row),
    (records.PutAttempt, queries.PUT_ATTEMPT, tuple),
    (records.PutWait, queries.PUT_WAIT, tuple),
    (records.PutRun, queries.PUT_RUN, _run_row),
    (records.PutAgent, queries.PUT_AGENT, _agent_row),
    (records.PutOutbox, queries.PUT_OUTBOX, tuple),
    (records.InsertLog, queries.INSERT_LOG, tuple),
    (records.InsertEvidence, queries.INSERT_EVIDENCE, tuple),
    (records.InsertEvent, queries.INSERT_EVENT, _event_row),
]


class SqliteStore:
    """One coordinator's store in ``folder``.

    ``store_id`` is random and made with the file; ``coordinator_epoch`` has risen by one, durably, when the
    constructor returns. Raises `StoreRefused` when the store cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = files.lock(folder)
        self.path = folder / "coordinator.db"
        try:
            self._connection = apsw.Connection(str(self.path))
            self._prepare()
        except (apsw.Error, StoreRefused) as error:
            os.close(self._lock)
            if isinstance(error, StoreRefused):
                raise
            raise StoreRefused(f"cannot open {self.path}: {error}; restore a backup if it is damaged") from None
        self.reader = Reader(self.path)

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
        by_type: dict[type, list[Any]] = {}
        for row in rows:
            by_type.setdefault(type(row), []).append(row)
        try:
            with self._connection:
                for record, statement, convert in _WRITES:
                    if record in by_type:
                        self._connection.executemany(statement, map(convert, _latest(record, by_type[record])))
                for row in by_type.get(records.DeleteAgent, ()):
                    self._connection.execute(queries.DELETE_AGENT, (row.id,))
                    self._connection.execute(queries.DELETE_OUTBOXES, (row.id,))
        except apsw.FullError:
            raise StoreFailed(f"the disk with {self.path} is full; free some space and start again") from None
        except (apsw.Error, OSError) as error:
            raise StoreFailed(f"writing {self.path} failed: {error}") from error

    def close(self) -> None:
        """Close both connections and free the folder for another coordinator."""
        self.reader.close()
        self._connection.close()
        os.close(self._lock)


def _latest(record: type, rows: list[Any]) -> Iterable[Any]:
    """Of several changes of one task in a batch only the last is written."""
    if record is records.UpdateTask:
        return {row.id: row for row in rows}.values()
    if record is records.PutAttempt:
        return {row[:2]: row for row in rows}.values()
    return rows


def _pairs(rows: list[Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in rows]
