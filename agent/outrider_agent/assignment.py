"""Turns an Assignment of the wire into the work a worker gets, and keeps what the keeper must know of the attempt.

Owns the translation and the environment every attempt sees. It must not know where the attempt will run, or when.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from google.protobuf.duration_pb2 import Duration

from outrider import sweep, tracing
from outrider.v1 import agent_service_pb2, task_pb2
from outrider.worker import messages
from outrider_agent.core.board import Attempt
from outrider_agent.frames import from_resolution
from outrider_agent.reports import Narrator
from outrider_agent.trees import KillLadder
from outrider_agent.vault import SecretUse

_AGREES = frozenset((b"yes", b"grant", b"granted", b"true", b'"yes"', b'"grant"', b'"granted"', b'"true"'))
_RECEIVE_KIND = 4  # OpenTelemetry's SpanKind CONSUMER


@dataclass(frozen=True, slots=True)
class Origin:
    """What all attempts of one keeper process share."""

    agent: str
    instance_id: str
    scratch_directory: str


class Dossier(msgspec.Struct, eq=False):
    """Everything the keeper has on one attempt beside its place on the board.

    ``timeout_us`` bounds its running time, ``silence_us`` the time between two messages and ``remaining_us`` everything
    from its arrival on; 0 means no bound.

    A struct and not a dataclass: one is made for every attempt, and this is made in a fifth of the time.
    """

    attempt: Attempt
    run: messages.Run
    narrator: Narrator
    attempt_key: str
    timeout_us: int
    silence_us: int
    remaining_us: int
    is_exclusive: bool
    is_at_most_once: bool
    received_ns: int
    parent: tracing.TraceParent | None
    span: tracing.TraceParent | None
    command_pid: int = 0
    #: Resolutions that wait until the attempt has a slot again.
    resolutions: list[messages.Resolve] = []
    #: Seconds asked for, by wait key.
    more_time: dict[str, float] = {}
    #: Set while the attempt is being killed.
    ladder: KillLadder | None = None
    #: What to report in the end when the worker's own word does not count any more.
    verdict: messages.Failed | None = None
    #: The worker's last word, held until nothing of the attempt is left.
    last_word: messages.Completed | messages.Failed | None = None
    is_cleaning: bool = False
    #: Reason and message of an order to stop that came before the attempt had started.
    stop: tuple[int, str] | None = None
    #: Fenced: nobody wants to hear of it.
    is_silent: bool = False
    #: What this agent's own policy bounds, 0 for nothing, and the output that came.
    timeout_max_us: int = 0
    output_max_bytes: int = 0
    output_bytes: int = 0
    #: Secrets that it asks for; it starts when they are in ``run``.
    uses: tuple[SecretUse, ...] = ()

    @property
    def must_prepare(self) -> bool:
        """Whether it is held until something has been done for it."""
        return self.is_at_most_once or bool(self.uses)

    @property
    def work(self) -> str:
        """The function or program that it runs."""
        work = self.run.work
        return work.function if isinstance(work, messages.FunctionWork) else next(iter(work.argv), "")

    @property
    def is_bounded(self) -> bool:
        """Whether some time of the attempt is limited."""
        return bool(self.timeout_us or self.silence_us or self.remaining_us)

    def grant(self, resolve: messages.Resolve) -> int:
        """How much longer the attempt may run by a resolution, in microseconds; nothing when it comes again."""
        asked_s = self.more_time.pop(resolve.wait_key, None)
        if asked_s is None or not self.timeout_us:
            return 0
        # A coordinator that does not say how much grants what was asked for.
        agreed_s = asked_s if resolve.data.strip().lower() in _AGREES and not resolve.error_reason else 0.0
        more_us = int((resolve.granted_s or agreed_s) * 1e6)
        if self.timeout_max_us:
            more_us = min(more_us, self.timeout_max_us - self.timeout_us)
        self.timeout_us += more_us
        return more_us


def open_dossier(key: int, assignment: agent_service_pb2.Assignment, origin: Origin, now_ns: int) -> Dossier | None:
    """The dossier of a new attempt; None for a kind of work that this version does not know."""
    # Every look into a protobuf message costs as much as making an object: each field is read once.
    spec = assignment.spec
    work = _work(spec)
    if work is None:
        return None
    ref = assignment.ref
    task_id, number, fence = ref.task_id, ref.attempt, ref.fence
    is_traced = assignment.HasField("trace")
    parent = tracing.parse(assignment.trace.traceparent) if is_traced else None
    span = parent.child() if parent is not None else None
    traceparent = span.format() if span is not None else ""
    tracestate = assignment.trace.tracestate if is_traced else ""
    is_exclusive = spec.exclusive
    is_command = type(work) is messages.CommandWork
    attempt_key = f"{origin.instance_id}-{key}"
    environment = {
        "OUTRIDER_TASK_ID": task_id,
        "OUTRIDER_ATTEMPT": str(number),
        "OUTRIDER_NAMESPACE": assignment.namespace,
        "OUTRIDER_RUN_ID": assignment.run_id,
        "OUTRIDER_AGENT": origin.agent,
        sweep.ATTEMPT_VARIABLE: attempt_key,
    }
    if traceparent:
        environment[tracing.TRACEPARENT] = traceparent
    if tracestate:
        environment[tracing.TRACESTATE] = tracestate
    scratch = f"{origin.scratch_directory}/{key}"
    run = messages.Run(
        key,
        work,
        task_id,
        number,
        _inputs(assignment),
        environment,
        scratch,
        traceparent,
        tracestate,
        *(_carried(key, assignment) if number > 1 else ([], [])),
        is_exclusive,
    )
    uses = _uses(spec) if spec.secrets else ()
    is_prefetched = not is_command and not uses and assignment.prefetched
    attempt = Attempt(key, task_id, number, fence, is_prefetched, is_command)
    narrator = Narrator(task_id, number, fence, traceparent)
    timeout_us = _microseconds(spec.timeout) if spec.HasField("timeout") else 0
    silence_us = _microseconds(spec.stall_timeout) if spec.HasField("stall_timeout") else 0
    remaining_us = _microseconds(assignment.remaining_duration) if assignment.HasField("remaining_duration") else 0
    bounds = (timeout_us, silence_us, remaining_us)
    dossier = Dossier(
        attempt, run, narrator, attempt_key, *bounds, is_exclusive, spec.at_most_once, now_ns, parent, span
    )
    if uses:
        dossier.uses = uses
    return dossier


def receive_span(dossier: Dossier, end_ns: int, error: str) -> messages.Span | None:
    """The keeper's span around the whole attempt; None when nobody traces it."""
    span, parent, run = dossier.span, dossier.parent, dossier.run
    if span is None or parent is None or not span.sampled:
        return None
    return messages.Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=parent.span_id,
        name="receive",
        kind=_RECEIVE_KIND,
        start_ns=dossier.received_ns,
        end_ns=end_ns,
        attributes={"outrider.task_id": run.task_id, "outrider.attempt": run.attempt},
        error=error,
    )


def _work(spec: task_pb2.TaskSpec) -> messages.FunctionWork | messages.CommandWork | None:
    kind = spec.WhichOneof("work")
    if kind == "function":
        function = spec.function
        return messages.FunctionWork(function.function, function.arguments.data, function.inputs_argument)
    if kind == "command":
        command = spec.command
        return messages.CommandWork(
            list(command.argv), dict(command.environment), command.working_directory, command.stdin
        )
    return None


def _uses(spec: task_pb2.TaskSpec) -> tuple[SecretUse, ...]:
    by_descriptor = task_pb2.SECRET_DELIVERY_DESCRIPTOR
    return tuple(SecretUse(one.variable, one.secret, one.delivery == by_descriptor) for one in spec.secrets)


def _inputs(assignment: agent_service_pb2.Assignment) -> list[messages.Input]:
    inputs = assignment.inputs
    if not inputs:
        return []
    return [messages.Input(one.key, one.task_id, one.result.data, one.result.content_type) for one in inputs]


def _carried(key: int, assignment: agent_service_pb2.Assignment) -> tuple[list[messages.Resolve], list[str]]:
    """What attempts before this one were answered, and what they waited for in vain."""
    answers = [msgspec.structs.replace(from_resolution(one), key=key) for one in assignment.earlier_answers]
    return answers, [one.key for one in assignment.expired_waits]


def _microseconds(budget: Duration) -> int:
    """A time budget that is there, at least 1."""
    return max(1, budget.ToMicroseconds())
