"""What was started here under each signed statement, so that a coordinator cannot replay one for ever.

One small SQLite file, because there may be a million of them. A start is on disk before the attempt begins as far as a
crash of this process goes; a power cut may forget the last seconds, which a coordinator cannot bring about. It must not
know what statements say. Invariant: nothing is forgotten before it has expired.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from outrider.errors import InvalidRequest

#: Starts between two rounds of forgetting what has expired.
_FORGET_INTERVAL = 1000

_logger = logging.getLogger(__name__)


class Statements:
    """The memory of one agent. Raises `sqlite3.Error` when the disk fails."""

    def __init__(self, path: Path, statements_max: int) -> None:
        self._statements_max = statements_max
        self._since_forgotten = _FORGET_INTERVAL
        self._database = _opened(path)
        (self._count,) = self._database.execute("SELECT count(*) FROM statements").fetchone()

    def begin(self, nonce: bytes, expires_s: int, starts_max: int, now_s: int) -> str:
        """Count a start; why there may be none under this statement any more, empty when there may."""
        found = self._database.execute("SELECT starts FROM statements WHERE nonce = ?", (nonce,)).fetchone()
        starts = found[0] if found else 0
        if starts_max and starts >= starts_max:
            return f"it was started here {starts} times, as often as its signature allows; submit it again, signed anew"
        if found:
            self._database.execute("UPDATE statements SET starts = starts + 1 WHERE nonce = ?", (nonce,))
            return ""
        self._forget(now_s)
        if self._count >= self._statements_max:
            return f"this agent remembers {self._count} signed statements already (policy.statements_max)"
        self._database.execute("INSERT INTO statements VALUES (?, ?, 1)", (nonce, expires_s))
        self._count += 1
        return ""

    def close(self) -> None:
        """Nothing more is asked."""
        self._database.close()

    def _forget(self, now_s: int) -> None:
        """Now and then, and whenever there is no more room."""
        self._since_forgotten += 1
        if self._since_forgotten < _FORGET_INTERVAL and self._count < self._statements_max:
            return
        self._since_forgotten = 0
        self._count -= self._database.execute("DELETE FROM statements WHERE expires_s < ?", (now_s,)).rowcount


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return _connected(path)
    except sqlite3.OperationalError as error:
        raise InvalidRequest(f"cannot use {path}: {error}; see that its disk has room and is writable") from None
    except sqlite3.DatabaseError as error:
        kept = path.with_suffix(".damaged")
        path.replace(kept)
        for part in ("-wal", "-shm"):
            path.with_name(path.name + part).unlink(missing_ok=True)
        _logger.error("%s is damaged (%s) and was put aside as %s: what it knew may be replayed", path, error, kept)
        return _connected(path)


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    path.chmod(0o600)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS statements "
        "(nonce BLOB PRIMARY KEY, expires_s INTEGER NOT NULL, starts INTEGER NOT NULL) WITHOUT ROWID"
    )
    database.execute("CREATE INDEX IF NOT EXISTS statements_expire ON statements (expires_s)")
    return database
