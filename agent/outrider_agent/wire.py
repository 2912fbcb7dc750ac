"""Protobuf by hand where a message is put together from parts that are already encoded.

Owns the few encoding rules the hot path needs (varints, length-delimited fields) and the frames built with them. The
field numbers are those of protos/outrider/v1; a test compares every function with the generated classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

#: SessionRequest.session_epoch, SessionRequest.reports, Reports.outbox_id, .first_seq, .messages.
_EPOCH, _REPORTS, _OUTBOX_ID, _FIRST_SEQ, _MESSAGES = 1, 7, 1, 2, 3
#: WorkerMessage.number, .event_time, .start; Start.event_time, .started.
_NUMBER, _EVENT_TIME, _START, _START_TIME, _START_STARTED = 4, 5, 7, 1, 2
#: Timestamp.seconds, .nanos.
_SECONDS, _NANOS = 1, 2


def varint(value: int) -> bytes:
    """A non-negative integer in base 128, least significant group first."""
    return _SHORT[value] if value < _SHORT_END else _long(value)


def _long(value: int) -> bytes:
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


#: Keys, lengths and most numbers are short; looking them up is a third of all encoding saved.
_SHORT_END = 1 << 12
_SHORT = tuple(_long(value) for value in range(_SHORT_END))


def integer(field: int, value: int) -> bytes:
    """An integer field."""
    return varint(field << 3) + varint(value)


def block(field: int, body: bytes) -> bytes:
    """A string, bytes or message field."""
    return varint(field << 3 | 2) + varint(len(body)) + body


def worker_message(
    prefix: bytes, number: int, time_ns: int, arm: int, body: bytes, *, is_terminal: bool, start: bytes = b""
) -> bytes:
    """A WorkerMessage: ``prefix`` has task, attempt, fence and trace; ``arm`` is the oneof's field number.

    ``start`` is what `start` made, on a terminal message that takes the attempt's start along.
    """
    end = b"\x30\x01" if is_terminal else b""
    time = block(_EVENT_TIME, _timestamp(time_ns))
    return b"".join((prefix, integer(_NUMBER, number), time, end, start, block(arm, body)))


def start(time_ns: int, started: bytes) -> bytes:
    """WorkerMessage.start: when user code began, and an encoded Started."""
    return block(_START, block(_START_TIME, _timestamp(time_ns)) + block(_START_STARTED, started))


def _timestamp(time_ns: int) -> bytes:
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return _of_second(seconds) + varint(nanos)


@lru_cache(maxsize=4)
def _of_second(seconds: int) -> bytes:
    """The seconds of a Timestamp and the key of its nanos: the same for every message of that second."""
    return integer(_SECONDS, seconds) + varint(_NANOS << 3)


def reports_frame(epoch: int, outbox_id: str, first_seq: int, messages: Iterable[bytes]) -> bytes:
    """A SessionRequest with Reports around WorkerMessages that are encoded already."""
    parts = [block(_OUTBOX_ID, outbox_id.encode()), integer(_FIRST_SEQ, first_seq)]
    parts += [block(_MESSAGES, message) for message in messages]
    return integer(_EPOCH, epoch) + block(_REPORTS, b"".join(parts))
