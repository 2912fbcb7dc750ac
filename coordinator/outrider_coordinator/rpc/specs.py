"""A TaskSpec on the wire, checked, as the facts that decisions need.

Only the fields that are set are looked at: most tasks set none, and asking for each in turn cost as much as everything
else about a submission. Names that many tasks share are kept once.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from outrider import signing
from outrider.errors import IllegalTransition, InvalidRequest, TooLarge
from outrider.v1 import run_service_pb2, task_pb2
from outrider_coordinator.core.records import InsertTask
from outrider_coordinator.core.spec import (
    SECOND_US,
    SECRET_PREFIX,
    Claim,
    Constraint,
    Demands,
    Operator,
    Spec,
    Strategy,
    WaitExpiry,
    WaitPolicies,
    WaitPolicy,
)
from outrider_coordinator.rpc import secrets
from outrider_coordinator.rpc.fields import amount, at_most, duration_us, invalid, positive_us, time_us, word

PRIORITY_DEFAULT = 5
PRIORITY_MAX = 10
TITLE_CHARACTERS_MAX = 200
CLAIM_KEY_CHARACTERS_MAX = 200
_GRACE_US = {True: 5 * SECOND_US, False: 120 * SECOND_US}


@dataclass(frozen=True, slots=True)
class SpecReader:
    """Reads specs of requests. ``payload_bytes_max`` bounds arguments and standard input."""

    payload_bytes_max: int

    def read(self, spec: task_pb2.TaskSpec, path: str, namespace: str) -> Spec:
        """The scheduling facts of a task of ``namespace``. Raises InvalidRequest or TooLarge with the field's path."""
        inside = _signed(spec, path, namespace) if spec.HasField("signed") else spec
        work = self._checked_work(inside, path)
        return _facts(spec, inside, work, spec.SerializeToString(deterministic=True), path, namespace)

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


def repeated_spec(row: InsertTask) -> Spec:
    """As `stored_spec`, to be done again. Raises IllegalTransition when its signature does not hold any more."""
    spec = task_pb2.TaskSpec.FromString(row.body)
    if spec.HasField("signed"):
        end_time = signing.statement_of(spec.signed).expire_time
        if end_time.ToNanoseconds() <= time.time_ns():
            raise IllegalTransition(
                f"task {row.id} was signed until {end_time.ToJsonString()}, and agents would refuse it now; "
                "submit it again, signed anew"
            )
    return stored_spec(row)


def stored_spec(row: InsertTask) -> Spec:
    """The scheduling facts of a stored task: it was checked when it was accepted."""
    spec = task_pb2.TaskSpec.FromString(row.body)
    inside = signing.signed_spec(spec)
    work = inside.function.function if inside.HasField("function") else inside.command.argv[0]
    return _facts(spec, inside, work, row.body, "spec", row.namespace)


def identity(body: bytes) -> bytes:
    """What tells a serialized TaskSpec from another one; who signs the same task twice means the same task."""
    spec = task_pb2.TaskSpec.FromString(body)
    if spec.HasField("signed"):
        signing.blur(spec)
    return spec.SerializeToString(deterministic=True)


def tasks_identity(tasks: Iterable[run_service_pb2.RunTask]) -> bytes:
    """As `identity`, for tasks of a graph."""
    return b"".join(_blurred(task).SerializeToString(deterministic=True) for task in tasks)


def run_identity(run: run_service_pb2.RunSpec) -> bytes:
    """As `identity`, for a graph."""
    if any(task.spec.HasField("signed") for task in run.tasks):
        run = copy.deepcopy(run)
        tasks = [_blurred(task) for task in run.tasks]
        run.ClearField("tasks")
        run.tasks.extend(tasks)
    return run.SerializeToString(deterministic=True)


def _blurred(task: run_service_pb2.RunTask) -> run_service_pb2.RunTask:
    if task.spec.HasField("signed"):
        task = copy.deepcopy(task)
        signing.blur(task.spec)
    return task


def _signed(spec: task_pb2.TaskSpec, path: str, namespace: str) -> task_pb2.TaskSpec:
    """The spec of a statement, so far as one who cannot judge its signature can see that agents would refuse it."""
    try:
        statement = signing.statement_of(spec.signed)
    except InvalidRequest as error:
        raise invalid(f"{path}.signed.statement", str(error)) from None
    if statement.namespace != namespace:
        text = f"was signed for namespace {statement.namespace!r} and is submitted to {namespace!r}"
        raise invalid(f"{path}.signed.statement", text)
    if not signing.repeats(spec, statement.spec):
        raise invalid(path, "must repeat what the signed statement says, but for the work")
    return statement.spec


def claim(message: task_pb2.LimitClaim, path: str) -> Claim:
    """A claim on a named limit, checked."""
    if message.shared and message.units > 1:
        raise invalid(path, "is shared or takes units, not both")
    return Claim(word(message.key, f"{path}.key", CLAIM_KEY_CHARACTERS_MAX), message.shared, message.units or 1)


def _facts(
    spec: task_pb2.TaskSpec, inside: task_pb2.TaskSpec, work: str, body: bytes, path: str, namespace: str
) -> Spec:
    """The scheduling facts of a TaskSpec; ``body`` is the spec, serialized, ``inside`` the one with the work."""
    is_function = inside.HasField("function")
    facts = Spec(body, spec.type or work, is_function, spec.title or (_short(work) if is_function else _title(inside)))
    facts.priority = PRIORITY_DEFAULT
    facts.disconnect_grace_us = _GRACE_US[is_function]
    demands: dict[str, Any] = {}
    for field, value in spec.ListFields():
        name = field.name
        if name in _READS:
            _READS[name](facts, value, f"{path}.{name}")
        elif name in _DEMANDS:
            demands |= _DEMANDS[name](value, f"{path}.{name}")
        elif name == "secrets":
            secrets.check(inside, f"{path}.secrets")
            asked = demands.get("constraints", ()) + secrets.constraints(value, namespace, work)
            demands["constraints"] = asked
    if demands:
        facts.demands = Demands(**demands)
    if facts.at_most_once and facts.max_attempts > 1:
        raise invalid(f"{path}.retry.max_attempts", "a task that runs at most once has one attempt")
    if facts.at_most_once and any(policy.on_expiry.moves for policy in facts.waits[:4]):
        raise invalid(f"{path}.wait_policies", "a task that runs at most once cannot MOVE; let it FAIL or KEEP waiting")
    return facts


def _title(spec: task_pb2.TaskSpec) -> str:
    return _short(" ".join(spec.command.argv))


def _short(title: str) -> str:
    return title if len(title) <= TITLE_CHARACTERS_MAX else title[: TITLE_CHARACTERS_MAX - 1] + "…"


# --- how and when it is tried ----------------------------------------------------------------------------------------


def _priority(facts: Spec, priority: int, path: str) -> None:
    if priority > PRIORITY_MAX:
        raise invalid(path, f"must be 0 to {PRIORITY_MAX} (LOW 2, NORMAL 5, HIGH 7, CRITICAL 10)")
    facts.priority = priority


def _tags(facts: Spec, tags: Sequence[str], path: str) -> None:
    at_most(len(tags), 32, path)
    facts.tags = tuple(sys.intern(word(tag, f"{path}[{position}]", 128)) for position, tag in enumerate(tags))


def _weight(facts: Spec, weight: float, path: str) -> None:
    facts.weight = amount(weight, path)


def _estimated_duration(facts: Spec, duration: Duration, path: str) -> None:
    facts.estimated_us = duration_us(duration, path)


def _timeout(facts: Spec, timeout: Duration, path: str) -> None:
    positive_us(timeout, path)  # the agent keeps it


def _retry(facts: Spec, retry: task_pb2.RetryPolicy, path: str) -> None:
    if retry.max_attempts > 1000:
        raise invalid(f"{path}.max_attempts", "more than 1000")
    if not 0 <= retry.multiplier < float("inf"):
        raise invalid(f"{path}.multiplier", "must not be negative")
    facts.max_attempts = retry.max_attempts
    if retry.HasField("initial_backoff"):
        facts.initial_backoff_us = duration_us(retry.initial_backoff, f"{path}.initial_backoff")
    if retry.HasField("max_backoff"):
        facts.max_backoff_us = duration_us(retry.max_backoff, f"{path}.max_backoff")
    facts.backoff_multiplier = retry.multiplier or 2.0


def _disconnect_grace(facts: Spec, grace: Duration, path: str) -> None:
    facts.disconnect_grace_us = duration_us(grace, path)


def _not_before(facts: Spec, not_before: Timestamp, path: str) -> None:
    facts.not_before_us = time_us(not_before)


def _queue_timeout(facts: Spec, timeout: Duration, path: str) -> None:
    facts.queue_timeout_us = duration_us(timeout, path)


def _deadline(facts: Spec, deadline: Duration, path: str) -> None:
    facts.deadline_us = positive_us(deadline, path)


def _exclusive(facts: Spec, exclusive: bool, path: str) -> None:
    facts.exclusive = exclusive


def _at_most_once(facts: Spec, at_most_once: bool, path: str) -> None:
    facts.at_most_once = at_most_once


def _preemptible(facts: Spec, preemptible: bool, path: str) -> None:
    facts.preemptible = preemptible


def _wait_policies(facts: Spec, policies: task_pb2.WaitPolicies, path: str) -> None:
    facts.waits = WaitPolicies(
        _wait_policy(policies.dependency, f"{path}.dependency"),
        _wait_policy(policies.external, f"{path}.external"),
        _wait_policy(policies.complexity, f"{path}.complexity"),
        _wait_policy(policies.clarification, f"{path}.clarification"),
        duration_us(policies.extension_max_duration, f"{path}.extension_max_duration"),
    )


def _wait_policy(policy: task_pb2.WaitPolicy, path: str) -> WaitPolicy:
    if policy.on_expiry not in (0, *WaitExpiry):
        raise invalid(f"{path}.on_expiry", "must be FAIL, MOVE, KEEP or MOVE_OR_KEEP")
    return WaitPolicy(
        duration_us(policy.budget_duration, f"{path}.budget_duration"), WaitExpiry(policy.on_expiry or WaitExpiry.FAIL)
    )


#: How a field of a TaskSpec that is set becomes a fact, by its name.
_READS: dict[str, Callable[[Spec, Any, str], None]] = {
    "priority": _priority,
    "tags": _tags,
    "weight": _weight,
    "estimated_duration": _estimated_duration,
    "timeout": _timeout,
    "stall_timeout": _timeout,
    "retry": _retry,
    "disconnect_grace": _disconnect_grace,
    "not_before": _not_before,
    "queue_timeout": _queue_timeout,
    "deadline_duration": _deadline,
    "exclusive": _exclusive,
    "at_most_once": _at_most_once,
    "preemptible": _preemptible,
    "wait_policies": _wait_policies,
}


# --- where it may run ------------------------------------------------------------------------------------------------


def _constraints(constraints: Sequence[task_pb2.LabelConstraint], path: str) -> dict[str, Any]:
    at_most(len(constraints), 32, path)
    return {"constraints": tuple(_constraint(item, f"{path}[{at}]") for at, item in enumerate(constraints))}


def _constraint(constraint: task_pb2.LabelConstraint, path: str) -> Constraint:
    word(constraint.key, f"{path}.key", 63)
    if constraint.key.startswith(SECRET_PREFIX):
        raise invalid(f"{path}.key", "is no label; ask for a secret with `secrets`")
    operator = int(constraint.operator)
    if operator not in (Operator.IN, Operator.NOT_IN, Operator.EXISTS, Operator.NOT_EXISTS):
        raise invalid(f"{path}.operator", "must be IN, NOT_IN, EXISTS or NOT_EXISTS")
    takes_values = operator in (Operator.IN, Operator.NOT_IN)
    if takes_values != bool(constraint.values) or len(constraint.values) > 64:
        raise invalid(f"{path}.values", "IN and NOT_IN take 1 to 64 values, EXISTS and NOT_EXISTS none")
    return Constraint(constraint.key, Operator(operator), tuple(constraint.values))


def _resources(resources: Mapping[str, float], path: str) -> dict[str, Any]:
    at_most(len(resources), 16, path)
    checked = {word(name, path, 63): amount(value, f"{path}[{name!r}]") for name, value in resources.items()}
    return {"resources": tuple(sorted(checked.items()))}


def _placement(placement: task_pb2.Placement, path: str) -> dict[str, Any]:
    strategy = int(placement.strategy)
    if strategy not in tuple(Strategy):
        names = ", ".join(known.name for known in Strategy if known)
        raise invalid(f"{path}.strategy", f"{strategy} is no strategy; use one of {names}")
    at_most(len(placement.affinities), 32, f"{path}.affinities")
    at_most(len(placement.avoid_tags), 8, f"{path}.avoid_tags")
    return {
        "strategy": Strategy(strategy),
        "affinities": tuple(
            _affinity(item, f"{path}.affinities[{at}]") for at, item in enumerate(placement.affinities)
        ),
        "avoid_tags": tuple(placement.avoid_tags),
        "spread": placement.spread,
        "sticky": placement.sticky,
        "runner": placement.runner,
        "task_type": placement.task_type,
    }


def _affinity(affinity: task_pb2.AgentAffinity, path: str) -> tuple[str, int]:
    if affinity.weight == 0 or abs(affinity.weight) > 100:
        raise invalid(f"{path}.weight", "must be -100 to 100, and not 0")
    return word(affinity.agent_id, f"{path}.agent_id", 63), affinity.weight


def _limits(limits: Sequence[task_pb2.LimitClaim], path: str) -> dict[str, Any]:
    at_most(len(limits), 32, path)
    claims = tuple(claim(item, f"{path}[{position}]") for position, item in enumerate(limits))
    if len({one.key for one in claims}) < len(claims):
        raise invalid(path, "names one limit twice")
    return {"claims": tuple(sorted(claims))}


def _write_scopes(scopes: Sequence[str], path: str) -> dict[str, Any]:
    at_most(len(scopes), 64, path)
    return {"scopes": tuple(sorted({_scope(scope, f"{path}[{at}]") for at, scope in enumerate(scopes)}))}


def _scope(scope: str, path: str) -> str:
    if ".." in scope.rpartition(":")[2].split("/"):
        raise invalid(path, "must not go up with `..`; write where the path leads")
    return word(scope, path, 500)


def _systems(systems: Sequence[str], path: str) -> dict[str, Any]:
    at_most(len(systems), 16, path)
    return {"systems": tuple(sorted({word(name, f"{path}[{at}]", 128) for at, name in enumerate(systems)}))}


def _is_signed(signed: task_pb2.SignedWork, path: str) -> dict[str, Any]:
    return {"is_signed": True}


#: How a field of a TaskSpec that is set becomes a part of `Demands`, by its name.
_DEMANDS: dict[str, Callable[[Any, str], dict[str, Any]]] = {
    "constraints": _constraints,
    "resources": _resources,
    "placement": _placement,
    "limits": _limits,
    "write_scopes": _write_scopes,
    "systems": _systems,
    "signed": _is_signed,
}
