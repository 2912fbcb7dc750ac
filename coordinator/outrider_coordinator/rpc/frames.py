"""Pushes of the core as frames of a session: everything that waits leaves in as few frames as possible."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from outrider.v1 import agent_service_pb2 as pb
from outrider.v1 import task_pb2, worker_message_pb2
from outrider_coordinator.core.effects import (
    PushAck,
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


def welcome(
    accepted: SessionAccepted, coordinator_epoch: int, store_id: str, heartbeat_interval_us: int
) -> pb.SessionResponse:
    """The first frame of a session."""
    frame = pb.SessionResponse(session_epoch=accepted.epoch)
    message = frame.welcome
    message.session_epoch, message.coordinator_epoch, message.store_id = accepted.epoch, coordinator_epoch, store_id
    for outbox_id, seq in accepted.applied.items():
        message.applied.add(outbox_id=outbox_id, applied_seq=seq)
    for task_id, attempt, fence, verdict in accepted.verdicts:
        ref = pb.AttemptRef(task_id=task_id, attempt=attempt, fence=fence)
        message.verdicts.add(ref=ref, verdict=pb.Verdict.ValueType(verdict))
    message.heartbeat_interval.CopyFrom(duration(heartbeat_interval_us))
    message.paused = accepted.paused
    return frame


def lease(epoch: int, boottime_ns: int, lease_us: int) -> pb.SessionResponse:
    """Answer to a heartbeat."""
    return pb.SessionResponse(
        session_epoch=epoch, lease=pb.Lease(boottime_ns=boottime_ns, lease_duration=duration(lease_us))
    )


def frames(epoch: int, waiting: Iterable[Outbound]) -> list[pb.SessionResponse]:
    """Frames for pushes, in order; neighbours of one kind share a frame up to 256 KiB."""
    out: list[pb.SessionResponse] = []
    kind: type | None = None
    size = 0
    for send, outcomes in waiting:
        weight = len(getattr(send, "body", b"")) + sum(map(len, outcomes.values())) + 100
        if type(send) is not kind or kind not in _SHARED or size + weight > FRAME_BYTES_MAX:
            out.append(pb.SessionResponse(session_epoch=epoch))
            kind, size = type(send), 0
        size += weight
        _FILL[type(send)](out[-1], send, outcomes)
    return out


def _ref(send: Any) -> pb.AttemptRef:
    return pb.AttemptRef(task_id=send.task_id, attempt=send.attempt, fence=send.fence)


def _assign(frame: pb.SessionResponse, send: PushAssign, outcomes: dict[str, bytes]) -> None:
    assignment = frame.assign.assignments.add(
        ref=_ref(send), prefetched=send.prefetched, namespace=send.namespace, run_id=send.run_id
    )
    assignment.spec.MergeFromString(send.body)
    if send.trace.parent:
        assignment.trace.traceparent, assignment.trace.tracestate = send.trace
    for key, task_id in send.inputs:
        completed = worker_message_pb2.Completed.FromString(outcomes.get(task_id, b""))
        assignment.inputs.add(key=key, task_id=task_id, result=completed.result)


def _cancel(frame: pb.SessionResponse, send: PushCancel, outcomes: dict[str, bytes]) -> None:
    frame.cancel.refs.append(_ref(send))
    frame.cancel.message, frame.cancel.fenced = send.message, send.fenced


def _revoke(frame: pb.SessionResponse, send: PushRevoke, outcomes: dict[str, bytes]) -> None:
    frame.revoke.refs.append(_ref(send))


def _answer(frame: pb.SessionResponse, send: PushAnswer, outcomes: dict[str, bytes]) -> None:
    frame.answer.ref.CopyFrom(_ref(send))
    resolution = frame.answer.resolution
    resolution.MergeFromString(send.resolution)
    resolution.key = send.key
    if send.dependency_state:
        resolution.dependency_state = task_pb2.TaskState.ValueType(send.dependency_state)
        resolution.resolved_by = f"task:{send.dependency_id}"
        completed = worker_message_pb2.Completed.FromString(outcomes.get(send.dependency_id, b""))
        resolution.answer.CopyFrom(completed.result)


def _ack(frame: pb.SessionResponse, send: PushAck, outcomes: dict[str, bytes]) -> None:
    for applied in frame.ack.applied:
        if applied.outbox_id == send.outbox_id:
            applied.applied_seq = send.applied_seq  # cumulative: the last one says it all
            return
    frame.ack.applied.add(outbox_id=send.outbox_id, applied_seq=send.applied_seq)


def _control(frame: pb.SessionResponse, send: PushControl, outcomes: dict[str, bytes]) -> None:
    if send.order == AgentOrder.PAUSE:
        frame.pause.SetInParent()
    elif send.order == AgentOrder.RESUME:
        frame.resume.SetInParent()
    else:
        frame.drain.SetInParent()
        if send.timeout_us:
            frame.drain.timeout.CopyFrom(duration(send.timeout_us))


_FILL: dict[type, Any] = {
    PushAssign: _assign,
    PushCancel: _cancel,
    PushRevoke: _revoke,
    PushAnswer: _answer,
    PushAck: _ack,
    PushControl: _control,
}
#: Kinds whose frame has room for many.
_SHARED = frozenset((PushAssign, PushRevoke, PushAck))
