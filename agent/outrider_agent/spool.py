"""Outboxes as files: numbered records in segments, found again after a crash.

Owns the format and the reading. A segment is ``<outbox id>.<first seq, 20 digits>.log``: an 8-byte mark, then records
of a 16-byte header (little-endian: payload length, CRC-32 of seq and payload, seq) and the payload. It must not know
what a payload means, nor who writes when.

Invariant: a reader stops at the first record that is torn, altered or out of sequence; what stands before it is whole.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MARK = b"OUTBOX1\n"
_HEADER = struct.Struct("<IIQ")
_SEQ = struct.Struct("<Q")


def encode_records(first_seq: int, payloads: Iterable[bytes]) -> bytes:
    """Records one after the other, headers included, counted from ``first_seq``."""
    parts: list[bytes] = []
    for seq, payload in enumerate(payloads, first_seq):
        parts += (_HEADER.pack(len(payload), zlib.crc32(payload, zlib.crc32(_SEQ.pack(seq))), seq), payload)
    return b"".join(parts)


def decode_records(data: bytes, first_seq: int) -> tuple[list[bytes], int]:
    """Payloads of the whole records in a segment's bytes, in order, and the number of bytes they take up."""
    payloads: list[bytes] = []
    if not data.startswith(MARK):
        return payloads, 0
    position = len(MARK)
    while position + _HEADER.size <= len(data):
        size, checksum, seq = _HEADER.unpack_from(data, position)
        payload = data[position + _HEADER.size : position + _HEADER.size + size]
        whole = len(payload) == size and seq == first_seq + len(payloads)
        if not whole or zlib.crc32(payload, zlib.crc32(_SEQ.pack(seq))) != checksum:
            break
        payloads.append(payload)
        position += _HEADER.size + size
    return payloads, position


@dataclass(slots=True, eq=False)
class Segment:
    """One file of an outbox; ``last_seq`` is ``first_seq - 1`` while it is empty."""

    path: Path
    first_seq: int
    last_seq: int
    size_bytes: int


@dataclass(slots=True, eq=False)
class Segments:
    """The files of one outbox in order; reads records back and drops what is acknowledged."""

    outbox_id: str
    segments: list[Segment] = field(default_factory=list)
    _cached: tuple[Path, int, list[bytes]] | None = None

    @property
    def first_seq(self) -> int:
        """Lowest seq on disk; 1 when there is no file."""
        return self.segments[0].first_seq if self.segments else 1

    @property
    def last_seq(self) -> int:
        """Highest seq on disk; 0 when there is none."""
        return self.segments[-1].last_seq if self.segments else 0

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(segment.size_bytes for segment in self.segments)

    def read(self, seq: int, count_max: int) -> list[bytes]:
        """Payloads from ``seq`` on, in order, from one segment; empty when it is not on disk."""
        segment = next((one for one in self.segments if one.first_seq <= seq <= one.last_seq), None)
        if segment is None:
            return []
        start = seq - segment.first_seq
        return self._payloads(segment)[start : start + count_max]

    def drop_through(self, seq: int, *, keep_last: bool) -> None:
        """Delete the files all of whose records are at or below ``seq``; ``keep_last`` spares the one written to."""
        spared = 1 if keep_last else 0
        while len(self.segments) > spared and self.segments[0].last_seq <= seq:
            self.segments.pop(0).path.unlink(missing_ok=True)

    def _payloads(self, segment: Segment) -> list[bytes]:
        if self._cached is None or self._cached[:2] != (segment.path, segment.size_bytes):
            payloads, _ = decode_records(segment.path.read_bytes()[: segment.size_bytes], segment.first_seq)
            self._cached = (segment.path, segment.size_bytes, payloads)
        return self._cached[2]


@dataclass(frozen=True, slots=True)
class Damage:
    """A segment that does not end where it should: after ``whole_bytes`` of ``size_bytes`` comes nothing readable."""

    path: Path
    whole_bytes: int
    size_bytes: int


def find(directory: Path) -> tuple[list[Segments], list[Damage]]:
    """All outboxes in ``directory``, in order of their ids, and what was found damaged.

    After damage the rest of that outbox is left out: its numbers would have a gap.
    """
    outboxes: dict[str, Segments] = {}
    damages: list[Damage] = []
    broken: set[str] = set()
    for path in sorted(directory.glob("*.*.log")):
        outbox_id, first, _ = path.name.rsplit(".", 2)
        outbox = outboxes.setdefault(outbox_id, Segments(outbox_id))
        if outbox_id in broken or not first.isdigit() or (outbox.segments and int(first) != outbox.last_seq + 1):
            broken.add(outbox_id)
            continue
        data = path.read_bytes()
        payloads, whole_bytes = decode_records(data, int(first))
        outbox.segments.append(Segment(path, int(first), int(first) + len(payloads) - 1, whole_bytes))
        if whole_bytes != len(data):
            damages.append(Damage(path, whole_bytes, len(data)))
            broken.add(outbox_id)
    return list(outboxes.values()), damages


def create(directory: Path, outbox_id: str, first_seq: int) -> tuple[Segment, int]:
    """Make an empty segment, durable with its name; returns it and a descriptor that appends durably."""
    path = directory / f"{outbox_id}.{first_seq:020d}.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_DSYNC | os.O_CLOEXEC, 0o600)
    write_whole(descriptor, MARK)
    sync_directory(directory)
    return Segment(path, first_seq, first_seq - 1, len(MARK)), descriptor


def write_whole(descriptor: int, data: bytes) -> int:
    """Write all of it, however often the kernel takes only a piece; returns the number of bytes."""
    view, position = memoryview(data), 0
    while position < len(view):
        position += os.write(descriptor, view[position:])
    return position


def sync_directory(directory: Path) -> None:
    """Make names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
