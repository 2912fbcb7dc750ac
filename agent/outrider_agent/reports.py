"""Turns what a worker says about an attempt into the WorkerMessages of the outbox.

Owns the numbering of an attempt's messages and their encoding. It must not know the outbox, the board or who reads.
Invariants: an attempt's messages are numbered from 1 without gaps; nothing follows a terminal one; nothing overtakes
a start that is held for the end to take along. Of progress that comes faster than it can be stored only the latest is
kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from outrider.v1 import task_pb2, worker_message_pb2
from outrider.wire import BLOCK_KEYS, block, integer
from outrider.worker import messages
from outrider_agent import wire

#: The arms of WorkerMessage.message, in the order of their numbers.
_STARTED, _PROGRESS, _BLOCKED, _UNBLOCKED, _LOG, _COMPLETED, _FAILED, _ANSWER_GIVEN, _TAKEN = BLOCK_KEYS[10:19]


class Taken(msgspec.Struct, frozen=True):
    """The attempt of a task that runs at most once is about to start."""

    key: int
    time_ns: int


class Narrator:
    """Encodes the messages of one attempt, in order."""

    __slots__ = ("_number", "_prefix", "held_back", "held_start", "is_ended", "worker_pid")

    def __init__(self, task_id: str, attempt: int, fence: int, traceparent: str) -> None:
        self._prefix = wire.worker_message_prefix(task_id, attempt, fence, traceparent)
        self._number = 0
        self.worker_pid = 0
        #: Told with the end when that comes first, else before anything else.
        self.held_start: messages.Started | None = None
        self.held_back: messages.Progress | None = None
        self.is_ended = False

    def must_catch_up(self, message: Report) -> bool:
        """True when something that is held back must go before this message: all but a start before the last one."""
        return self.held_back is not None or (self.held_start is not None and type(message) not in _LAST)

    def catch_up(self) -> list[bytes]:
        """Encode the start and the progress that were held back, if any."""
        start, self.held_start = self.held_start, None
        progress, self.held_back = self.held_back, None
        return [self.tell(message) for message in (start, progress) if message is not None]

    def tell(self, message: Report) -> bytes:
        """Encode one message; the last one takes a held start along."""
        kind = type(message)
        assert not self.is_ended, "a message after the terminal one"
        assert self.held_start is None or kind in _LAST, "a message that overtakes the start"
        arm_key, body_of = _ARMS[kind]
        body = wire.started(self.worker_pid) if arm_key is _STARTED else body_of(message)
        self.is_ended = kind in _LAST
        self._number += 1
        start = b""
        if self.held_start is not None:
            start, self.held_start = wire.start(self.held_start.time_ns, wire.started(self.worker_pid)), None
        return wire.worker_message(
            self._prefix, self._number, message.time_ns, arm_key, body, is_terminal=self.is_ended, start=start
        )


def _nothing(message: Any) -> bytes:
    return b""


def _progress(message: messages.Progress) -> bytes:
    body = task_pb2.Progress(completed=message.completed, total=message.total, status=message.status)
    body.update_time.CopyFrom(_timestamp(message.time_ns))
    return body.SerializeToString()


def _blocked(message: messages.Blocked) -> bytes:
    body = task_pb2.BlockedReason(key=message.wait_key, context=message.context, keeps_running=message.keeps_running)
    if message.kind == "dependency":
        _depends(body.dependency, message)
    elif message.kind == "external":
        body.external.system, body.external.issue = message.system, message.issue
        if message.retry_time_ns:
            body.external.retry_time.CopyFrom(_timestamp(message.retry_time_ns))
    elif message.kind == "complexity":
        body.complexity.suggested_split = message.suggested_split
        body.complexity.additional_duration.CopyFrom(_duration(message.additional_s))
    else:
        body.clarification.question = message.question
        body.clarification.options.extend(message.options)
    return body.SerializeToString()


def _depends(body: task_pb2.DependencyWait, message: messages.Blocked) -> None:
    if message.resource:
        body.resource.key, body.resource.shared = message.resource, message.resource_shared
        body.resource.units = message.resource_units
    else:
        body.required_task_id = message.required_task_id


def _answer_given(message: messages.AnswerGiven) -> bytes:
    answer = task_pb2.Payload(data=message.data, content_type=message.content_type)
    body = worker_message_pb2.AnswerGiven(task_id=message.task_id, key=message.wait_key, answer=answer)
    return body.SerializeToString()


def _unblocked(message: messages.Unblocked) -> bytes:
    return worker_message_pb2.Unblocked(key=message.wait_key).SerializeToString()


def _log(message: messages.LogOutput) -> bytes:
    return integer(1, message.stream) + block(2, message.data)


def _completed(message: messages.Completed) -> bytes:
    body = wire.completed_result(message.data, message.content_type)
    if not message.summary and not message.remaining_issues:
        return body
    summary = block(2, message.summary.encode()) if message.summary else b""
    return b"".join((body, summary, *(block(3, issue.encode()) for issue in message.remaining_issues)))


def _failed(message: messages.Failed) -> bytes:
    error = task_pb2.TaskError(
        # An enum of the wire is an int; a number that this version does not name travels all the same.
        reason=message.reason,  # type: ignore[arg-type]  # reason is a TaskReason number, checked by its receiver
        message=message.message,
        exception_type=message.exception_type,
        traceback=message.traceback,
        exit_code=message.exit_code,
    )
    return worker_message_pb2.Failed(error=error, recoverable=message.recoverable).SerializeToString()


def _timestamp(time_ns: int) -> Timestamp:
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


Report = (
    Taken
    | messages.Started
    | messages.Progress
    | messages.Blocked
    | messages.Unblocked
    | messages.AnswerGiven
    | messages.LogOutput
    | messages.Completed
    | messages.Failed
)

_LAST = frozenset((messages.Completed, messages.Failed))
_ARMS: dict[type, tuple[bytes, Callable[[Any], bytes]]] = {
    Taken: (_TAKEN, _nothing),
    messages.Started: (_STARTED, _nothing),
    messages.Progress: (_PROGRESS, _progress),
    messages.Blocked: (_BLOCKED, _blocked),
    messages.Unblocked: (_UNBLOCKED, _unblocked),
    messages.AnswerGiven: (_ANSWER_GIVEN, _answer_given),
    messages.LogOutput: (_LOG, _log),
    messages.Completed: (_COMPLETED, _completed),
    messages.Failed: (_FAILED, _failed),
}
