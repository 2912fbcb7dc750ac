"""The journal's files: what they give back, and what they refuse to give."""

from __future__ import annotations

import stat
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_coordinator.core import records
from outrider_coordinator.store import journal as journal_module
from outrider_coordinator.store import record_codec
from outrider_coordinator.store.journal import FILES, PAGE_BYTES, Journal, JournalDamaged, Record
from support.store_records import drawn

SALT = b"saltsalt"
KINDS = typing.get_args(records.Write)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal that has begun at batch 1."""
    journal = Journal(tmp_path)
    journal.begin(SALT, 0)
    yield journal
    journal.close()


def flip(folder: Path, position: int) -> None:
    """Change one bit of the first file."""
    path = folder / FILES[0]
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_was_appended_comes_back_in_order(journal: Journal) -> None:
    """Batches of both files come back as one list, without those that are applied."""
    for number in range(1, 6):
        journal.append(b"batch %d" % number)
        if number == 3:
            assert journal.rotate() == 3
    assert journal.unapplied(SALT, 2) == [Record(number, b"batch %d" % number) for number in (3, 4, 5)]


def test_a_file_is_used_again_and_what_was_in_it_is_never_read(journal: Journal) -> None:
    """Behind a short batch in a file lie old ones, whole and readable: they stay what they are, applied."""
    for _ in range(10):
        journal.append(b"old" * 2000)
    journal.rotate()
    journal.append(b"second file")
    journal.rotate()
    journal.append(b"new")
    assert journal.unapplied(SALT, 10) == [Record(11, b"second file"), Record(12, b"new")]


def test_batches_of_another_start_are_never_read(journal: Journal) -> None:
    """A salt is made by every start, so that numbers of another history mean nothing."""
    journal.append(b"one")
    assert journal.unapplied(b"othersal", 0) == []


@pytest.mark.parametrize("position", [0, 10, 30, PAGE_BYTES + 3, PAGE_BYTES + 50])
def test_a_damaged_batch_before_a_whole_one_is_said(journal: Journal, tmp_path: Path, position: int) -> None:
    """One flipped bit in what was acknowledged is an error that names the file, not a shorter journal."""
    for _ in range(3):
        journal.append(b"x" * 100)
    flip(tmp_path, position)
    with pytest.raises(JournalDamaged, match=r"coordinator\.journal\.0 cannot be read at byte .* batch [23] comes"):
        journal.unapplied(SALT, 0)


def test_a_torn_last_batch_is_no_damage(journal: Journal, tmp_path: Path) -> None:
    """The last batch was being written when the power went: nobody was told that it was durable."""
    for _ in range(3):
        journal.append(b"x" * 100)
    flip(tmp_path, 2 * PAGE_BYTES + 60)
    assert [record.number for record in journal.unapplied(SALT, 0)] == [1, 2]


def test_a_journal_that_goes_on_after_the_database_is_refused(journal: Journal) -> None:
    """A database restored from before the journal's first batch would lose what lies between."""
    journal.append(b"one")
    journal.rotate()
    journal.append(b"two")
    journal.rotate()
    journal.append(b"three")
    with pytest.raises(JournalDamaged, match="batches 1 to 1 are missing"):
        journal.unapplied(SALT, 0)


def test_a_file_that_has_grown_is_cut_back_at_the_next_start(journal: Journal, tmp_path: Path) -> None:
    """A flood makes a file longer; it does not keep the space for ever."""
    path = tmp_path / FILES[0]
    assert path.stat().st_size == journal_module.FILE_BYTES
    journal.append(bytes(journal_module.FILE_BYTES))
    assert path.stat().st_size > journal_module.FILE_BYTES
    journal.begin(b"nextsalt", 1)
    assert path.stat().st_size == journal_module.FILE_BYTES


def test_only_the_owner_may_read_the_journal(journal: Journal, tmp_path: Path) -> None:
    """Batches hold what tasks contain."""
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in FILES} == {0o600}


@given(st.lists(st.one_of([drawn(kind) for kind in KINDS]), max_size=8))
def test_rows_come_back_from_bytes_as_they_were(rows: list[records.Write]) -> None:
    """Every kind of row, in any order and number, with anything in its fields."""
    decoded = record_codec.decode(record_codec.encode(rows))
    assert decoded == rows
    assert [type(row) for row in decoded] == [type(row) for row in rows]


def test_every_kind_of_row_has_a_tag() -> None:
    """A kind of row that the journal does not know could not be committed."""
    assert set(KINDS) == set(record_codec.KINDS)
