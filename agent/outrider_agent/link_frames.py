"""What the keeper and its link say to each other over their socket pair.

A frame is a 4-byte little-endian length of the body, one byte of kind, and the body. Owns that form; knows neither
gRPC nor what the coordinator's frames mean.

Keeper to link: OPEN (`Target`) asks for a stream, once the last one has ended; DATA is one encoded SessionRequest;
URGENT is one that overtakes all DATA that is not yet written; CLOSE half-closes the stream after everything sent, and
cancels it when the coordinator does not end it soon; SPANS is a list of `Span` records to export; WARM (`Target`) asks
for a connection that the next OPEN of the same target will use.
Link to keeper: OPENED; DATA is one encoded SessionResponse; CLOSED (`Closed`) is the last word on a stream; WARMED says
that such a connection stands, or why not (empty when it does).
"""

from __future__ import annotations

import struct
from enum import IntEnum

import msgspec

from outrider.worker.messages import Span

_HEADER = struct.Struct("<IB")


class Kind(IntEnum):
    """The byte after the length."""

    OPEN = 1
    DATA = 2
    CLOSE = 3
    SPANS = 4
    OPENED = 5
    CLOSED = 6
    URGENT = 7
    WARM = 8
    WARMED = 9


class Target(msgspec.Struct, frozen=True):
    """Where to connect; without ``tls_ca`` in plain text, which only a local address allows."""

    address: str
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""


class Closed(msgspec.Struct, frozen=True):
    """How a stream ended: gRPC status name, ErrorInfo reason (often empty), text."""

    code: str
    reason: str
    message: str


def encode(kind: Kind, body: bytes = b"") -> bytes:
    """One frame."""
    return _HEADER.pack(len(body), kind) + body


def encode_target(target: Target, kind: Kind = Kind.OPEN) -> bytes:
    """An OPEN or WARM frame."""
    return encode(kind, msgspec.json.encode(target))


def encode_closed(closed: Closed) -> bytes:
    """A CLOSED frame."""
    return encode(Kind.CLOSED, msgspec.json.encode(closed))


def encode_spans(spans: list[Span]) -> bytes:
    """A SPANS frame."""
    return encode(Kind.SPANS, msgspec.msgpack.encode(spans))


def decode_target(body: bytes) -> Target:
    """The body of OPEN and WARM."""
    return msgspec.json.decode(body, type=Target)


def decode_closed(body: bytes) -> Closed:
    """The body of CLOSED."""
    return msgspec.json.decode(body, type=Closed)


def decode_spans(body: bytes) -> list[Span]:
    """The body of SPANS."""
    return msgspec.msgpack.decode(body, type=list[Span])


class FrameBuffer:
    """Collects bytes and gives back whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Kind, bytes]]:
        """Add bytes as they came; all frames that are complete now, in order."""
        self._buffer += data
        frames: list[tuple[Kind, bytes]] = []
        start = 0
        while len(self._buffer) - start >= _HEADER.size:
            size, kind = _HEADER.unpack_from(self._buffer, start)
            end = start + _HEADER.size + size
            if end > len(self._buffer):
                break
            frames.append((Kind(kind), bytes(memoryview(self._buffer)[start + _HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return frames
