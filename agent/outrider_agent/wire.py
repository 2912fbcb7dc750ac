"""Reports and their frames, put together by hand from parts that are already encoded.

Owns the form of what the agent sends for every attempt; the encoding rules are `outrider.wire`'s. The field numbers are
those of protos/outrider/v1; a test compares every function with the generated classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from outrider.wire import BLOCK_KEYS, INTEGER_KEYS, block, integer, varint

#: SessionRequest.session_epoch, SessionRequest.reports, Reports.outbox_id, .first_seq.
_EPOCH, _REPORTS, _OUTBOX_ID, _FIRST_SEQ = 1, 7, 1, 2
#: WorkerMessage.trace, TraceContext.traceparent.
_TRACE, _TRACEPARENT = 30, 1
#: Timestamp.seconds, .nanos; Started.worker_pid; Payload.content_type.
_SECONDS, _NANOS, _WORKER_PID, _CONTENT_TYPE = 1, 2, 1, 2


#: What every report has, put together once: WorkerMessage.task_id, .attempt, .fence, .number, .event_time, .terminal
#: (true) and .start; Start.event_time and .started; Completed.result; Payload.data; Reports.messages.
_TASK_ID_KEY, _ATTEMPT_KEY, _FENCE_KEY, _NUMBER_KEY = BLOCK_KEYS[1], *INTEGER_KEYS[2:5]
_EVENT_TIME_KEY, _TERMINAL, _START_KEY = BLOCK_KEYS[5], integer(6, 1), BLOCK_KEYS[7]
_START_TIME_KEY, _STARTED_KEY, _RESULT_KEY = BLOCK_KEYS[1], BLOCK_KEYS[2], BLOCK_KEYS[1]
_DATA_KEY, _MESSAGES_KEY, _NANOS_KEY = BLOCK_KEYS[1], BLOCK_KEYS[3], INTEGER_KEYS[_NANOS]


def worker_message_prefix(task_id: str, attempt: int, fence: int, traceparent: str) -> bytes:
    """What all WorkerMessages of one attempt have in common."""
    name = task_id.encode()
    trace = block(_TRACE, block(_TRACEPARENT, traceparent.encode())) if traceparent else b""
    return b"".join(
        (_TASK_ID_KEY, varint(len(name)), name, _ATTEMPT_KEY, varint(attempt), _FENCE_KEY, varint(fence), trace)
    )


def worker_message(
    prefix: bytes, number: int, time_ns: int, arm_key: bytes, body: bytes, *, is_terminal: bool, start: bytes = b""
) -> bytes:
    """A WorkerMessage: ``arm_key`` stands before the length of the oneof's field, ``body`` what stands in it.

    ``start`` is what `start` made, on a terminal message that takes the attempt's start along.
    """
    time, end = _timestamp(time_ns), _TERMINAL if is_terminal else b""
    size = varint(len(body))
    return b"".join((prefix, _NUMBER_KEY, varint(number), _EVENT_TIME_KEY, time, end, start, arm_key, size, body))


def start(time_ns: int, started: bytes) -> bytes:
    """WorkerMessage.start: when user code began, and an encoded Started."""
    body = b"".join((_START_TIME_KEY, _timestamp(time_ns), _STARTED_KEY, varint(len(started)), started))
    return _START_KEY + varint(len(body)) + body


@lru_cache(maxsize=256)
def started(worker_pid: int) -> bytes:
    """A Started: the same for everything that a worker runs."""
    return integer(_WORKER_PID, worker_pid)


def completed_result(data: bytes, content_type: str) -> bytes:
    """Completed.result with its Payload."""
    size, kind = varint(len(data)), _content_type(content_type)
    length = len(_DATA_KEY) + len(size) + len(data) + len(kind)
    return b"".join((_RESULT_KEY, varint(length), _DATA_KEY, size, data, kind))


@lru_cache(maxsize=64)
def _content_type(content_type: str) -> bytes:
    """Payload.content_type: one of a few."""
    return block(_CONTENT_TYPE, content_type.encode())


def _timestamp(time_ns: int) -> bytes:
    """A Timestamp after its length."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    if nanos < 1 << 28:
        groups = varint(nanos)
        return _of_second(seconds, len(groups)) + groups
    # Three times of four: five groups, made at once.
    return _of_second(seconds, 5) + bytes(
        (nanos & 127 | 128, nanos >> 7 & 127 | 128, nanos >> 14 & 127 | 128, nanos >> 21 & 127 | 128, nanos >> 28)
    )


@lru_cache(maxsize=8)
def _of_second(seconds: int, nanos_bytes: int) -> bytes:
    """What stands before the nanos of a Timestamp and before that: the same for most messages of that second."""
    body = integer(_SECONDS, seconds) + _NANOS_KEY
    return varint(len(body) + nanos_bytes) + body


def reports_frame(epoch: int, outbox_id: str, first_seq: int, messages: Iterable[bytes]) -> bytes:
    """A SessionRequest with Reports around WorkerMessages that are encoded already."""
    parts = [block(_OUTBOX_ID, outbox_id.encode()), integer(_FIRST_SEQ, first_seq)]
    for message in messages:
        parts += (_MESSAGES_KEY, varint(len(message)), message)
    reports = b"".join(parts)
    return b"".join((integer(_EPOCH, epoch), BLOCK_KEYS[_REPORTS], varint(len(reports)), reports))
