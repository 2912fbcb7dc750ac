"""Pushes of the core as frames of a session, serialized: what waits leaves in as few frames as possible.

Assignments are put together around specs that are encoded already; parsing and building them again was a quarter of
the loop's time per task. Rare pushes use the generated classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import groupby
from typing import Any

from outrider.v1 import agent_service_pb2 as pb
from outrider.v1 import task_pb2, worker_message_pb2
from outrider.wire import block, integer
from outrider_coordinator.core.effects import (
    PushAnswer,
    PushAssign,
    PushCancel,
    PushControl,
    PushRevoke,
    Send,
    SessionAccepted,
)
from outrider_coordinator.core.events import AgentOrder
from outrider_coordinator.rpc.render import duration

FRAME_BYTES_MAX = 256 * 1024
Outbound = tuple[Send, dict[str, bytes]]

#: SessionResponse.session_epoch, and its arms for what shares a frame.
_EPOCH, _ASSIGN, _REVOKE, _ACK = 1, 3, 4, 7
#: What Assign, Revoke and Ack repeat is their field 1.
_ITEMS = 1
#: AttemptRef.task_id, .attempt, .fence.
_TASK_ID, _ATTEMPT, _FENCE = 1, 2, 3
#: Assignment.ref, .spec, .inputs, .trace, .prefetched, .namespace, .run_id, .remaining_duration.
_REF, _SPEC, _INPUTS, _TRACE, _PREFETCHED, _NAMESPACE, _RUN_ID, _REMAINING = 1, 2, 3, 4, 5, 6, 7, 8
#: Assignment.earlier_answers, .expired_waits.
_EARLIER_ANSWERS, _EXPIRED_WAITS = 9, 10
#: OutboxApplied.outbox_id, .applied_seq.
_OUTBOX_ID, _APPLIED_SEQ = 1, 2


def welcome(accepted: SessionAccepted, coordinator_epoch: int, store_id: str, lease_us: int) -> bytes:
    """The first frame of a session."""
    frame = pb.SessionResponse(session_epoch=accepted.epoch)
    message = frame.welcome
    message.session_epoch, message.coordinator_epoch, message.store_id = accepted.epoch, coordinator_epoch, store_id
    for outbox_id, seq in accepted.applied.items():
        message.applied.add(outbox_id=outbox_id, applied_seq=seq)
    for task_id, attempt, fence, verdict in accepted.verdicts:
        ref = pb.AttemptRef(task_id=task_id, attempt=attempt, fence=fence)
        message.verdicts.add(ref=ref, verdict=pb.Verdict.ValueType(verdict))
    message.heartbeat_interval.CopyFrom(duration(accepted.heartbeat_us))
    message.lease_duration.CopyFrom(duration(lease_us))
    message.paused = accepted.paused
    return frame.SerializeToString()


def lease(epoch: int, boottime_ns: int, lease_us: int) -> bytes:
    """Answer to a heartbeat."""
    message = pb.Lease(boottime_ns=boottime_ns, lease_duration=duration(lease_us))
    return pb.SessionResponse(session_epoch=epoch, lease=message).SerializeToString()


def frames(epoch: int, waiting: Iterable[Outbound], applied: Mapping[str, int]) -> list[bytes]:
    """Frames for pushes, in order; neighbours of one kind share a frame up to 256 KiB.

    ``applied`` says how far each outbox is to be acknowledged. That goes last: it holds from its commit on, and between
    the pushes it would part the assignments of one step from those of the next.
    """
    head = integer(_EPOCH, epoch)
    out: list[bytes] = []
    for kind, outbound in groupby(waiting, _kind):
        if kind is PushAssign:
            out.extend(_packed(head, _ASSIGN, [_assignment(send, outcomes) for send, outcomes in outbound]))
        elif kind is PushRevoke:
            out.extend(_packed(head, _REVOKE, [block(_ITEMS, _ref(send)) for send, _ in outbound]))
        else:
            out.extend(head + _ALONE[kind](send, outcomes).SerializeToString() for send, outcomes in outbound)
    if applied:
        out.extend(_packed(head, _ACK, [_applied(outbox_id, seq) for outbox_id, seq in applied.items()]))
    return out


def _kind(outbound: Outbound) -> type:
    return type(outbound[0])


def _packed(head: bytes, arm: int, items: list[bytes]) -> Iterator[bytes]:
    """Frames around encoded items: as many in each as fit, at least one."""
    start = size = 0
    for position, item in enumerate(items):
        if size + len(item) > FRAME_BYTES_MAX and position > start:
            yield head + block(arm, b"".join(items[start:position]))
            start, size = position, 0
        size += len(item)
    yield head + block(arm, b"".join(items[start:]))


def _ref(send: Any) -> bytes:
    return block(_TASK_ID, send.task_id.encode()) + integer(_ATTEMPT, send.attempt) + integer(_FENCE, send.fence)


def _assignment(send: Any, outcomes: dict[str, bytes]) -> bytes:
    _, _, task_id, attempt, fence, body, inputs, prefetched, namespace, run_id, trace, *_ = send
    ref = block(_TASK_ID, task_id.encode()) + integer(_ATTEMPT, attempt) + integer(_FENCE, fence)
    parts = [block(_REF, ref), block(_SPEC, body)]
    for key, task_id in inputs:
        completed = worker_message_pb2.Completed.FromString(outcomes.get(task_id, b""))
        given = pb.TaskInput(key=key, task_id=task_id, result=completed.result)
        parts.append(block(_INPUTS, given.SerializeToString()))
    if trace[0]:
        context = task_pb2.TraceContext(traceparent=trace.parent, tracestate=trace.state)
        parts.append(block(_TRACE, context.SerializeToString()))
    if send.remaining_us:
        parts.append(block(_REMAINING, duration(send.remaining_us).SerializeToString()))
    if send.carried is not None:
        parts += [block(_EARLIER_ANSWERS, resolution) for resolution in send.carried.answers]
        parts += [block(_EXPIRED_WAITS, reason) for reason in send.carried.expired]
    parts.append(_placed(prefetched, namespace, run_id))
    return block(_ITEMS, b"".join(parts))


@lru_cache(maxsize=1024)
def _placed(prefetched: bool, namespace: str, run_id: str) -> bytes:
    """The end of an assignment, the same for many."""
    prefetch = integer(_PREFETCHED, 1) if prefetched else b""
    space = block(_NAMESPACE, namespace.encode()) if namespace else b""
    return prefetch + space + (block(_RUN_ID, run_id.encode()) if run_id else b"")


def _applied(outbox_id: str, seq: int) -> bytes:
    return block(_ITEMS, block(_OUTBOX_ID, outbox_id.encode()) + integer(_APPLIED_SEQ, seq))


def _message_ref(send: Any) -> pb.AttemptRef:
    return pb.AttemptRef(task_id=send.task_id, attempt=send.attempt, fence=send.fence)


def _cancel(send: PushCancel, outcomes: dict[str, bytes]) -> pb.SessionResponse:
    cancel = pb.Cancel(
        refs=[_message_ref(send)],
        message=send.message,
        fenced=send.fenced,
        reason=task_pb2.TaskReason.ValueType(send.reason),
    )
    return pb.SessionResponse(cancel=cancel)


def _answer(send: PushAnswer, outcomes: dict[str, bytes]) -> pb.SessionResponse:
    resolution = task_pb2.Resolution.FromString(send.resolution)
    resolution.key = send.key
    if send.dependency_state:
        resolution.dependency_state = task_pb2.TaskState.ValueType(send.dependency_state)
        resolution.resolved_by = f"task:{send.dependency_id}"
        completed = worker_message_pb2.Completed.FromString(outcomes.get(send.dependency_id, b""))
        resolution.answer.CopyFrom(completed.result)
    return pb.SessionResponse(answer=pb.Answer(ref=_message_ref(send), resolution=resolution))


def _control(send: PushControl, outcomes: dict[str, bytes]) -> pb.SessionResponse:
    if send.order == AgentOrder.PAUSE:
        return pb.SessionResponse(pause=pb.Pause())
    if send.order == AgentOrder.RESUME:
        return pb.SessionResponse(resume=pb.Resume())
    timeout = duration(send.timeout_us) if send.timeout_us else None
    return pb.SessionResponse(drain=pb.Drain(timeout=timeout))


#: Kinds that have a frame to themselves.
_ALONE: dict[type, Callable[[Any, dict[str, bytes]], pb.SessionResponse]] = {
    PushCancel: _cancel,
    PushAnswer: _answer,
    PushControl: _control,
}


def renew_certificate(epoch: int) -> bytes:
    """The order to get a new certificate."""
    return pb.SessionResponse(session_epoch=epoch, renew_certificate=pb.RenewCertificate()).SerializeToString()
