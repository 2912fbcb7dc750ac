"""The stores that the conformance tests run against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from outrider_coordinator.store.sqlite import SqliteStore

#: Opens a store in a folder: a new one, or the one that is there.
OpenStore = Callable[[Path], SqliteStore]

#: One entry for each kind of store.
STORES: dict[str, OpenStore] = {"sqlite": SqliteStore}
