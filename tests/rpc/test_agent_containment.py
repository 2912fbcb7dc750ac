"""A taken-over agent against a real coordinator: what it says of anything but its own session's attempts is nothing.

Two agents have joined over mutual TLS. One is honest; the other has everything an attacker could learn, the fences of
the honest one too.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

import outrider
from outrider.v1 import (
    agent_service_pb2,
    event_pb2,
    fleet_service_pb2,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
    worker_message_pb2,
)
from support.coordinator_process import ScriptedAgent
from support.secured import TIMEOUT_S, SecuredCoordinator
from support.waiting import eventually

RIGHT, WRONG = b'"right"', b'"wrong"'


class Scene:
    """A coordinator, an honest agent that holds a task, and one that was taken over."""

    def __init__(self, secured: SecuredCoordinator, identities: dict[str, bytes]) -> None:
        self.secured = secured
        self.tasks = task_service_pb2_grpc.TaskServiceStub(secured.local)
        self.identities = identities
        self.submitted: list[str] = []
        self.honest = self.agent("honest")
        self.task_id = self.submit()
        self.ref = self.honest.next("assign").assignments[0].ref
        self.evil = self.agent("evil")

    def agent(self, name: str, **hello: Any) -> ScriptedAgent:
        """A session of one of the two, by its own certificate."""
        channel = self.secured.by_certificate(self.identities[name])
        return ScriptedAgent(None, hello.pop("says", name), channel=channel, **hello)

    def submit(self, name: str = "m:f") -> str:
        """A task for whoever has a free slot."""
        spec = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function=name))
        request = task_service_pb2.SubmitRequest(spec=spec)
        self.submitted.append(self.tasks.Submit(request, timeout=TIMEOUT_S).task_id)
        return self.submitted[-1]

    def close(self) -> None:
        """Leave nothing for the next test: no open task, and a fleet that knows neither agent."""
        for task_id in self.submitted:
            self.tasks.Cancel(task_service_pb2.CancelRequest(task_id=task_id), timeout=TIMEOUT_S)
        for agent in (self.honest, self.evil):
            agent.vanish()
            request = fleet_service_pb2.RemoveAgentRequest(agent_id=agent.name, force=True)
            with suppress(grpc.RpcError):  # it was never let in
                self.secured.fleet.RemoveAgent(request, timeout=TIMEOUT_S)

    def task(self, task_id: str = "") -> task_pb2.Task:
        """As committed."""
        request = task_service_pb2.GetRequest(task_id=task_id or self.task_id)
        return self.tasks.Get(request, timeout=TIMEOUT_S).task

    def heard(self, agent: ScriptedAgent) -> None:
        """Wait until everything that an agent has sent is applied: its last report is acknowledged."""
        while True:
            for applied in agent.next("ack").applied:
                if applied.applied_seq >= agent.seq:
                    return

    def ends_well(self) -> None:
        """The honest agent reports, and that is the outcome."""
        self.honest.report(self.ref, completed=done(RIGHT), terminal=True)
        task = eventually(lambda: task if (task := self.task()).HasField("end_time") else None, TIMEOUT_S)
        assert (task.state, task.result.data) == (task_pb2.TASK_STATE_SUCCEEDED, RIGHT)
        assert [attempt.agent_id for attempt in task.attempts] == ["honest"]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredCoordinator]:
    """One coordinator for all: whatever was sent before, it goes on."""
    with SecuredCoordinator(tmp_path_factory.mktemp("containment")) as made:
        yield made


@pytest.fixture(scope="module")
def identities(secured: SecuredCoordinator) -> dict[str, bytes]:
    """What the two have joined with."""
    return {name: secured.joined(name) for name in ("honest", "evil")}


@pytest.fixture
def scene(secured: SecuredCoordinator, identities: dict[str, bytes]) -> Iterator[Scene]:
    """A new one for each test."""
    made = Scene(secured, identities)
    yield made
    made.close()


def done(value: bytes, content_type: str = "") -> worker_message_pb2.Completed:
    """A success with this value."""
    return worker_message_pb2.Completed(result=task_pb2.Payload(data=value, content_type=content_type))


def failed() -> worker_message_pb2.Failed:
    """A failure that would be final."""
    error = task_pb2.TaskError(reason=task_pb2.TASK_REASON_TASK_ERROR, message="made up")
    return worker_message_pb2.Failed(error=error)


REPORTS = (
    {"completed": done(WRONG), "terminal": True},
    {"failed": failed(), "terminal": True},
    {"started": worker_message_pb2.Started(), "terminal": False},
    {"progress": task_pb2.Progress(completed=1, total=1, status="made up"), "terminal": False},
    {"log": worker_message_pb2.Log(stream=1, data=b"made up"), "terminal": False},
    {
        "blocked": task_pb2.BlockedReason(key="k", clarification=task_pb2.ScopeClarification(question="?")),
        "terminal": False,
    },
)


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: next(iter(report)))
def test_an_agent_cannot_report_on_another_agents_attempt(scene: Scene, report: dict[str, Any]) -> None:
    """Not even with the right fence: it is acknowledged, so that it is not sent for ever, and changes nothing."""
    before = scene.task()
    scene.evil.report(scene.ref, **report)
    scene.heard(scene.evil)
    assert scene.task() == before
    scene.ends_well()
    logs = scene.tasks.ReadLogs(task_service_pb2.ReadLogsRequest(task_id=scene.task_id), timeout=TIMEOUT_S)
    assert not [chunk for response in logs for chunk in response.chunks]


def test_an_agent_cannot_answer_for_another_agents_attempt(scene: Scene) -> None:
    """Neither accept nor refuse nor give back what was offered to another; a refusal by policy ends nothing."""
    refs = [scene.ref]
    scene.evil.send(rejected=agent_service_pb2.Rejected(refs=refs, message="made up"))
    by_policy = task_pb2.TASK_REASON_REFUSED_BY_POLICY
    scene.evil.send(rejected=agent_service_pb2.Rejected(refs=refs, message="made up", reason=by_policy))
    scene.evil.send(revoked=agent_service_pb2.Revoked(refs=refs))
    scene.evil.send(accepted=agent_service_pb2.Accepted(refs=refs))
    scene.evil.report(ref("0" * 32), **REPORTS[0])
    scene.heard(scene.evil)
    task = scene.task()
    assert [(one.agent_id, one.state) for one in task.attempts] == [("honest", task_pb2.ATTEMPT_STATE_OFFERED)]
    scene.ends_well()


def test_a_fence_that_was_made_up_is_none(scene: Scene) -> None:
    """Of an attempt of its own, too: only the token of the assignment counts."""
    own = scene.submit()
    mine = scene.evil.next("assign").assignments[0].ref
    assert mine.task_id == own
    for fence in (0, 1, mine.fence + 1, 2**64 - 1):
        scene.evil.report(ref(own, mine.attempt, fence), **REPORTS[0])
        scene.evil.report(ref(own, mine.attempt + 1, fence), **REPORTS[0])
    scene.heard(scene.evil)
    assert not scene.task(own).HasField("end_time")
    scene.evil.report(ref(own, mine.attempt, mine.fence), completed=done(RIGHT), terminal=True)
    scene.heard(scene.evil)
    assert scene.task(own).result.data == RIGHT
    scene.ends_well()


@pytest.mark.parametrize(
    "name", ["", "0" * 32, "f" * 32, "../../etc/passwd", "a\x00b", "x" * 100_000, "'; DROP TABLE tasks; --", "%s%n"]
)
def test_results_of_tasks_that_were_never_offered_are_kept_as_evidence_only(scene: Scene, name: str) -> None:
    """Whatever they are called: no task appears, nobody opens a path, and the agent's next report is heard."""
    before = count(scene)
    for report in REPORTS:
        scene.evil.report(ref(name), **report)
    scene.heard(scene.evil)
    assert count(scene) == before
    scene.ends_well()


def test_a_session_that_is_over_says_nothing(scene: Scene) -> None:
    """Frames under another session's number end the stream; what a superseded session still says is not heard."""
    for epoch in (0, scene.evil.welcome.session_epoch + 1, scene.honest.welcome.session_epoch):
        thief = scene.agent("evil", instance_id=f"i{epoch}", instance_start_ms=epoch + 5)
        thief.welcome.session_epoch = epoch
        thief.report(scene.ref, **REPORTS[0])
        with pytest.raises(grpc.RpcError) as refused:
            thief.next("nothing")
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    scene.ends_well()


def test_what_another_agent_holds_cannot_be_taken_by_listing_it(scene: Scene) -> None:
    """A Hello that names another agent's attempts is told to kill them, and their owner goes on."""
    scene.evil.vanish()
    held = [agent_service_pb2.HeldAttempt(ref=scene.ref, state=task_pb2.ATTEMPT_STATE_STARTED)]
    outboxes = [agent_service_pb2.OutboxRange(outbox_id="box-honest", first_seq=1, last_seq=9)]
    scene.evil = scene.agent("evil", held=held, outboxes=outboxes, instance_id="j", instance_start_ms=9)
    assert [one.verdict for one in scene.evil.welcome.verdicts] == [agent_service_pb2.VERDICT_FENCE]
    scene.evil.report(scene.ref, **REPORTS[0])
    scene.heard(scene.evil)
    scene.ends_well()


@pytest.mark.parametrize("name", ["honest", "../honest", "", "Evil", "evil ", "evil\n", "e" * 64])
def test_an_agent_goes_by_its_own_name(scene: Scene, name: str) -> None:
    """Another's, and what is no name, are refused; the one that has the name goes on, and the refusal is on record."""
    with pytest.raises(grpc.RpcError) as refused:
        scene.agent("evil", says=name)
    assert refused.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)
    if refused.value.code() is grpc.StatusCode.PERMISSION_DENIED:
        log = (scene.secured.state / "audit.log").read_text()
        assert '"evil"' in log.splitlines()[-1]
    scene.ends_well()


@pytest.mark.parametrize("what", ["labels", "task_types", "host"])
def test_an_agent_cannot_make_the_coordinator_keep_without_bound(scene: Scene, what: str) -> None:
    """What it says of itself is bounded; beyond that its session does not begin."""
    too_much: dict[str, Any] = {
        "labels": {f"k{number}": "v" for number in range(5000)},
        "task_types": ["t"] * 5000,
        "host": "h" * 100_000,
    }
    with pytest.raises(grpc.RpcError) as refused:
        scene.agent("evil", **{what: too_much[what]})
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    scene.ends_well()


def test_a_frame_over_the_limit_ends_its_own_session_only(scene: Scene) -> None:
    """gRPC refuses it before anybody reads it; the other agent's stream is another one."""
    log = worker_message_pb2.Log(stream=1, data=b"x" * (17 << 20))
    scene.evil.report(scene.ref, log=log)
    with pytest.raises(grpc.RpcError) as refused:
        scene.evil.next("nothing")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    scene.ends_well()


def test_a_pickle_as_a_result_is_bytes_to_everybody(scene: Scene, tmp_path: Path) -> None:
    """Neither the coordinator nor the client unpickles what an agent returned: the client gets the bytes."""
    trap = tmp_path / "trapped"
    own = scene.submit()
    mine = scene.evil.next("assign").assignments[0].ref
    scene.evil.report(mine, completed=done(pickle.dumps(Trap(str(trap))), "application/python-pickle"), terminal=True)
    with outrider.Client(scene.secured.socket) as client:
        value = client.task(own).result(timeout=TIMEOUT_S)
    assert isinstance(value, bytes)
    assert not trap.exists()
    scene.ends_well()


def test_a_result_that_lies_about_its_type_is_an_error_of_that_task_alone(scene: Scene) -> None:
    """What is said to be JSON and is none does not reach the caller as a value, nor break its client."""
    own, other = scene.submit(), scene.submit()
    mine = scene.evil.next("assign").assignments[0].ref
    scene.evil.report(mine, completed=done(b"\x80\x04not json"), terminal=True)
    with outrider.Client(scene.secured.socket) as client:
        with pytest.raises(ValueError, match="JSON"):
            client.task(own).result(timeout=TIMEOUT_S)
        mine = scene.evil.next("assign").assignments[0].ref
        assert mine.task_id == other
        scene.evil.report(mine, completed=done(RIGHT), terminal=True)
        assert client.task(other).result(timeout=TIMEOUT_S) == "right"
    scene.ends_well()


def test_an_agent_cannot_answer_questions_of_another_namespace(scene: Scene) -> None:
    """An answer in the name of its own attempt reaches tasks of that attempt's namespace only."""
    spec = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function="m:ask"))
    request = task_service_pb2.SubmitRequest(spec=spec, namespace="lab")
    asks = scene.tasks.Submit(request, timeout=TIMEOUT_S).task_id
    asking = scene.evil.next("assign").assignments[0].ref
    question = task_pb2.BlockedReason(key="q", clarification=task_pb2.ScopeClarification(question="?"))
    scene.evil.report(asking, started=worker_message_pb2.Started())
    scene.evil.report(asking, blocked=question)
    scene.heard(scene.evil)
    own = scene.submit()  # in the default namespace; the slot is free while the other one waits
    mine = scene.evil.next("assign").assignments[0].ref
    assert mine.task_id == own
    answer = worker_message_pb2.AnswerGiven(task_id=asks, key="q", answer=task_pb2.Payload(data=b'"yes"'))
    scene.evil.report(mine, answer_given=answer)
    scene.heard(scene.evil)
    found = scene.tasks.Get(task_service_pb2.GetRequest(task_id=asks, namespace="lab"), timeout=TIMEOUT_S).task
    assert [wait.key for wait in found.open_waits] == ["q"]
    scene.tasks.Cancel(task_service_pb2.CancelRequest(task_id=asks, namespace="lab"), timeout=TIMEOUT_S)
    scene.ends_well()


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def ref(task_id: str, attempt: int = 1, fence: int = 7) -> agent_service_pb2.AttemptRef:
    """A reference that somebody made up."""
    return agent_service_pb2.AttemptRef(task_id=task_id, attempt=attempt, fence=fence)


def count(scene: Scene) -> int:
    """How many tasks there are, and events of them."""
    page = scene.tasks.List(task_service_pb2.ListRequest(page_size=1000), timeout=TIMEOUT_S)
    request = task_service_pb2.WatchRequest(after_cursor=0)
    call = scene.tasks.Watch(request, timeout=TIMEOUT_S)
    events: list[event_pb2.Event] = []
    for response in call:
        events += response.events.events
        if response.HasField("caught_up"):
            call.cancel()
            break
    return len(page.tasks) + len(events)
