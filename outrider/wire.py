"""Protobuf by hand, where a message is put together from parts that are encoded already or stay the same.

Owns the encoding rules that hot paths need (varints and length-delimited fields) and nothing else: who puts a message
together knows its field numbers, and a test compares it with the generated classes. Needs no protobuf, keeps no state
but a memory of encoded numbers. Rules: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["BLOCK_KEYS", "INTEGER_KEYS", "block", "integer", "varint"]


def varint(value: int) -> bytes:
    """A non-negative integer in base 128, least significant group first."""
    return _SHORT[value] if value < _SHORT_END else _GROUP[value & 0x7F] + _rest(value >> 7)


def _encode(value: int) -> bytes:
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


@lru_cache(maxsize=4096)
def _rest(value: int) -> bytes:
    """The higher groups of a long integer: fences, cursors and times follow each other and share them."""
    return _encode(value)


#: Keys, lengths and most numbers are short: looking them up saves a third of all encoding.
_SHORT_END = 1 << 12
_SHORT = tuple(_encode(value) for value in range(_SHORT_END))
#: A group that others follow.
_GROUP = tuple(bytes((value | 0x80,)) for value in range(0x80))

#: What stands before an integer, and before a string, bytes or message, by field number.
INTEGER_KEYS = tuple(_encode(field << 3) for field in range(64))
BLOCK_KEYS = tuple(_encode(field << 3 | 2) for field in range(64))


def integer(field: int, value: int) -> bytes:
    """An integer, bool or enum field; field numbers below 64."""
    return INTEGER_KEYS[field] + varint(value)


def block(field: int, body: bytes) -> bytes:
    """A string, bytes or message field; field numbers below 64."""
    return BLOCK_KEYS[field] + varint(len(body)) + body
