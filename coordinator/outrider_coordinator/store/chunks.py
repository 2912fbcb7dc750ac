"""The event log as it is stored: runs of neighbouring events, each run one row. Pure.

Invariants: a chunk holds events with consecutive cursors, at most `CHUNK_EVENTS_MAX`; so chunks never overlap, and the
one that holds a cursor begins less than `CHUNK_EVENTS_MAX` before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from outrider_coordinator.core.records import InsertEvent

CHUNK_EVENTS_MAX = 256

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[Any, ...]]).decode


class Chunk(NamedTuple):
    """One row of the log."""

    first_cursor: int
    last_cursor: int
    body: bytes


def chunks(events: list[InsertEvent]) -> Iterator[tuple[Chunk, list[InsertEvent]]]:
    """Events in chunks, each with the events it holds. The outcome of a success stays in its task's row."""
    ordered = sorted(events)
    start = 0
    while start < len(ordered):
        held = _neighbours(ordered, start)
        body = _encode([event[1:-1] for event in held])
        yield Chunk(held[0].cursor, held[-1].cursor, body), held
        start += len(held)


def _neighbours(ordered: list[InsertEvent], start: int) -> list[InsertEvent]:
    """Events from ``start`` on with consecutive cursors, as many as a chunk may hold."""
    held = ordered[start : start + CHUNK_EVENTS_MAX]
    first_cursor = held[0].cursor
    if held[-1].cursor - first_cursor == len(held) - 1:
        return held
    return [event for offset, event in enumerate(held) if event.cursor == first_cursor + offset]


def read(first_cursor: int, body: bytes) -> Iterator[InsertEvent]:
    """The events of a chunk, without outcomes."""
    for offset, fields in enumerate(_decode(body)):
        yield InsertEvent._make((first_cursor + offset, *fields, b""))
