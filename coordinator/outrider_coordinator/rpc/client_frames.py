"""Frames of the streams that clients read, serialized: events as they are committed, and what became of submissions.

Written by hand for the same reason as a session's assignments: every task passes here twice, and an event is little
more than the bytes of its record. A test compares all of it with the generated classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from google.rpc import code_pb2

from outrider import errors
from outrider.v1 import task_service_pb2 as pb
from outrider.wire import block, integer
from outrider_coordinator.core.effects import Accepted
from outrider_coordinator.core.records import InsertEvent
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.states import EventType

#: Event: fields 1 to 10, and the detail that belongs to the type.
_CURSOR, _TYPE, _CREATE_TIME, _TASK_ID, _RUN_ID, _ATTEMPT, _AGENT_ID, _REASON, _TEXT, _NAMESPACE = range(1, 11)
_DETAILS: dict[int, int] = {
    EventType.TASK_STARTED: 11,
    EventType.TASK_PROGRESS: 12,
    EventType.TASK_BLOCKED: 13,
    EventType.TASK_UNBLOCKED: 14,
}
_COMPLETED, _ERROR = 15, 16
_SUCCEEDED = EventType.TASK_SUCCEEDED
#: Timestamp.seconds, .nanos.
_SECONDS, _NANOS = 1, 2
#: WatchResponse.events and WatchRunResponse.events; SubmitStreamResponse.results; what Events and Results repeat.
_EVENTS, _RESULTS, _ITEMS = 1, 1, 1
#: SubmissionResult.request_id, .accepted; SubmitResponse.task_id, .created.
_REQUEST_ID, _ACCEPTED, _ACCEPTED_ID, _CREATED = 1, 2, 1, 2


def caught_up(cursor: int) -> bytes:
    """The frame between history and live: a WatchResponse, and a WatchRunResponse just as well."""
    return pb.WatchResponse(caught_up=pb.CaughtUp(cursor=cursor)).SerializeToString()


def events(records: Iterable[InsertEvent], *, include_results: bool) -> bytes:
    """A frame of events: a WatchResponse, and a WatchRunResponse just as well."""
    return block(_EVENTS, b"".join([block(_ITEMS, event(record, include_results)) for record in records]))


def event(record: InsertEvent, include_results: bool) -> bytes:
    """One entry of the event log, serialized."""
    cursor, kind, time_us, namespace, task_id, run_id, _, attempt, agent_id, reason, text, body, outcome = record
    parts = [integer(_CURSOR, cursor), integer(_TYPE, kind), _time(time_us), block(_TASK_ID, task_id.encode())]
    if run_id:
        parts.append(block(_RUN_ID, run_id.encode()))
    if attempt:
        parts.append(integer(_ATTEMPT, attempt))
    parts.append(_name(_AGENT_ID, agent_id))
    if reason:
        parts.append(integer(_REASON, reason))
    if text:
        parts.append(block(_TEXT, text.encode()))
    parts.append(_name(_NAMESPACE, namespace))
    if body:
        parts.append(block(_DETAILS.get(kind, _ERROR), body))
    if include_results and kind == _SUCCEEDED:
        parts.append(block(_COMPLETED, outcome))
    return b"".join(parts)


@lru_cache(maxsize=64)
def _time(us: int) -> bytes:
    """create_time: events of one step have the same."""
    return block(_CREATE_TIME, integer(_SECONDS, us // SECOND_US) + integer(_NANOS, us % SECOND_US * 1000))


@lru_cache(maxsize=1024)
def _name(field: int, name: str) -> bytes:
    """The name of an agent or a namespace: many events have the same."""
    return block(field, name.encode()) if name else b""


def results(request_ids: Iterable[str], answers: Iterable[Accepted | errors.OutriderError]) -> bytes:
    """A SubmitStreamResponse: what became of the submissions of one frame, in their order."""
    items = [
        block(_ITEMS, _result(request_id, answer)) for request_id, answer in zip(request_ids, answers, strict=True)
    ]
    return block(_RESULTS, b"".join(items))


def _result(request_id: str, answer: Accepted | errors.OutriderError) -> bytes:
    if isinstance(answer, errors.OutriderError):
        code = code_pb2.Code.Value(answer.code)
        refused = pb.SubmissionRefused(code=code, reason=answer.reason, message=answer.message)
        return pb.SubmissionResult(request_id=request_id, refused=refused).SerializeToString()
    task_id = block(_ACCEPTED_ID, answer.id.encode())
    return block(_REQUEST_ID, request_id.encode()) + block(
        _ACCEPTED, task_id + integer(_CREATED, 1) if answer.created else task_id
    )
