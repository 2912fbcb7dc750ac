"""The journal under power loss: whatever part of an unsynced write reached the disk, nothing that was synced is lost.

The model keeps beside the real files what a disk is bound to hold: the content at the last sync. A crash makes files
from it and any subset of the pages that were written since, some of them torn.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider_coordinator.store import journal as journal_module
from outrider_coordinator.store.journal import FILES, PAGE_BYTES, Journal, Record

SALT = b"\x01saltsal"
SECTOR_BYTES = 512


class Disk:
    """Stands between the journal and its files: notes what is synced, and can lose the rest."""

    def __init__(self, folder: Path, *, honours_syncs: bool = True) -> None:
        self.folder = folder
        self.synced: dict[str, bytes] = {}
        self._honours_syncs = honours_syncs

    def note(self) -> None:
        """Everything written so far is on the disk."""
        self.synced = {name: (self.folder / name).read_bytes() for name in FILES}

    def fdatasync(self, descriptor: int) -> None:
        """In place of `os.fdatasync`: what this one file holds is on the disk."""
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        if self._honours_syncs:
            self.synced[name] = (self.folder / name).read_bytes()

    def crash(self, chance: random.Random) -> None:
        """Leave of what is not synced any sectors, the others as they were."""
        for name, old in self.synced.items():
            path = self.folder / name
            new = path.read_bytes()
            old = old.ljust(len(new), b"\0")
            parts = range(0, len(new), SECTOR_BYTES)
            left = [(new if chance.random() < 0.5 else old)[part : part + SECTOR_BYTES] for part in parts]
            path.write_bytes(b"".join(left))


def play(seed: int, steps: int, *, honours_syncs: bool = True) -> tuple[list[Record], list[Record], int]:
    """Append, rotate and apply at random, lose power in the middle of an append; what was acknowledged, what is left.

    Returns the records that were synced and not applied, those that recovery finds, and how many were applied.
    """
    chance = random.Random(seed)
    folder = Path(tempfile.mkdtemp())
    disk = Disk(folder, honours_syncs=honours_syncs)
    sync = os.fdatasync
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal_module, "FILE_BYTES", 4 * PAGE_BYTES)
        journal = Journal(folder)
        journal.begin(SALT, 0)
        disk.note()
        patched.setattr(os, "fdatasync", disk.fdatasync)
        acknowledged: list[Record] = []
        applied = applying = 0
        for number in range(1, steps + 1):
            body = chance.randbytes(chance.choice((1, 100, 4000, 4072, 4073, 20_000)))
            if number == steps:
                patched.setattr(os, "fdatasync", lambda descriptor: None)
            journal.append(body)
            if number < steps:
                acknowledged.append(Record(number, body))
            if chance.random() < 0.3:
                # What is in the file that is given up is applied before the next time.
                applied, applying = applying, journal.rotate()
        journal.close()
        disk.crash(chance)
        patched.setattr(os, "fdatasync", sync)
        after = Journal(folder)
        found = after.unapplied(SALT, applied)
        after.close()
    shutil.rmtree(folder)
    return [record for record in acknowledged if record.number > applied], found, steps


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 25))
def test_what_was_synced_is_found_again_after_power_loss(seed: int, steps: int) -> None:
    """Recovery finds every synced batch in order, and at most the one that was being written beside them."""
    acknowledged, found, last = play(seed, steps)
    assert found[: len(acknowledged)] == acknowledged
    assert [record.number for record in found[len(acknowledged) :]] in ([], [last])


def test_a_journal_that_did_not_sync_would_be_caught() -> None:
    """The model has teeth: on a disk where syncs do nothing, acknowledged batches are lost or found to be damaged."""
    outcomes = []
    for seed in range(20):
        try:
            acknowledged, found, _ = play(seed, 20, honours_syncs=False)
            outcomes.append(found[: len(acknowledged)] == acknowledged)
        except journal_module.JournalDamaged:
            outcomes.append(False)
    assert not all(outcomes)
