"""The agent's frames other than Reports, encoded; and what it needs of the coordinator's, in its own terms.

Owns the translation between the wire's messages and the agent's; decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration

from outrider.v1 import agent_service_pb2 as wire
from outrider.v1 import task_pb2
from outrider.worker import messages
from outrider_agent.core.board import State
from outrider_agent.host import Load
from outrider_agent.vault import Offer

Ref = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Identity:
    """What Hello says about the agent and never changes while the keeper lives."""

    name: str
    machine_id: str
    boot_id: str
    instance_id: str
    instance_start_ms: int
    version: str
    host: str
    slots: int
    prefetch_credit: int
    parked_max: int
    labels: dict[str, str] = field(default_factory=dict)
    #: The keeper that was welcomed before this one in the same folder; empty unless all that it ran is surely dead.
    previous_instance_id: str = ""
    resources: dict[str, float] = field(default_factory=dict)
    task_types: tuple[str, ...] = ()
    runners: tuple[str, ...] = ()
    secrets: tuple[Offer, ...] = ()


def hello(
    identity: Identity,
    store_id: str,
    coordinator_epoch: int,
    held: Iterable[tuple[Ref, State]],
    outboxes: Iterable[tuple[str, int, int]],
    boot_us: int,
) -> bytes:
    """The first frame of a session; ``outboxes`` are (id, first seq held, last seq written), ``boot_us`` is now."""
    message = wire.Hello(
        agent_id=identity.name,
        machine_id=identity.machine_id,
        boot_id=identity.boot_id,
        instance_id=identity.instance_id,
        instance_start_ms=identity.instance_start_ms,
        previous_instance_id=identity.previous_instance_id,
        version=identity.version,
        labels=identity.labels,
        resources=identity.resources,
        task_types=identity.task_types,
        runners=identity.runners,
        slots=identity.slots,
        prefetch_credit=identity.prefetch_credit,
        parked_max=identity.parked_max,
        host=identity.host,
        store_id=store_id,
        coordinator_epoch=coordinator_epoch,
        boottime_ns=boot_us * 1000,
    )
    for offer in identity.secrets:
        message.secrets.add(name=offer.name, namespaces=offer.namespaces, work=offer.work)
    for ref, state in held:
        # The board's states carry the wire's numbers.
        message.held.add(ref=to_ref(ref), state=task_pb2.AttemptState.Name(state))  # type: ignore[arg-type]  # by number
    for outbox_id, first_seq, last_seq in outboxes:
        message.outboxes.add(outbox_id=outbox_id, first_seq=first_seq, last_seq=last_seq)
    return wire.SessionRequest(hello=message).SerializeToString()


def accepted(epoch: int, refs: Iterable[Ref]) -> bytes:
    """These will be started."""
    frame = wire.Accepted(refs=map(to_ref, refs))
    return wire.SessionRequest(session_epoch=epoch, accepted=frame).SerializeToString()


def rejected(epoch: int, refs: Iterable[Ref], message: str, *, by_policy: bool = False) -> bytes:
    """These will not be run, ``by_policy`` never."""
    frame = wire.Rejected(refs=map(to_ref, refs), message=message)
    if by_policy:
        frame.reason = task_pb2.TASK_REASON_REFUSED_BY_POLICY
    return wire.SessionRequest(session_epoch=epoch, rejected=frame).SerializeToString()


def revoked(epoch: int, refs: Iterable[Ref]) -> bytes:
    """These were taken back unstarted."""
    frame = wire.Revoked(refs=map(to_ref, refs))
    return wire.SessionRequest(session_epoch=epoch, revoked=frame).SerializeToString()


def heartbeat(
    epoch: int,
    boot_us: int,
    free_slots: int,
    load: Load,
    workers: Iterable[wire.WorkerInfo],
    pending: int,
    *,
    is_leaving: bool = False,
) -> bytes:
    """Alive, and how busy."""
    frame = wire.Heartbeat(
        boottime_ns=boot_us * 1000,
        free_slots=free_slots,
        load_average=load.load_average,
        cpu_fraction=load.cpu_fraction,
        memory_fraction=load.memory_fraction,
        workers=workers,
        outbox_pending=pending,
        leaving=is_leaving,
    )
    return wire.SessionRequest(session_epoch=epoch, heartbeat=frame).SerializeToString()


def goodbye(epoch: int, message: str) -> bytes:
    """The agent leaves."""
    frame = wire.Goodbye(message=message)
    return wire.SessionRequest(session_epoch=epoch, goodbye=frame).SerializeToString()


def to_ref(ref: Ref) -> wire.AttemptRef:
    """Task id, attempt number, fence."""
    return wire.AttemptRef(task_id=ref[0], attempt=ref[1], fence=ref[2])


def from_ref(ref: wire.AttemptRef) -> Ref:
    """Task id, attempt number, fence."""
    return ref.task_id, ref.attempt, ref.fence


def from_resolution(resolution: task_pb2.Resolution) -> messages.Resolve:
    """A resolution as a worker gets it, the key of the attempt still missing."""
    return messages.Resolve(
        key=0,
        wait_key=resolution.key,
        data=resolution.answer.data,
        content_type=resolution.answer.content_type,
        dependency_state=resolution.dependency_state,
        resolved_by=resolution.resolved_by,
        granted_s=seconds(resolution.granted_duration),
        error_reason=resolution.error.reason,
        error_message=resolution.error.message,
    )


def seconds(duration: Duration) -> float:
    """A duration as seconds."""
    return duration.ToNanoseconds() / 1e9
