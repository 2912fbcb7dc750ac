"""Folders of files that need no disk: for tests that make a store for every example and prove nothing about syncing.

Each commit waits for the disk, and so would they, for seconds; in memory they wait for nothing and mean the same.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

#: Linux's folder in memory, and what must be free there: containers may give it very little.
MEMORY, FREE_BYTES_MIN = Path("/dev/shm"), 512 << 20


class MemoryFolders:
    """Makes new folders, in memory where there is room. Use as a context manager: all of them go at its end."""

    def __init__(self) -> None:
        has_room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= FREE_BYTES_MIN
        self._base = tempfile.TemporaryDirectory(prefix="outrider-tests-", dir=MEMORY if has_room else None)
        self._numbers = itertools.count()

    def __enter__(self) -> MemoryFolders:
        return self

    def __exit__(self, *exc: object) -> None:
        self._base.cleanup()

    def make(self) -> Path:
        """A new, empty folder."""
        folder = Path(self._base.name) / str(next(self._numbers))
        folder.mkdir()
        return folder
