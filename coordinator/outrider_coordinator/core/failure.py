"""Failures that the coordinator itself establishes, encoded as a TaskError message.

The core imports no protobuf; the two fields it sets (1: reason, 2: message) are written by hand. Wire format:
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from outrider_coordinator.core.states import Reason


def encode_error(reason: Reason, message: str) -> bytes:
    """A serialized TaskError with this reason and message."""
    text = message.encode()
    return b"\x08" + _varint(int(reason)) + b"\x12" + _varint(len(text)) + text


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
