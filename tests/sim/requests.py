"""One request from its making to its answer: a call that is sent until it is answered, and the specs it carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from outrider.v1 import run_service_pb2, task_pb2

if TYPE_CHECKING:
    from sim.clients import Clients
    from sim.model_coordinator import Process

RETRY_US = (200_000, 1_500_000)
LATENCY_US = (100, 3_000)


class ModelIds:
    """Ids in order; nothing in them is random."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> str:
        """The next one."""
        self._last += 1
        return f"t{self._last:06d}"


class Call:
    """One request until it is answered: ``attempt`` posts it; what a dying coordinator loses is sent again."""

    def __init__(self, clients: Clients, attempt: Callable[[Process, Call], None], tries_max: int = 1_000) -> None:
        self.is_over = False
        self._clients = clients
        self._attempt = attempt
        self._tries_left = tries_max
        self.send()

    def send(self) -> None:
        """Ask (again)."""
        if self._tries_left:
            self._tries_left -= 1
            self._clients.kernel.after(self._clients.random.randrange(*LATENCY_US), self._arrive)

    def _arrive(self) -> None:
        process = self._clients.process()
        if process is None or self._clients.is_refused():
            self.again()
            return
        process.waiting_calls.append(self._lost)
        process.later(0, self._attempt, process, self)

    def again(self) -> None:
        """Not now: once more in a while."""
        self._clients.kernel.after(self._clients.random.randrange(*RETRY_US), self.send)

    def _lost(self) -> None:
        if not self.is_over:
            self.again()

    def answered(self, process: Process, then: Callable[[], None]) -> None:
        """The reply leaves the coordinator; it may never arrive."""
        if process.is_dead or self.is_over:
            return
        clients = self._clients
        if clients.loses_replies and clients.random.random() < clients.loses_replies:
            clients.kernel.tell("client", "a reply is lost")
            self.again()
            return
        self.is_over = True
        if self._lost in process.waiting_calls:
            process.waiting_calls.remove(self._lost)
        then()


def run_spec(data: Mapping[str, Any]) -> run_service_pb2.RunSpec:
    """A graph on the wire; each key is made of the task's number."""
    spec = run_service_pb2.RunSpec(
        title="run",
        failure_policy=run_service_pb2.RunFailurePolicy.ValueType(2 if data.get("fails_fast") else 0),
        max_parallel=data.get("max_parallel", 0),
        sequential=data.get("sequential", False),
    )
    for task in data["tasks"]:
        message = spec.tasks.add(key=f"k{task['number']}", spec=task_spec(task), phase=task.get("phase", 0))
        message.after_keys.extend(task.get("after_keys", ()))
        message.milestone = task.get("milestone", "")
        for key, condition in task.get("after_if", ()):
            message.after.add(key=key, condition=condition)
    return spec


def task_spec(task: Mapping[str, Any]) -> task_pb2.TaskSpec:
    """What a submitter sends; ``scripts`` says what each attempt does."""
    spec = task_pb2.TaskSpec(title=f"task {task['number']}")
    if task.get("command"):
        spec.command.argv.append("work")
        spec.command.stdin = msgspec.json.encode(task["scripts"])
    else:
        spec.function.function = task.get("kind", "sim:work")
        spec.function.arguments.data = msgspec.json.encode({"args": task["scripts"], "kwargs": {}})
    for name, value in task.get("spec", {}).items():
        if name == "not_before_after_us":
            continue
        _SETTERS.get(name, _plain)(spec, name, value)
    return spec


def _plain(spec: Any, name: str, value: Any) -> None:
    setattr(spec, name, value)


def _duration(spec: Any, name: str, value: int) -> None:
    getattr(spec, name).FromMicroseconds(value)


def _retry(spec: Any, name: str, value: Mapping[str, Any]) -> None:
    spec.retry.max_attempts = value.get("max_attempts", 0)
    spec.retry.initial_backoff.FromMicroseconds(value.get("initial_us", 200_000))
    spec.retry.max_backoff.FromMicroseconds(value.get("max_us", 2_000_000))


def _labels(spec: Any, name: str, value: Mapping[str, str]) -> None:
    for key, wanted in value.items():
        spec.constraints.add(key=key, operator=task_pb2.LabelConstraint.OPERATOR_IN, values=[wanted])


def _claims(spec: Any, name: str, value: Any) -> None:
    for key, shared in value:
        spec.limits.add(key=key, shared=shared)


def _list(spec: Any, name: str, value: Any) -> None:
    getattr(spec, name).extend(value)


def _amounts(spec: Any, name: str, value: Mapping[str, float]) -> None:
    for key, wanted in value.items():
        getattr(spec, name)[key] = wanted


def _placement(spec: Any, name: str, value: Mapping[str, Any]) -> None:
    spec.placement.strategy = value["strategy"]
    spec.placement.spread, spec.placement.sticky = value["spread"], value["sticky"]
    if value["affinity"]:
        spec.placement.affinities.add(agent_id=value["affinity"], weight=50)


def _wait_policies(spec: Any, name: str, value: Mapping[str, int]) -> None:
    for kind in ("dependency", "external", "complexity", "clarification"):
        policy = getattr(spec.wait_policies, kind)
        policy.budget_duration.FromMicroseconds(value["budget_us"])
        policy.on_expiry = value["on_expiry"]


_SETTERS: dict[str, Callable[[Any, str, Any], None]] = {
    "timeout": _duration,
    "stall_timeout": _duration,
    "disconnect_grace": _duration,
    "queue_timeout": _duration,
    "deadline_duration": _duration,
    "estimated_duration": _duration,
    "retry": _retry,
    "labels": _labels,
    "limits": _claims,
    "write_scopes": _list,
    "systems": _list,
    "resources": _amounts,
    "placement": _placement,
    "wait_policies": _wait_policies,
}
