"""From the wire to facts: every field of a request checked here, with its path in the error."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from outrider.errors import FieldViolation, InvalidRequest, TooLarge
from outrider.v1 import agent_service_pb2, run_service_pb2, task_pb2, task_service_pb2, worker_message_pb2
from outrider_coordinator.core.events import (
    Held,
    OutboxFacts,
    Ref,
    Report,
    ReportKind,
    RunMember,
    Submission,
    WaitFacts,
)
from outrider_coordinator.core.model import SECOND_US, AttemptState, Constraint, Operator, Reason, Spec, Trace
from outrider_coordinator.core.records import InsertTask
from outrider_coordinator.rpc.ids import IdMaker

PRIORITY_DEFAULT = 5
DEPENDENCIES_MAX = 10_000
TITLE_CHARACTERS_MAX = 200
_GRACE_US = {True: 5 * SECOND_US, False: 120 * SECOND_US}


def invalid(field: str, description: str) -> InvalidRequest:
    """An InvalidRequest that names one field."""
    return InvalidRequest(f"{field}: {description}", violations=(FieldViolation(field, description),))


def duration_us(duration: Duration, field: str) -> int:
    """Microseconds; refuses a negative duration."""
    us = duration.seconds * SECOND_US + duration.nanos // 1000
    if us < 0:
        raise invalid(field, "must not be negative")
    return us


def time_us(timestamp: Timestamp) -> int:
    """Microseconds since the Unix epoch."""
    return timestamp.seconds * SECOND_US + timestamp.nanos // 1000


@dataclass(frozen=True, slots=True)
class Converter:
    """Turns requests into facts for the core. ``payload_bytes_max`` bounds arguments and standard input."""

    ids: IdMaker
    payload_bytes_max: int

    def submission(self, request: task_service_pb2.SubmitRequest, path: str = "") -> Submission:
        """One task to accept. Raises InvalidRequest or TooLarge with the field's path below ``path``."""
        if len(request.request_id) > 64:
            raise invalid(f"{path}request_id", "is longer than 64 characters")
        dependency_ids = tuple(dict.fromkeys(request.dependency_ids))
        if len(dependency_ids) > DEPENDENCIES_MAX:
            raise invalid(f"{path}dependency_ids", f"more than {DEPENDENCIES_MAX}")
        spec = self.spec(request.spec, f"{path}spec")
        digest = hashlib.blake2b(spec.body, digest_size=16)
        digest.update("".join(dependency_ids).encode())
        return Submission(
            self.ids.next(),
            request.namespace or "default",
            spec,
            request.request_id,
            digest.digest(),
            request.client_id,
            Trace(request.trace.traceparent, request.trace.tracestate),
            dependency_ids,
        )

    def members(self, run: run_service_pb2.RunSpec) -> list[RunMember]:
        """The tasks of a graph."""
        if not run.tasks:
            raise invalid("run.tasks", "a run needs at least one task")
        if len(run.tasks) > 10_000:
            raise TooLarge("run.tasks: more than 10,000 tasks in one run; submit several runs")
        members = []
        for position, task in enumerate(run.tasks):
            path = f"run.tasks[{position}]"
            if not 1 <= len(task.key) <= 128:
                raise invalid(f"{path}.key", "must have 1 to 128 characters")
            spec = self.spec(task.spec, f"{path}.spec")
            members.append(RunMember(self.ids.next(), task.key, spec, tuple(dict.fromkeys(task.after_keys))))
        return members

    def spec(self, spec: task_pb2.TaskSpec, path: str) -> Spec:
        """The scheduling facts of a TaskSpec, checked."""
        self._check_work(spec, path)
        _check_policy(spec, path)
        return read_spec(spec, spec.SerializeToString(deterministic=True), path)

    def _check_work(self, spec: task_pb2.TaskSpec, path: str) -> None:
        work = spec.WhichOneof("work")
        if work is None:
            raise invalid(path, "set `function` or `command`: there is nothing to run")
        if work == "function":
            module, colon, name = spec.function.function.partition(":")
            if not (module and colon and name):
                raise invalid(f"{path}.function.function", f"{spec.function.function!r} is not MODULE:NAME")
            self._check_size(len(spec.function.arguments.data), f"{path}.function.arguments")
        elif not spec.command.argv or not spec.command.argv[0]:
            raise invalid(f"{path}.command.argv", "needs at least a program")
        else:
            self._check_size(len(spec.command.stdin), f"{path}.command.stdin")

    def _check_size(self, size: int, path: str) -> None:
        if size > self.payload_bytes_max:
            raise TooLarge(
                f"{path}: {size} bytes are over the limit of {self.payload_bytes_max}; "
                "put the data in a file or object store and pass its name"
            )


def _check_policy(spec: task_pb2.TaskSpec, path: str) -> None:
    if spec.HasField("priority") and spec.priority > 10:
        raise invalid(f"{path}.priority", "must be 0 to 10 (LOW 2, NORMAL 5, HIGH 7, CRITICAL 10)")
    if len(spec.constraints) > 32:
        raise invalid(f"{path}.constraints", "more than 32")
    for position, constraint in enumerate(spec.constraints):
        _check_constraint(constraint, f"{path}.constraints[{position}]")
    if spec.retry.max_attempts > 1000:
        raise invalid(f"{path}.retry.max_attempts", "more than 1000")
    if spec.retry.multiplier < 0:
        raise invalid(f"{path}.retry.multiplier", "must not be negative")
    if spec.HasField("timeout") and duration_us(spec.timeout, f"{path}.timeout") == 0:
        raise invalid(f"{path}.timeout", "must be longer than 0; leave it out for no timeout")


def _check_constraint(constraint: task_pb2.LabelConstraint, path: str) -> None:
    if not 1 <= len(constraint.key) <= 63:
        raise invalid(f"{path}.key", "must have 1 to 63 characters")
    takes_values = constraint.operator in (
        task_pb2.LabelConstraint.OPERATOR_IN,
        task_pb2.LabelConstraint.OPERATOR_NOT_IN,
    )
    if constraint.operator not in (1, 2, 3, 4):
        raise invalid(f"{path}.operator", "must be IN, NOT_IN, EXISTS or NOT_EXISTS")
    if takes_values != bool(constraint.values) or len(constraint.values) > 64:
        raise invalid(f"{path}.values", "IN and NOT_IN take 1 to 64 values, EXISTS and NOT_EXISTS none")


def read_spec(spec: task_pb2.TaskSpec, body: bytes, path: str = "spec") -> Spec:
    """The scheduling facts of a TaskSpec that was checked before; ``body`` is the spec, serialized."""
    is_function = spec.HasField("function")
    work = spec.function.function if is_function else spec.command.argv[0]
    retry = spec.retry
    facts = Spec(body, spec.type or work, is_function, spec.title or _title(spec))
    facts.priority = spec.priority if spec.HasField("priority") else PRIORITY_DEFAULT
    if spec.constraints:
        facts.constraints = tuple(
            Constraint(item.key, Operator(item.operator), tuple(item.values)) for item in spec.constraints
        )
    facts.max_attempts = retry.max_attempts
    if retry.HasField("initial_backoff"):
        facts.initial_backoff_us = duration_us(retry.initial_backoff, f"{path}.retry.initial_backoff")
    if retry.HasField("max_backoff"):
        facts.max_backoff_us = duration_us(retry.max_backoff, f"{path}.retry.max_backoff")
    facts.backoff_multiplier = retry.multiplier or 2.0
    facts.disconnect_grace_us = _GRACE_US[is_function]
    if spec.HasField("disconnect_grace"):
        facts.disconnect_grace_us = duration_us(spec.disconnect_grace, f"{path}.disconnect_grace")
    facts.not_before_us = time_us(spec.not_before) if spec.HasField("not_before") else 0
    if spec.HasField("queue_timeout"):
        facts.queue_timeout_us = duration_us(spec.queue_timeout, f"{path}.queue_timeout")
    return facts


def stored_spec(row: InsertTask) -> Spec:
    """The scheduling facts of a stored task."""
    return read_spec(task_pb2.TaskSpec.FromString(row.body), row.body)


def _title(spec: task_pb2.TaskSpec) -> str:
    title = spec.function.function if spec.HasField("function") else " ".join(spec.command.argv)
    return title if len(title) <= TITLE_CHARACTERS_MAX else title[: TITLE_CHARACTERS_MAX - 1] + "…"


def ref(message: agent_service_pb2.AttemptRef) -> Ref:
    """Which attempt."""
    return Ref(message.task_id, message.attempt, message.fence)


def held(message: agent_service_pb2.HeldAttempt) -> Held:
    """An attempt that an agent holds; a state this version does not know counts as started."""
    known = message.state in (2, 3, 4, 5)
    return Held(ref(message.ref), AttemptState(message.state) if known else AttemptState.STARTED)


def outbox(message: agent_service_pb2.OutboxRange) -> OutboxFacts:
    """An outbox on an agent's disk."""
    return OutboxFacts(message.outbox_id, max(1, message.first_seq), message.last_seq)


def report(message: worker_message_pb2.WorkerMessage) -> Report:
    """One report; an arm that this version does not know gets kind 0."""
    arm = message.WhichOneof("message")
    attempt = Ref(message.task_id, message.attempt, message.fence)
    at_us = time_us(message.event_time)
    if arm == "started":
        return Report(attempt, message.number, at_us, ReportKind.STARTED, False, message.started.SerializeToString())
    if arm == "completed":
        body = message.completed.SerializeToString()
        return Report(attempt, message.number, at_us, ReportKind.COMPLETED, True, body, start=_start(message))
    if arm == "failed":
        return _failed(message, attempt, at_us)
    if arm == "blocked":
        body = message.blocked.SerializeToString()
        return Report(attempt, message.number, at_us, ReportKind.BLOCKED, False, body, wait=_wait(message.blocked))
    if arm == "unblocked":
        body, key = message.unblocked.SerializeToString(), message.unblocked.key
        return Report(attempt, message.number, at_us, ReportKind.UNBLOCKED, False, body, text=key)
    if arm == "progress":
        return Report(attempt, message.number, at_us, ReportKind.PROGRESS, False, message.progress.SerializeToString())
    if arm == "log":
        return Report(attempt, message.number, at_us, ReportKind.LOG, False, message.log.SerializeToString())
    body, terminal = message.SerializeToString(), message.terminal
    return Report(attempt, message.number, at_us, 0, terminal, body, start=_start(message) if terminal else None)


def _start(message: worker_message_pb2.WorkerMessage) -> tuple[int, bytes] | None:
    """The start that a terminal message carries, None when a Started told it before."""
    if not message.HasField("start"):
        return None
    start = message.start
    return time_us(start.event_time), start.started.SerializeToString()


def _failed(message: worker_message_pb2.WorkerMessage, attempt: Ref, at_us: int) -> Report:
    error = message.failed.error
    reason = Reason(error.reason) if error.reason in Reason._value2member_map_ else Reason.TASK_ERROR
    return Report(
        attempt,
        message.number,
        at_us,
        ReportKind.FAILED,
        True,
        error.SerializeToString(),
        text=error.message,
        reason=reason,
        recoverable=message.failed.recoverable,
        start=_start(message),
    )


def _wait(blocked: task_pb2.BlockedReason) -> WaitFacts:
    kind = blocked.WhichOneof("reason") or "clarification"
    retry_us = time_us(blocked.external.retry_time) if blocked.external.HasField("retry_time") else 0
    return WaitFacts(blocked.key, kind, blocked.keeps_running, blocked.dependency.required_task_id, retry_us)
