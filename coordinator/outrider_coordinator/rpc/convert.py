"""From the wire to facts: every field of a request checked here, with its path in the error.

Of a spec's policy only the fields that are set are looked at: most tasks set none, and asking for each in turn cost as
much as everything else about a submission. Names that many tasks share are kept once.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
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
from outrider_coordinator.core.model import NO_TRACE, SECOND_US, AttemptState, Constraint, Operator, Reason, Spec, Trace
from outrider_coordinator.core.records import InsertTask
from outrider_coordinator.rpc.ids import IdMaker

PRIORITY_DEFAULT = 5
DEPENDENCIES_MAX = 10_000
TITLE_CHARACTERS_MAX = 200
#: Fields of a message that are set, with their values.
Fields = Sequence[tuple[FieldDescriptor, Any]]
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
        request_id = request.request_id
        if len(request_id) > 64:
            raise invalid(f"{path}request_id", "is longer than 64 characters")
        dependency_ids = _dependencies(request, path)
        spec = self.spec(request.spec, f"{path}spec")
        identity = spec.body + "".join(dependency_ids).encode() if dependency_ids else spec.body
        trace = request.trace if request.HasField("trace") else None
        return Submission(
            self.ids.next(),
            sys.intern(request.namespace or "default"),
            spec,
            request_id,
            hashlib.blake2b(identity, digest_size=16).digest(),
            sys.intern(request.client_id),
            Trace(trace.traceparent, trace.tracestate) if trace else NO_TRACE,
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
        work = self._checked_work(spec, path)
        fields = spec.ListFields()
        for field, value in fields:
            check = _CHECKS.get(field.name)
            if check is not None:
                check(value, f"{path}.{field.name}")
        return _facts(spec, fields, work, spec.SerializeToString(deterministic=True), path)

    def _checked_work(self, spec: task_pb2.TaskSpec, path: str) -> str:
        """The function's name or the program."""
        if spec.HasField("function"):
            function = spec.function
            name = sys.intern(function.function)
            module, _, attribute = name.partition(":")
            if not (module and attribute):
                raise invalid(f"{path}.function.function", f"{name!r} is not MODULE:NAME")
            self._check_size(len(function.arguments.data), path, ".function.arguments")
            return name
        if not spec.HasField("command"):
            raise invalid(path, "set `function` or `command`: there is nothing to run")
        if not spec.command.argv or not spec.command.argv[0]:
            raise invalid(f"{path}.command.argv", "needs at least a program")
        self._check_size(len(spec.command.stdin), path, ".command.stdin")
        return spec.command.argv[0]

    def _check_size(self, size: int, path: str, field: str) -> None:
        if size > self.payload_bytes_max:
            raise TooLarge(
                f"{path}{field}: {size} bytes are over the limit of {self.payload_bytes_max}; "
                "put the data in a file or object store and pass its name"
            )


def _dependencies(request: task_service_pb2.SubmitRequest, path: str) -> tuple[str, ...]:
    named = request.dependency_ids
    if not named:
        return ()
    dependency_ids = tuple(dict.fromkeys(named))
    if len(dependency_ids) > DEPENDENCIES_MAX:
        raise invalid(f"{path}dependency_ids", f"more than {DEPENDENCIES_MAX}")
    return dependency_ids


def _check_priority(priority: int, path: str) -> None:
    if priority > 10:
        raise invalid(path, "must be 0 to 10 (LOW 2, NORMAL 5, HIGH 7, CRITICAL 10)")


def _check_constraints(constraints: Sequence[task_pb2.LabelConstraint], path: str) -> None:
    if len(constraints) > 32:
        raise invalid(path, "more than 32")
    for position, constraint in enumerate(constraints):
        _check_constraint(constraint, f"{path}[{position}]")


def _check_retry(retry: task_pb2.RetryPolicy, path: str) -> None:
    if retry.max_attempts > 1000:
        raise invalid(f"{path}.max_attempts", "more than 1000")
    if retry.multiplier < 0:
        raise invalid(f"{path}.multiplier", "must not be negative")


def _check_timeout(timeout: Duration, path: str) -> None:
    if duration_us(timeout, path) == 0:
        raise invalid(path, "must be longer than 0; leave it out for no timeout")


#: What is wrong with a field of a TaskSpec that is set, by its name.
_CHECKS: dict[str, Callable[[Any, str], None]] = {
    "priority": _check_priority,
    "constraints": _check_constraints,
    "retry": _check_retry,
    "timeout": _check_timeout,
}


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


def _facts(spec: task_pb2.TaskSpec, fields: Fields, work: str, body: bytes, path: str) -> Spec:
    """The scheduling facts of a TaskSpec with these fields set; ``body`` is the spec, serialized."""
    is_function = spec.HasField("function")
    facts = Spec(body, spec.type or work, is_function, spec.title or (_short(work) if is_function else _title(spec)))
    facts.priority = PRIORITY_DEFAULT
    facts.disconnect_grace_us = _GRACE_US[is_function]
    for field, value in fields:
        read = _READS.get(field.name)
        if read is not None:
            read(facts, value, f"{path}.{field.name}")
    return facts


def _read_priority(facts: Spec, priority: int, path: str) -> None:
    facts.priority = priority


def _read_constraints(facts: Spec, constraints: Sequence[task_pb2.LabelConstraint], path: str) -> None:
    facts.constraints = tuple(Constraint(item.key, Operator(item.operator), tuple(item.values)) for item in constraints)


def _read_retry(facts: Spec, retry: task_pb2.RetryPolicy, path: str) -> None:
    facts.max_attempts = retry.max_attempts
    if retry.HasField("initial_backoff"):
        facts.initial_backoff_us = duration_us(retry.initial_backoff, f"{path}.initial_backoff")
    if retry.HasField("max_backoff"):
        facts.max_backoff_us = duration_us(retry.max_backoff, f"{path}.max_backoff")
    facts.backoff_multiplier = retry.multiplier or 2.0


def _read_disconnect_grace(facts: Spec, grace: Duration, path: str) -> None:
    facts.disconnect_grace_us = duration_us(grace, path)


def _read_not_before(facts: Spec, not_before: Timestamp, path: str) -> None:
    facts.not_before_us = time_us(not_before)


def _read_queue_timeout(facts: Spec, timeout: Duration, path: str) -> None:
    facts.queue_timeout_us = duration_us(timeout, path)


#: How a field of a TaskSpec that is set becomes a scheduling fact, by its name.
_READS: dict[str, Callable[[Spec, Any, str], None]] = {
    "priority": _read_priority,
    "constraints": _read_constraints,
    "retry": _read_retry,
    "disconnect_grace": _read_disconnect_grace,
    "not_before": _read_not_before,
    "queue_timeout": _read_queue_timeout,
}


def stored_spec(row: InsertTask) -> Spec:
    """The scheduling facts of a stored task: it was checked when it was accepted."""
    spec = task_pb2.TaskSpec.FromString(row.body)
    work = spec.function.function if spec.HasField("function") else spec.command.argv[0]
    return _facts(spec, spec.ListFields(), work, row.body, "spec")


def _title(spec: task_pb2.TaskSpec) -> str:
    return _short(" ".join(spec.command.argv))


def _short(title: str) -> str:
    return title if len(title) <= TITLE_CHARACTERS_MAX else title[: TITLE_CHARACTERS_MAX - 1] + "…"


def ref(message: agent_service_pb2.AttemptRef) -> Ref:
    """Which attempt."""
    return Ref._make((message.task_id, message.attempt, message.fence))


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
    if arm == "completed":
        return _report(message, ReportKind.COMPLETED, message.completed.SerializeToString(), start=_start(message))
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
    if arm == "progress":
        return _report(message, ReportKind.PROGRESS, message.progress.SerializeToString(), terminal=False)
    if arm == "log":
        return _report(message, ReportKind.LOG, message.log.SerializeToString(), terminal=False)
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
) -> Report:
    return Report._make(
        (
            Ref._make((message.task_id, message.attempt, message.fence)),
            message.number,
            time_us(message.event_time),
            kind,
            terminal,
            body,
            text,
            reason,
            recoverable,
            wait,
            start,
        )
    )


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
    kind = blocked.WhichOneof("reason") or "clarification"
    retry_us = time_us(blocked.external.retry_time) if blocked.external.HasField("retry_time") else 0
    return WaitFacts(blocked.key, kind, blocked.keeps_running, blocked.dependency.required_task_id, retry_us)
