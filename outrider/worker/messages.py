"""What the agent's keeper and its worker processes say to each other.

A worker inherits one end of a Unix stream socket pair. Both ways travel frames: a 4-byte little-endian length, then
a MessagePack array of messages (at most `FRAME_BYTES_MAX` bytes). Messages of one sender arrive in order. The end of
the socket means that the other side is gone: a worker then kills what it started and exits at once.

``key`` is the keeper's number for one attempt; it is never 0 and never used again within a keeper process. The worker
also gets a shared memory page (a memfd, `RUNNING_PAGE_BYTES` long) with two little-endian unsigned 64-bit integers.
The first the worker writes: the key of the attempt it is about to run, before any user code, and 0 afterwards. So when
a worker dies, the keeper knows which attempt it died under, even with several queued behind it. The second, at
`LEASE_OFFSET`, the keeper writes: when the lease of exclusive attempts ends, in microseconds of CLOCK_BOOTTIME. So a
worker knows that also while nobody can tell it, and ends an exclusive attempt itself when the keeper does not.

This module knows nothing of gRPC, protobuf or asyncio.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Generic, TypeVar

import msgspec

FRAME_BYTES_MAX = 16 * 1024 * 1024
RUNNING_PAGE_BYTES = 16
LEASE_OFFSET = 8
#: Exit code of a worker that ended with its exclusive attempt because the lease was over.
LEASE_OVER_CODE = 82

_HEADER = struct.Struct("<I")


class FunctionWork(msgspec.Struct, frozen=True, tag="function", array_like=True):
    """Call ``function`` (``module:qualified.name``) with the JSON ``arguments``: ``{"args": [], "kwargs": {}}``.

    ``must_be_own``: it is refused when it was not defined in that module.
    """

    function: str
    arguments: bytes
    inputs_argument: str = ""
    must_be_own: bool = False


class CommandWork(msgspec.Struct, frozen=True, tag="command", array_like=True):
    """Run ``argv`` without a shell. An empty ``working_directory`` means the attempt's scratch directory.

    ``program`` is the file to run; empty: the first word is looked up on the PATH that the command has.
    """

    argv: list[str]
    environment: dict[str, str]
    working_directory: str = ""
    stdin: bytes = b""
    program: str = ""


class Input(msgspec.Struct, frozen=True, array_like=True):
    """Result of one dependency: ``data`` is what its worker returned, encoded as ``content_type``."""

    key: str
    task_id: str
    data: bytes
    content_type: str


class Secret(msgspec.Struct, frozen=True, array_like=True):
    """A secret of one attempt: its value for the environment variable ``variable``, or a descriptor's path there.

    ``name`` is what the agent calls it. Unless ``is_plain`` the value is kept out of everything that the attempt says.
    """

    variable: str
    name: str
    value: bytes
    by_descriptor: bool = False
    is_plain: bool = False

    def __repr__(self) -> str:
        return f"Secret({self.variable!r}, {self.name!r})"  # whatever writes it down must not write the value


# --- keeper to worker ------------------------------------------------------------------------------------------


class Run(msgspec.Struct, frozen=True, tag="run", array_like=True):
    """Run one attempt when everything sent before it has ended. ``environment`` (OUTRIDER_*, trace) is set.

    ``earlier`` are the answers that attempts before it were given, ``expired_waits`` the keys of their waits whose
    time ran out. With ``is_exclusive`` it neither begins nor goes on once the lease is over that the page shows.
    A worker that is given ``secrets`` for a function gets nothing else to run.
    """

    key: int
    work: FunctionWork | CommandWork
    task_id: str
    attempt: int
    inputs: list[Input]
    environment: dict[str, str]
    scratch_directory: str
    traceparent: str = ""
    tracestate: str = ""
    earlier: list[Resolve] = []
    expired_waits: list[str] = []
    is_exclusive: bool = False
    secrets: list[Secret] = []


class Stop(msgspec.Struct, frozen=True, tag="stop", array_like=True):
    """Stop one attempt cooperatively: raise in the function, SIGTERM the command. Killed after ``grace_s``."""

    key: int
    message: str
    grace_s: float


class Recall(msgspec.Struct, frozen=True, tag="recall", array_like=True):
    """Give back these attempts if they have not started; answered by one `Recalled`, possibly empty."""

    keys: list[int]


class Resolve(msgspec.Struct, frozen=True, tag="resolve", array_like=True):
    """A wait of the attempt has ended. ``dependency_state`` is a TaskState number, 0 for other waits.

    ``granted_s`` is running time that was asked for and granted. With ``error_reason``, a TaskReason number, the wait
    ended without what it waited for, as ``error_message`` says.
    """

    key: int
    wait_key: str
    data: bytes
    content_type: str
    dependency_state: int = 0
    resolved_by: str = ""
    granted_s: float = 0.0
    error_reason: int = 0
    error_message: str = ""


class Leave(msgspec.Struct, frozen=True, tag="leave", array_like=True):
    """Exit with code 0 after the running attempt."""


ToWorker = Run | Stop | Recall | Resolve | Leave


# --- worker to keeper ------------------------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag="ready", array_like=True):
    """First message: the worker takes work."""

    pid: int


class Started(msgspec.Struct, frozen=True, tag="started", array_like=True):
    """User code begins. ``child_pid`` is the command's process, 0 for a function. Times are wall clock in ns."""

    key: int
    time_ns: int
    child_pid: int = 0
    traceparent: str = ""


class Progress(msgspec.Struct, frozen=True, tag="progress", array_like=True):
    """How far it is; ``total`` 0 means not known."""

    key: int
    time_ns: int
    completed: float
    total: float
    status: str


class Blocked(msgspec.Struct, frozen=True, tag="blocked", array_like=True):
    """The attempt waits. ``kind`` is dependency, external, complexity or clarification; unused fields stay empty.

    A dependency is a task, or a named limit when ``resource`` is not empty.

    With ``keeps_running`` it goes on meanwhile and keeps its slot.
    """

    key: int
    time_ns: int
    wait_key: str
    kind: str
    context: str = ""
    keeps_running: bool = False
    required_task_id: str = ""
    system: str = ""
    issue: str = ""
    retry_time_ns: int = 0
    additional_s: float = 0.0
    suggested_split: str = ""
    question: str = ""
    options: list[str] = []
    resource: str = ""
    resource_shared: bool = False
    resource_units: int = 1


class Unblocked(msgspec.Struct, frozen=True, tag="unblocked", array_like=True):
    """The attempt goes on after a `Resolve`, or gave up waiting."""

    key: int
    time_ns: int
    wait_key: str


class AnswerGiven(msgspec.Struct, frozen=True, tag="answer", array_like=True):
    """The attempt answers what another task asks; an empty ``wait_key`` means whatever that waits for."""

    key: int
    time_ns: int
    task_id: str
    wait_key: str
    data: bytes
    content_type: str = "application/json"


class LogOutput(msgspec.Struct, frozen=True, tag="log", array_like=True):
    """Captured output, at most 64 KiB. ``stream`` is a Log.Stream number: 1 stdout, 2 stderr, 3 log, 4 agent."""

    key: int
    time_ns: int
    stream: int
    data: bytes


class Completed(msgspec.Struct, frozen=True, tag="completed", array_like=True):
    """Last message of an attempt that succeeded."""

    key: int
    time_ns: int
    data: bytes
    content_type: str = "application/json"
    summary: str = ""
    remaining_issues: list[str] = []


class Failed(msgspec.Struct, frozen=True, tag="failed", array_like=True):
    """Last message of an attempt that failed. ``reason`` is a TaskReason number."""

    key: int
    time_ns: int
    reason: int
    message: str
    recoverable: bool
    exception_type: str = ""
    traceback: str = ""
    exit_code: int | None = None


class Recalled(msgspec.Struct, frozen=True, tag="recalled", array_like=True):
    """Attempts given back: they have not started and will not."""

    keys: list[int]


class Span(msgspec.Struct, frozen=True, tag="span", array_like=True):
    """One finished span of the worker or of user code, for the link to export. Ids are lower-case hexadecimal.

    ``kind`` is an OpenTelemetry SpanKind number (0 internal, 3 producer, 4 consumer); ``error`` empty means OK;
    ``links`` are traceparent values.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int | float | bool]
    error: str = ""
    links: list[str] = []


FromWorker = (
    Ready | Started | Progress | Blocked | Unblocked | AnswerGiven | LogOutput | Completed | Failed | Recalled | Span
)

_encoder = msgspec.msgpack.Encoder()


def encode(messages: Iterable[ToWorker | FromWorker]) -> bytes:
    """One frame with these messages, header included."""
    body = _encoder.encode(messages if isinstance(messages, list | tuple) else list(messages))
    return _HEADER.pack(len(body)) + body


Message = TypeVar("Message")


class FrameReader(Generic[Message]):
    """Collects bytes and gives back the messages of whole frames.

    Make one with `reader_in_worker` or `reader_in_keeper`. `feed` raises `ValueError` on a frame over
    `FRAME_BYTES_MAX` and `msgspec.DecodeError` on one that is not valid; the stream cannot be used after either.
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[list[Message]]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Add bytes as they came and return all messages that are complete now, in order."""
        buffer = self._buffer
        if buffer:
            buffer += data
        messages: list[Message] = []
        with memoryview(buffer or data) as view:
            start, available = 0, len(view)
            while available - start >= _HEADER.size:
                (size,) = _HEADER.unpack_from(view, start)
                if size > FRAME_BYTES_MAX:
                    raise ValueError(f"a frame of {size} bytes is over the limit of {FRAME_BYTES_MAX}")
                end = start + _HEADER.size + size
                if end > available:
                    break
                messages += self._decoder.decode(view[start + _HEADER.size : end])
                start = end
        if buffer:
            del buffer[:start]
        elif start < available:
            buffer += data[start:]
        return messages


def reader_in_worker() -> FrameReader[ToWorker]:
    """What a worker reads its keeper with."""
    return FrameReader(msgspec.msgpack.Decoder(list[ToWorker]))


def reader_in_keeper() -> FrameReader[FromWorker]:
    """What a keeper reads one worker with."""
    return FrameReader(msgspec.msgpack.Decoder(list[FromWorker]))
