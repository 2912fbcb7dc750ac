"""Turns what a worker says about an attempt into the WorkerMessages of the outbox.

Owns the numbering of an attempt's messages and their encoding. It must not know the outbox, the board or who reads.
Invariants: an attempt's messages are numbered from 1 without gaps; nothing follows a terminal one; nothing overtakes
a start that is held for the end to take along. Of progress that comes faster than it can be stored only the latest is
kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from outrider.v1 import task_pb2, worker_message_pb2
from outrider.worker import messages
from outrider_agent import wire

_STARTED, _PROGRESS, _BLOCKED, _UNBLOCKED, _LOG, _COMPLETED, _FAILED = range(10, 17)


class Narrator:
    """Encodes the messages of one attempt, in order."""

    __slots__ = ("_number", "_prefix", "held_back", "held_start", "is_ended", "worker_pid")

    def __init__(self, task_id: str, attempt: int, fence: int, traceparent: str) -> None:
        prefix = worker_message_pb2.WorkerMessage(task_id=task_id, attempt=attempt, fence=fence)
        if traceparent:
            prefix.trace.traceparent = traceparent
        self._prefix = prefix.SerializeToString()
        self._number = 0
        self.worker_pid = 0
        #: Told with the end when that comes first, else before anything else.
        self.held_start: messages.Started | None = None
        self.held_back: messages.Progress | None = None
        self.is_ended = False

    def tell(self, message: Report) -> list[bytes]:
        """Encode one message, after what was held back before it; a held start becomes part of the last message."""
        is_last = isinstance(message, messages.Completed | messages.Failed)
        encoded = [] if is_last and self.held_back is None else self.catch_up()
        encoded.append(self._encode(message))
        return encoded

    def catch_up(self) -> list[bytes]:
        """Encode the start and the progress that were held back, if any."""
        start, self.held_start = self.held_start, None
        progress, self.held_back = self.held_back, None
        return [self._encode(message) for message in (start, progress) if message is not None]

    def _encode(self, message: Report) -> bytes:
        assert not self.is_ended, "a message after the terminal one"
        arm, body_of = _ARMS[type(message)]
        body = self._started() if arm == _STARTED else body_of(message)
        self.is_ended = arm >= _COMPLETED
        self._number += 1
        return wire.worker_message(
            self._prefix, self._number, message.time_ns, arm, body, is_terminal=self.is_ended, start=self._start()
        )

    def _start(self) -> bytes:
        """The start that this message takes along, if it is still held."""
        start, self.held_start = self.held_start, None
        return b"" if start is None else wire.start(start.time_ns, self._started())

    def _started(self) -> bytes:
        return wire.integer(1, self.worker_pid)


def _nothing(message: Any) -> bytes:
    return b""


def _progress(message: messages.Progress) -> bytes:
    body = task_pb2.Progress(completed=message.completed, total=message.total, status=message.status)
    body.update_time.CopyFrom(_timestamp(message.time_ns))
    return body.SerializeToString()


def _blocked(message: messages.Blocked) -> bytes:
    body = task_pb2.BlockedReason(key=message.wait_key, context=message.context, keeps_running=message.keeps_running)
    if message.kind == "dependency":
        body.dependency.required_task_id = message.required_task_id
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


def _unblocked(message: messages.Unblocked) -> bytes:
    return worker_message_pb2.Unblocked(key=message.wait_key).SerializeToString()


def _log(message: messages.LogOutput) -> bytes:
    return wire.integer(1, message.stream) + wire.block(2, message.data)


def _completed(message: messages.Completed) -> bytes:
    payload = wire.block(1, message.data) + wire.block(2, message.content_type.encode())
    summary = wire.block(2, message.summary.encode()) if message.summary else b""
    remaining = (wire.block(3, issue.encode()) for issue in message.remaining_issues)
    return b"".join((wire.block(1, payload), summary, *remaining))


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
    messages.Started
    | messages.Progress
    | messages.Blocked
    | messages.Unblocked
    | messages.LogOutput
    | messages.Completed
    | messages.Failed
)

_ARMS: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    messages.Started: (_STARTED, _nothing),
    messages.Progress: (_PROGRESS, _progress),
    messages.Blocked: (_BLOCKED, _blocked),
    messages.Unblocked: (_UNBLOCKED, _unblocked),
    messages.LogOutput: (_LOG, _log),
    messages.Completed: (_COMPLETED, _completed),
    messages.Failed: (_FAILED, _failed),
}
