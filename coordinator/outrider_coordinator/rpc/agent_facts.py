"""What agents say, from the wire to facts for the core."""

from __future__ import annotations

from outrider.v1 import agent_service_pb2, task_pb2, worker_message_pb2
from outrider_coordinator.core.events import GivenAnswer, Held, OutboxFacts, Ref, Report, ReportKind, WaitFacts
from outrider_coordinator.core.spec import Claim
from outrider_coordinator.core.states import AttemptState, Reason
from outrider_coordinator.rpc.answers import agrees
from outrider_coordinator.rpc.fields import bounded_us, number, time_us

_COMPLETED = ReportKind.COMPLETED
#: No outbox comes so far; there is room above it for those that count on.
_SEQ_MAX = 1 << 62
#: Makes a NamedTuple of a tuple, without the call and the checks of its `_make`.
_new = tuple.__new__


def ref(message: agent_service_pb2.AttemptRef) -> Ref:
    """Which attempt."""
    return _new(Ref, (message.task_id, message.attempt, number(message.fence)))


def held(message: agent_service_pb2.HeldAttempt) -> Held:
    """An attempt that an agent holds; a state this version does not know counts as started."""
    known = message.state in (2, 3, 4, 5)
    return Held(ref(message.ref), AttemptState(message.state) if known else AttemptState.STARTED)


def outbox(message: agent_service_pb2.OutboxRange) -> OutboxFacts:
    """An outbox on an agent's disk."""
    return OutboxFacts(message.outbox_id, max(1, min(message.first_seq, _SEQ_MAX)), min(message.last_seq, _SEQ_MAX))


def report(message: worker_message_pb2.WorkerMessage) -> Report:
    """One report; an arm that this version does not know gets kind 0."""
    arm = message.WhichOneof("message")
    if arm == "completed":
        return _report(message, _COMPLETED, message.completed.SerializeToString(), start=_start(message))
    if arm == "failed":
        return _failed(message)
    if arm == "started":
        return _report(message, ReportKind.STARTED, message.started.SerializeToString(), terminal=False)
    if arm == "blocked":
        blocked = message.blocked
        wait = _wait(blocked)
        return _report(message, ReportKind.BLOCKED, blocked.SerializeToString(), terminal=False, wait=wait)
    if arm == "unblocked":
        unblocked = message.unblocked
        body = unblocked.SerializeToString()
        return _report(message, ReportKind.UNBLOCKED, body, terminal=False, text=unblocked.key)
    if arm == "taken":
        return _report(message, ReportKind.TAKEN, b"", terminal=False)
    if arm == "progress":
        return _report(message, ReportKind.PROGRESS, message.progress.SerializeToString(), terminal=False)
    if arm == "log":
        return _report(message, ReportKind.LOG, message.log.SerializeToString(), terminal=False)
    if arm == "answer_given":
        return _report(message, ReportKind.ANSWER_GIVEN, b"", terminal=False, given=_given(message.answer_given))
    terminal = message.terminal
    start = _start(message) if terminal else None
    return _report(message, 0, message.SerializeToString(), terminal=terminal, start=start)


def _report(
    message: worker_message_pb2.WorkerMessage,
    kind: int,
    body: bytes,
    *,
    terminal: bool = True,
    text: str = "",
    reason: Reason = Reason.NONE,
    recoverable: bool = False,
    wait: WaitFacts | None = None,
    start: tuple[int, bytes] | None = None,
    given: GivenAnswer | None = None,
) -> Report:
    return _new(
        Report,
        (
            _new(Ref, (message.task_id, message.attempt, number(message.fence))),
            number(message.number),
            time_us(message.event_time),
            kind,
            terminal,
            body,
            text,
            reason,
            recoverable,
            wait,
            start,
            given,
        ),
    )


def _given(message: worker_message_pb2.AnswerGiven) -> GivenAnswer:
    payload = message.answer.SerializeToString()
    return GivenAnswer(message.task_id, message.key, payload, agrees(message.answer))


def _start(message: worker_message_pb2.WorkerMessage) -> tuple[int, bytes] | None:
    """The start that a terminal message carries, None when a Started told it before."""
    if not message.HasField("start"):
        return None
    start = message.start
    return time_us(start.event_time), start.started.SerializeToString()


def _failed(message: worker_message_pb2.WorkerMessage) -> Report:
    error = message.failed.error
    return _report(
        message,
        ReportKind.FAILED,
        error.SerializeToString(),
        text=error.message,
        reason=Reason(error.reason) if error.reason in Reason._value2member_map_ else Reason.TASK_ERROR,
        recoverable=message.failed.recoverable,
        start=_start(message),
    )


def _wait(blocked: task_pb2.BlockedReason) -> WaitFacts:
    kind: str = blocked.WhichOneof("reason") or "clarification"
    claim = None
    if kind == "dependency" and blocked.dependency.HasField("resource"):
        kind, resource = "resource", blocked.dependency.resource
        claim = Claim(resource.key, resource.shared, 1 if resource.shared else resource.units or 1)
    return WaitFacts(
        blocked.key,
        kind,
        blocked.keeps_running,
        blocked.dependency.required_task_id,
        time_us(blocked.external.retry_time) if blocked.external.HasField("retry_time") else 0,
        blocked.external.system,
        claim,
        bounded_us(blocked.complexity.additional_duration),
    )
