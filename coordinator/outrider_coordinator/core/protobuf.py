"""The few rules of protobuf's wire format by which the core writes a message itself; it imports no protobuf.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations


def varint(value: int) -> bytes:
    """A non-negative integer in base 128, least significant group first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(field: int, value: int) -> bytes:
    """An integer field; nothing for 0, which is what an absent one means."""
    return varint(field << 3) + varint(value) if value else b""


def block(field: int, body: bytes) -> bytes:
    """A string, bytes or message field."""
    return varint(field << 3 | 2) + varint(len(body)) + body
