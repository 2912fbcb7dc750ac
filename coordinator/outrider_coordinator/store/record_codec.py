"""Rows of a commit as bytes of the journal, and back. Pure.

Neighbours of one kind share a group, in the order given. `FORMAT` changes with the fields of any record: bytes that
another version wrote are refused instead of misread.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec

from outrider_coordinator.core import records

#: The position of a kind of record is its tag.
KINDS: tuple[type, ...] = (
    records.InsertTask,
    records.UpdateTask,
    records.PutAttempt,
    records.PutWait,
    records.PutRun,
    records.InsertRunPart,
    records.PutAgent,
    records.DeleteAgent,
    records.PutBreaker,
    records.DeleteBreaker,
    records.PutOutbox,
    records.PutLimit,
    records.DeleteLimit,
    records.PutSchedule,
    records.DeleteSchedule,
    records.InsertLog,
    records.InsertEvidence,
    records.InsertEvent,
    records.PutEpoch,
)
_TAGS = {kind: tag for tag, kind in enumerate(KINDS)}
_SHAPES = [(kind.__name__, *kind._fields) for kind in KINDS]  # type: ignore[attr-defined]  # NamedTuple classes

FORMAT = f"{zlib.crc32(repr(_SHAPES).encode()):08x}"

_encoder = msgspec.msgpack.Encoder()
_groups = msgspec.msgpack.Decoder(list[tuple[int, msgspec.Raw]])
_DECODERS = tuple(
    msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]  # known at run time
    for kind in KINDS
)


def encode(rows: Sequence[records.Write]) -> bytes:
    """The rows of one commit."""
    return _encoder.encode([(_TAGS[kind], list(group)) for kind, group in groupby(rows, type)])


def decode(data: bytes) -> list[records.Write]:
    """The rows that `encode` was given. Raises `msgspec.DecodeError` or `IndexError` on anything else."""
    rows: list[Any] = []
    for tag, group in _groups.decode(data):
        rows += _DECODERS[tag].decode(group)
    return rows
