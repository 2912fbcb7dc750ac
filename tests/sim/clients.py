"""Clients and operators: they ask, wait for the answer, and ask again when it does not come, as the SDK does.

Real: the conversion of requests (`rpc.convert`, `rpc.specs`), graph checks. Modelled: the unary handlers around them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from outrider.v1 import run_service_pb2, task_pb2, task_service_pb2
from outrider_coordinator.core.effects import Accepted, NeedTasks, Refused
from outrider_coordinator.core.events import (
    AgentOrdered,
    Answered,
    BreakerReset,
    CancelRequested,
    LimitDefined,
    RunSubmitted,
    TasksSubmitted,
)
from outrider_coordinator.core.limits.book import Definition, LimitKind
from outrider_coordinator.core.runs import graph
from outrider_coordinator.core.states import TERMINAL, TaskState
from outrider_coordinator.rpc.convert import Converter
from outrider_coordinator.rpc.specs import SpecReader
from sim.kernel import Kernel
from sim.model_coordinator import Process
from sim.observer import Witness

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


class Clients:
    """Everybody who talks to the coordinator and is no agent."""

    def __init__(
        self, kernel: Kernel, witness: Witness, process: Callable[[], Process | None], is_refused: Callable[[], bool]
    ) -> None:
        self.kernel = kernel
        self.witness = witness
        self.process = process
        self.is_refused = is_refused
        self.random = kernel.stream("clients")
        self.loses_replies = 0.0
        #: Ids by the number that the plan gives a task; runs give their members numbers too.
        self.ids: dict[int, str] = {}
        self.refusals: list[str] = []
        self._converter = Converter(ModelIds(), SpecReader(1 << 20))  # type: ignore[arg-type]  # ids of our own

    # --- submits ---------------------------------------------------------------------------------------------------

    def submit(self, data: Mapping[str, Any]) -> None:
        """One batch of tasks under request ids of their own."""
        tasks = data["tasks"]
        requests = []
        for task in tasks:
            after = [self.ids[number] for number in task.get("after", ()) if number in self.ids]
            requests.append(
                task_service_pb2.SubmitRequest(
                    request_id=f"request-{task['number']}", spec=task_spec(task), dependency_ids=after
                )
            )
        Call(self, lambda process, call: self._submit(process, call, tasks, requests, {}))

    def _submit(self, process: Process, call: Call, tasks: Any, requests: Any, ended: dict[str, TaskState]) -> None:
        submissions = [self._converter.submission(request) for request in requests]
        known = {}
        if not process.state.requests.is_complete:
            for one in submissions:
                found = process.store.tables.request(one.namespace, one.request_id)
                if found is not None:
                    known[one.namespace, one.request_id] = found

        def reply(value: Any) -> None:
            if isinstance(value, NeedTasks):
                states = process.store.tables.task_states(value.task_ids)
                more = {key: TaskState(state) for key, state in states.items() if state in TERMINAL}
                process.later(1_000, self._submit, process, call, tasks, requests, ended | more)
            else:
                call.answered(process, lambda: self._submitted(call, tasks, value))

        process.post(TasksSubmitted(submissions, reply, False, dict(ended), known))

    def _submitted(self, call: Call, tasks: Any, answers: list[Any]) -> None:
        for task, answer in zip(tasks, answers, strict=True):
            if isinstance(answer, Accepted):
                known = self.ids.setdefault(task["number"], answer.id)
                self.witness.marks.demand("I6", known == answer.id, "one request, two tasks: {} {}", known, answer.id)
                self.witness.task_accepted(answer.id)
            else:
                self.refusals.append(answer.reason)
        if any(isinstance(answer, Refused) and answer.reason == "QUEUE_FULL" for answer in answers):
            self.witness.marks.saw("feature:queue full")

    def submit_run(self, data: Mapping[str, Any]) -> None:
        """One graph."""
        run = run_service_pb2.RunSpec(title="run")
        for task in data["tasks"]:
            run.tasks.add(key=f"k{task['number']}", spec=task_spec(task), after_keys=task["after_keys"])
        Call(self, lambda process, call: self._submit_run(process, call, data, run))

    def _submit_run(self, process: Process, call: Call, data: Mapping[str, Any], run: Any) -> None:
        members = self._converter.members_at_once(run.tasks, "run.tasks")
        refused = graph.check(members)
        if refused is not None:
            cyclic = data.get("cyclic", False)
            self.witness.marks.demand("I18", cyclic, "a graph without a cycle is refused: {}", refused.message)
            call.is_over = True
            return
        self.witness.marks.demand("I18", not data.get("cyclic", False), "a graph with a cycle is accepted")
        request_id = f"run-{data['tasks'][0]['number']}"
        known = None
        if not process.state.requests.is_complete:
            known = process.store.tables.run_request("default", request_id)
        run_id = self._converter.ids.next()
        digest = hashlib.blake2b(run.SerializeToString(deterministic=True), digest_size=16).digest()
        reply = self._run_reply(process, call, data)
        process.post(
            RunSubmitted(run_id, "default", "run", "", members, reply, request_id, digest, known_request=known)
        )

    def _run_reply(self, process: Process, call: Call, data: Mapping[str, Any]) -> Callable[[Any], None]:
        def reply(value: Any) -> None:
            call.answered(process, lambda: self._run_submitted(process, data, value))

        return reply

    def _run_submitted(self, process: Process, data: Mapping[str, Any], answer: Any) -> None:
        if not isinstance(answer, Accepted):
            self.refusals.append(answer.reason)
            return
        row = process.store.tables.put["RunPart"][answer.id, 0]
        for task, task_id in zip(data["tasks"], row.task_ids, strict=True):
            self.ids[task["number"]] = task_id
            self.witness.task_accepted(task_id)

    # --- orders ----------------------------------------------------------------------------------------------------

    def cancel(self, data: Mapping[str, Any]) -> None:
        """Cancel one task, if its submit was answered, or the ``nth`` of those that run just now."""
        if "nth" in data:
            running = [view.id for view in self.witness.records.tasks.values() if view.state == TaskState.RUNNING]
            task_id = running[data["nth"] % len(running)] if running else None
        else:
            task_id = self.ids.get(data["number"])
        if task_id is None:
            return

        def attempt(process: Process, call: Call) -> None:
            def reply(verdicts: list[Any]) -> None:
                call.answered(process, lambda: self._cancelled(verdicts[0]))

            process.post(CancelRequested([task_id], "enough", reply))

        Call(self, attempt)

    def _cancelled(self, verdict: Any) -> None:
        if verdict.cancelled:
            self.witness.cancel_accepted(verdict.task_id)

    def answer(self, data: Mapping[str, Any]) -> None:
        """A person answers whatever waits are open, of one task or of all."""
        process = self.process()
        if process is None:
            return
        wanted = self.ids.get(data["number"]) if "number" in data else None
        for task_id, key in open_waits(process):
            if wanted in (None, task_id):
                self._answer(task_id, key, str(data.get("text", "yes")))

    def _answer(self, task_id: str, key: str, text: str) -> None:
        payload = task_pb2.Payload(data=text.encode(), content_type="text/plain").SerializeToString()

        def attempt(process: Process, call: Call) -> None:
            def reply(value: Any) -> None:
                call.answered(process, lambda: None)

            process.post(Answered(task_id, key, payload, reply, agrees=text == "yes"))

        Call(self, attempt)

    def order_agent(self, data: Mapping[str, Any]) -> None:
        """Pause, resume, drain or remove an agent."""

        def attempt(process: Process, call: Call) -> None:
            def reply(value: Any) -> None:
                call.answered(process, lambda: None)

            process.post(
                AgentOrdered(data["agent"], data["order"], reply, force=True, timeout_us=data.get("timeout_us", 0))
            )

        Call(self, attempt)

    def define_limit(self, data: Mapping[str, Any]) -> None:
        """Say what a limit is."""
        definition = Definition(
            LimitKind(data["counts"]), data.get("capacity", 0), data.get("per_second", 0.0), data.get("burst", 0)
        )

        def attempt(process: Process, call: Call) -> None:
            def reply(value: Any) -> None:
                call.answered(process, lambda: None)

            process.post(LimitDefined("default", data["name"], definition, reply))

        Call(self, attempt)

    def trust(self, data: Mapping[str, Any]) -> None:
        """Close the breakers of an agent or of a system."""

        def attempt(process: Process, call: Call) -> None:
            def reply(value: Any) -> None:
                call.answered(process, lambda: None)

            process.post(BreakerReset(data.get("agent", ""), "", data.get("system", ""), reply))

        Call(self, attempt)


def open_waits(process: Process) -> list[tuple[str, str]]:
    """Waits that somebody could answer, as committed."""
    rows = process.store.tables.open_waits()
    return [(row.task_id, row.key) for row in rows if row.is_open and not row.resolution and not row.dependency_state]


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
