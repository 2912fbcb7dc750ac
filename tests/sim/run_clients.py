"""What clients ask of runs: submit a graph, add to it, cancel it, do it again; and one task again.

Real: the conversion of requests, graph checks, `rpc.run_retry`. Modelled: the unary handlers around them. What is asked
for is told to the oracle before it is on its way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from outrider.errors import IllegalTransition
from outrider_coordinator.core.effects import Accepted, NeedTasks, Refused
from outrider_coordinator.core.events import RunCancelRequested, RunSubmitted, TasksAdded, TasksSubmitted
from outrider_coordinator.core.runs import graph
from outrider_coordinator.core.states import TERMINAL, TaskState
from outrider_coordinator.rpc import run_retry
from outrider_coordinator.rpc.convert import policies
from outrider_coordinator.store.reader import RunRecord
from sim.oracle_runs import Edge, Node, RunJudge, Wanted, wanted_of
from sim.requests import Call, run_spec

if TYPE_CHECKING:
    from sim.clients import Clients
    from sim.model_coordinator import Process


class RunClients:
    """Everybody who works with graphs. A run is named by the number of its first task."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._marks = clients.witness.marks
        self._run_ids: dict[int, str] = {}
        self._made = 0

    @property
    def _judge(self) -> RunJudge:
        """As it is now: a backup has one of its own."""
        return self._clients.witness.records.runs

    def submit(self, data: Mapping[str, Any]) -> None:
        """One graph."""
        tasks, number = data["tasks"], data["tasks"][0]["number"]
        spec = run_spec(data)
        request_id = f"run-{number}"
        self._judge.wanted[request_id] = wanted_of(spec)
        digest = _digest(spec.SerializeToString(deterministic=True))
        is_good = not data.get("cyclic", False)
        how = policies(spec, "run")

        def attempt(process: Process, call: Call) -> None:
            members = self._checked(call, spec.tasks, is_good=is_good, is_sequential=spec.sequential)
            if members:
                event = RunSubmitted(
                    self._clients.converter.ids.next(),
                    "default",
                    "run",
                    "",
                    members,
                    _nobody,
                    request_id,
                    digest,
                    known_request=self._known(process, request_id),
                    **how,
                )
                self._post(process, call, event, lambda answer: self._submitted(process, tasks, answer))

        Call(self._clients, attempt)

    def add(self, data: Mapping[str, Any]) -> None:
        """More tasks for a run whose submit was answered, in the name of one of its tasks where the plan says so."""
        tasks, run_id = data["tasks"], self._run_ids.get(data["run"])
        if run_id is None:
            return
        self._marks.saw("saw:tasks added to a run")
        spec = run_spec({"tasks": tasks})
        request_id = f"add-{tasks[0]['number']}"
        self._judge.wanted[request_id] = wanted_of(spec)
        digest = _digest(run_id.encode() + spec.SerializeToString(deterministic=True))
        parent = self._clients.ids.get(data.get("parent", 0), "")

        def attempt(process: Process, call: Call) -> None:
            members = self._checked(call, spec.tasks, is_good=True, is_whole=False)
            if members:
                known = self._known(process, request_id)
                event = TasksAdded(run_id, "default", members, _nobody, request_id, digest, parent, known)
                self._post(process, call, event, lambda answer: self._added(process, tasks, answer))

        Call(self._clients, attempt)

    def cancel(self, data: Mapping[str, Any]) -> None:
        """Cancel what is open of a run."""
        run_id = self._run_ids.get(data["run"])
        if run_id is None:
            return

        def attempt(process: Process, call: Call) -> None:
            def reply(value: Any) -> None:
                call.answered(process, lambda: self._clients.witness.run_cancelled(run_id))

            process.post(RunCancelRequested(run_id, "enough", reply))

        Call(self._clients, attempt)

    def retry(self, data: Mapping[str, Any]) -> None:
        """Do a run again where it did not succeed, or one task, when that is over by now."""
        again = self._run_again if "run" in data else self._task_again
        old_id = self._run_ids.get(data["run"]) if "run" in data else self._clients.ids.get(data["number"])
        if old_id is not None:
            self._made += 1
            again(old_id, f"again-{self._made}")

    # --- again -----------------------------------------------------------------------------------------------------

    def _run_again(self, run_id: str, request_id: str) -> None:
        def attempt(process: Process, call: Call) -> None:
            record = run_record(process, run_id)
            if record is None or not record.run.ended_us:
                call.is_over = True
                return
            self._marks.saw("saw:run done again")
            wanted = self._judge.again(run_id)
            tasks = [row for row in process.store.tables.tasks.values() if row.run_id == run_id]
            try:
                event = run_retry.again(record, tasks, self._clients.converter.ids, _nobody)
            except IllegalTransition:
                self._marks.demand("I6", wanted is None, "run {} is not done again, and did not succeed", run_id)
                call.is_over = True
                return
            assert wanted is not None
            self._judge.wanted[request_id] = wanted
            event.request_id, event.digest = request_id, _digest(run_id.encode())
            event.known_request = self._known(process, request_id)
            self._post(process, call, event, lambda answer: None)

        Call(self._clients, attempt)

    def _task_again(self, task_id: str, request_id: str) -> None:
        def attempt(process: Process, call: Call) -> None:
            tables = process.store.tables
            row = tables.tasks.get(task_id)
            if row is None or row.state not in TERMINAL:
                call.is_over = True
                return
            self._marks.saw("saw:task done again")
            ends = tables.task_ends(row.dependency_ids)
            done = [other for other in row.dependency_ids if other in ends and ends[other][0] is TaskState.SUCCEEDED]
            self._judge.wanted[request_id] = Wanted({"": Node(tuple(Edge(other, 1) for other in done))})
            submission = run_retry.task_again(row, ends, self._clients.converter.ids.next(), request_id)
            known = tables.request("default", request_id)

            def reply(answers: Sequence[Any]) -> None:
                call.answered(process, lambda: self._done_again(answers[0]))

            known_requests = {} if known is None else {("default", request_id): known}
            process.post(TasksSubmitted([submission], reply, ended=ends, known_requests=known_requests))

        Call(self._clients, attempt)

    def _done_again(self, answer: Any) -> None:
        if isinstance(answer, Accepted):
            self._clients.witness.task_accepted(answer.id)

    # --- parts -----------------------------------------------------------------------------------------------------

    def _checked(self, call: Call, messages: Any, *, is_good: bool, is_sequential: bool = False, is_whole: bool = True):  # type: ignore[no-untyped-def]  # members, or nothing
        """The members of a graph, none when it is refused for its shape."""
        members = self._clients.converter.members_at_once(messages, "run.tasks", "default")
        refused = graph.check(members, is_sequential=is_sequential, is_whole=is_whole)
        self._marks.demand("I18", is_good == (refused is None), "a graph is judged wrongly: {}", refused)
        call.is_over |= refused is not None
        return members if refused is None else []

    def _known(self, process: Process, request_id: str) -> tuple[str, bytes] | None:
        if process.state.requests.is_complete:
            return None
        return process.store.tables.run_request("default", request_id)

    def _post(
        self, process: Process, call: Call, event: RunSubmitted | TasksAdded, then: Callable[[Accepted], None]
    ) -> None:
        """Ask, and again with what the store knows of tasks that memory does not have."""

        def reply(value: Any) -> None:
            if isinstance(value, NeedTasks) and not all(map(process.store.tables.tasks.get, value.task_ids)):
                call.answered(process, lambda: self._clients.refusals.append("INVALID_REQUEST"))
            elif isinstance(value, NeedTasks):
                more = replace(event, ended=event.ended | process.store.tables.task_ends(value.task_ids))
                process.later(1_000, self._post, process, call, more, then)
            else:
                call.answered(process, lambda: self._answered(value, then))

        process.post(replace(event, reply=reply))

    def _answered(self, value: Accepted | Refused, then: Callable[[Accepted], None]) -> None:
        if isinstance(value, Accepted):
            then(value)
        else:
            self._clients.refusals.append(value.reason)

    def _submitted(self, process: Process, tasks: Sequence[Mapping[str, Any]], answer: Accepted) -> None:
        self._run_ids[tasks[0]["number"]] = answer.id
        self._note(process, tasks, answer.id, 0)

    def _added(self, process: Process, tasks: Sequence[Mapping[str, Any]], answer: Accepted) -> None:
        run_id, _, number = answer.id.partition("/")
        self._note(process, tasks, run_id, int(number))

    def _note(self, process: Process, tasks: Sequence[Mapping[str, Any]], run_id: str, part: int) -> None:
        row = process.store.tables.put["RunPart"][run_id, part]
        for task, task_id in zip(tasks, row.task_ids, strict=True):
            self._clients.ids[task["number"]] = task_id
            self._clients.witness.task_accepted(task_id)


def run_record(process: Process, run_id: str) -> RunRecord | None:
    """A run as the store has it, as far as doing it again asks; None when a backup has forgotten it."""
    put = process.store.tables.put
    if (run_id,) not in put["Run"]:
        return None
    parts = [row for key, row in sorted(put["RunPart"].items()) if key[0] == run_id]
    return RunRecord(put["Run"][(run_id,)], [], 0, 0, 0, parts)


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()


def _nobody(value: object) -> None:
    """Nobody waits for an answer yet."""
