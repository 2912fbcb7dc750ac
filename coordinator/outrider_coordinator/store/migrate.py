"""Numbered migrations, each applied once and remembered with its checksum."""

from __future__ import annotations

import hashlib
from importlib import resources

import apsw

from outrider_coordinator.store.errors import StoreRefused

_TABLE = "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, checksum TEXT NOT NULL) STRICT"


def migrations() -> list[tuple[int, str]]:
    """Number and text of every migration this version knows, in order."""
    folder = resources.files("outrider_coordinator.store") / "migrations"
    files = sorted((item.name, item) for item in folder.iterdir() if item.name.endswith(".sql"))
    return [(int(name[:4]), item.read_text()) for name, item in files]


def migrate(connection: apsw.Connection, path: str) -> None:
    """Bring the file up to this version. Raises StoreRefused for a newer file or one made by another history."""
    connection.execute(_TABLE)
    rows = connection.execute("SELECT number, checksum FROM migrations ORDER BY number").fetchall()
    applied = {int(str(row[0])): row[1] for row in rows}
    known = migrations()
    newest = known[-1][0]
    if applied and max(applied) > newest:
        raise StoreRefused(
            f"{path} was written by a newer version (schema {max(applied)}, this one knows {newest}); upgrade Outrider"
        )
    for number, text in known:
        checksum = hashlib.sha256(text.encode()).hexdigest()
        if number in applied:
            if applied[number] != checksum:
                raise StoreRefused(f"{path}: migration {number} is not the one this version has; restore a backup")
            continue
        with connection:
            connection.execute(text)
            connection.execute("INSERT INTO migrations VALUES (?, ?)", (number, checksum))
