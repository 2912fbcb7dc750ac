"""Clients and operators: they ask, wait for the answer, and ask again when it does not come, as the SDK does.

Real: the conversion of requests (`rpc.convert`, `rpc.specs`), graph checks. Modelled: the unary handlers around them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from outrider.v1 import task_pb2, task_service_pb2
from outrider_coordinator.core.effects import Accepted, NeedTasks, Refused
from outrider_coordinator.core.events import (
    AgentOrdered,
    Answered,
    BreakerReset,
    CancelRequested,
    Ends,
    LimitDefined,
    TasksSubmitted,
)
from outrider_coordinator.core.limits.book import Definition, LimitKind
from outrider_coordinator.rpc.convert import Converter
from outrider_coordinator.rpc.specs import SpecReader
from sim.kernel import Kernel
from sim.model_coordinator import Process
from sim.observer import Witness
from sim.oracle_records import RUNNING
from sim.oracle_runs import Edge, Node, Wanted
from sim.requests import Call, ModelIds, task_spec
from sim.run_clients import RunClients
from sim.schedule_clients import ScheduleClients


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
        self.converter = Converter(ModelIds(), SpecReader(1 << 20))  # type: ignore[arg-type]  # ids of our own
        self._runs = RunClients(self)
        self.submit_run, self.add_tasks = self._runs.submit, self._runs.add
        self.schedules = ScheduleClients(self)
        self.create_schedule, self.order_schedule = self.schedules.create, self.schedules.order
        self.cancel_run, self.retry = self._runs.cancel, self._runs.retry

    # --- submits ---------------------------------------------------------------------------------------------------

    def submit(self, data: Mapping[str, Any]) -> None:
        """One batch of tasks under request ids of their own."""
        tasks = data["tasks"]
        requests = []
        for task in tasks:
            edges = [Edge(self.ids[number], 1) for number in task.get("after", ()) if number in self.ids]
            edges += [Edge(self.ids[number], how) for number, how in task.get("after_if", ()) if number in self.ids]
            request_id = f"request-{task['number']}"
            self.witness.records.runs.wanted[request_id] = Wanted({"": Node(tuple(edges))})
            request = task_service_pb2.SubmitRequest(
                request_id=request_id, spec=task_spec(task), submitter=task.get("submitter", "")
            )
            for edge in edges:
                request.dependencies.add(task_id=edge.name, condition=edge.condition)
            requests.append(request)
        Call(self, lambda process, call: self._submit(process, call, tasks, requests, {}))

    def _submit(self, process: Process, call: Call, tasks: Any, requests: Any, ended: Ends) -> None:
        submissions = [self.converter.submission(request) for request in requests]
        known = {}
        if not process.state.requests.is_complete:
            for one in submissions:
                found = process.store.tables.request(one.namespace, one.request_id)
                if found is not None:
                    known[one.namespace, one.request_id] = found

        def reply(value: Any) -> None:
            if isinstance(value, NeedTasks) and not all(map(process.store.tables.tasks.get, value.task_ids)):
                call.answered(process, lambda: self.refusals.append("INVALID_REQUEST"))
            elif isinstance(value, NeedTasks):
                more = ended | process.store.tables.task_ends(value.task_ids)
                process.later(1_000, self._submit, process, call, tasks, requests, more)
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
            self.witness.marks.saw("saw:queue full")

    # --- orders ----------------------------------------------------------------------------------------------------

    def cancel(self, data: Mapping[str, Any]) -> None:
        """Cancel one task, if its submit was answered, or the ``nth`` of those that run just now."""
        if "nth" in data:
            running = [view.id for view in self.witness.records.tasks.values() if view.state == RUNNING]
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
