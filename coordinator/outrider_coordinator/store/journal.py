"""The journal: batches that are durable before the database holds them.

Two files take turns. A batch is appended to the current one with one write and one ``fdatasync``; `rotate` begins the
other one, which the caller promises to hold nothing that the database does not. Owns the files and their form; must not
know what a batch says.

Form: a record begins at a multiple of `PAGE_BYTES` and is a header (salt, number, length and CRC-32, little-endian)
and the body. Numbers rise by one with every record; each start of a coordinator has a salt of its own, so nothing that
an earlier one left, in this folder or in the one a file was restored from, is ever taken for its own. The files are
zeros at first, so that a sync has no metadata to write. While a coordinator writes them they are only ever made longer;
`Journal.begin`, when nothing in them is needed, cuts them back to `FILE_BYTES`.

Invariants: a record is synced before the next one is written, so that only the last one can be torn; a record that
cannot be read while a later one can was damaged, which is said and never passed over.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FILES = ("coordinator.journal.0", "coordinator.journal.1")
PAGE_BYTES = 4096
#: Length of a new file; a longer one is cut back to it at the next start.
FILE_BYTES = 4 << 20
SALT_BYTES = 8

_HEADER = struct.Struct(f"<{SALT_BYTES}sQII")


class JournalDamaged(Exception):
    """Batches that were durable once cannot be read."""


class Record(NamedTuple):
    """One batch as it is in a file."""

    number: int
    body: bytes


class Journal:
    """Both files of one folder. Every method may raise `OSError`, after which the journal must not be used."""

    def __init__(self, folder: Path) -> None:
        self._paths = [folder / name for name in FILES]
        self._descriptors = [_open(path) for path in self._paths]
        _sync_folder(folder)
        self._salt = bytes(SALT_BYTES)
        self._number = 0
        self._current = 0
        self._end_bytes = 0

    @property
    def size_bytes(self) -> int:
        """How much is in the current file."""
        return self._end_bytes

    def unapplied(self, salt: bytes, applied: int) -> list[Record]:
        """Every record under this salt with a number above ``applied``, in order, none missing.

        Raises `JournalDamaged` when one that was durable cannot be read.
        """
        found: list[Record] = []
        for path in self._paths:
            found += _read(path, salt, applied)
        found.sort()
        for expected, record in enumerate(found, applied + 1):
            if record.number != expected:
                raise JournalDamaged(f"batches {expected} to {record.number - 1} are missing")
        return found

    def begin(self, salt: bytes, applied: int) -> None:
        """Write from now on under this salt, with numbers above ``applied``. Nothing in the files is needed then."""
        self._salt, self._number = salt, applied
        for descriptor in self._descriptors:
            _reset_length(descriptor)
        self._current = self._end_bytes = 0

    def append(self, body: bytes) -> None:
        """Make one batch durable."""
        number = self._number + 1
        crc = zlib.crc32(body, zlib.crc32(_HEADER.pack(self._salt, number, len(body), 0)))
        header = _HEADER.pack(self._salt, number, len(body), crc)
        descriptor = self._descriptors[self._current]
        _write_whole(descriptor, header + body, self._end_bytes)
        os.fdatasync(descriptor)
        self._number = number
        self._end_bytes += _pages(_HEADER.size + len(body))

    def rotate(self) -> int:
        """Go on at the beginning of the other file; returns the number of the last record in this one."""
        self._current = 1 - self._current
        self._end_bytes = 0
        return self._number

    def close(self) -> None:
        """Close the files. Closing again does nothing."""
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.fstat(descriptor).st_size < FILE_BYTES:
        _lengthen(descriptor)
    return descriptor


def _reset_length(descriptor: int) -> None:
    if os.fstat(descriptor).st_size > FILE_BYTES:
        os.ftruncate(descriptor, FILE_BYTES)
        os.fsync(descriptor)


def _lengthen(descriptor: int) -> None:
    """Written zeros: space that is only reserved would still have metadata to sync at its first use."""
    size_bytes = os.fstat(descriptor).st_size
    _write_whole(descriptor, bytes(FILE_BYTES - size_bytes), size_bytes)
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_whole(descriptor: int, data: bytes, offset: int) -> None:
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):
        written += os.pwrite(descriptor, memoryview(data)[written:], offset + written)


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


def _read(path: Path, salt: bytes, applied: int) -> list[Record]:
    data = path.read_bytes()
    records = list(_chain(data, salt))
    last = max(applied, records[-1].number if records else 0)
    end = sum(_pages(_HEADER.size + len(record.body)) for record in records)
    later = _any_later(data, salt, end, last)
    if later is not None:
        raise JournalDamaged(f"{path.name} cannot be read at byte {end}, and batch {later} comes after that")
    return [record for record in records if record.number > applied]


def _chain(data: bytes, salt: bytes) -> Iterator[Record]:
    """Records from the beginning of a file, up to the first that is torn or older than the one before it."""
    offset, previous = 0, None
    while (record := _record_at(data, offset, salt)) is not None:
        if previous is not None and record.number != previous + 1:
            return
        yield record
        previous = record.number
        offset += _pages(_HEADER.size + len(record.body))


def _record_at(data: bytes, offset: int, salt: bytes) -> Record | None:
    if offset + _HEADER.size > len(data):
        return None
    found_salt, number, length, crc = _HEADER.unpack_from(data, offset)
    body = data[offset + _HEADER.size : offset + _HEADER.size + length]
    if found_salt != salt or len(body) < length:
        return None
    is_whole = crc == zlib.crc32(body, zlib.crc32(_HEADER.pack(salt, number, length, 0)))
    return Record(number, body) if is_whole else None


def _any_later(data: bytes, salt: bytes, start: int, last: int) -> int | None:
    """Number of a whole record behind the chain that is newer than all of it, None when there is none."""
    position = data.find(salt, start)
    while position >= 0:
        if position % PAGE_BYTES == 0:
            record = _record_at(data, position, salt)
            if record is not None and record.number > last:
                return record.number
        position = data.find(salt, position + 1)
    return None
