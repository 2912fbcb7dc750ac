"""Every test here runs against every store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider_coordinator.store.sqlite import SqliteStore
from support.stores import STORES, OpenStore


@pytest.fixture(params=list(STORES.values()), ids=list(STORES))
def open_store(request: pytest.FixtureRequest) -> Iterator[OpenStore]:
    """Opens a store of one kind; all of them are closed afterwards, if a test has not done so."""
    with contextlib.ExitStack() as opened:

        def open_in(folder: Path) -> SqliteStore:
            store: SqliteStore = request.param(folder)
            opened.callback(store.close)
            return store

        yield open_in


@pytest.fixture
def store(open_store: OpenStore, tmp_path: Path) -> SqliteStore:
    """A new store."""
    return open_store(tmp_path / "state")
