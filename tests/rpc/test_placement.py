"""Placement, order of the queue and preemption over real sockets, with scripted agents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from outrider import errors, status
from outrider.v1 import fleet_service_pb2, task_pb2, task_service_pb2, worker_message_pb2
from support.coordinator_process import CoordinatorProcess, ScriptedAgent
from support.waiting import eventually


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[CoordinatorProcess]:
    """A running coordinator, gone afterwards."""
    process = CoordinatorProcess(tmp_path)
    process.start()
    yield process
    process.kill()


def submit(coordinator: CoordinatorProcess, submitter: str = "", **spec: Any) -> str:
    """Submit a function; its id."""
    work = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function="m:f"), **spec)
    request = task_service_pb2.SubmitRequest(spec=work, submitter=submitter)
    return str(coordinator.tasks.Submit(request, timeout=20).task_id)


def task_of(coordinator: CoordinatorProcess, task_id: str) -> task_pb2.Task:
    """A task as committed."""
    task: task_pb2.Task = coordinator.tasks.Get(task_service_pb2.GetRequest(task_id=task_id), timeout=20).task
    return task


def finish(agent: ScriptedAgent, assignment: Any) -> None:
    """An attempt succeeds."""
    agent.report(assignment.ref, terminal=True, completed=worker_message_pb2.Completed())


def test_what_an_agent_offers_is_shown_taken_and_remembered(coordinator: CoordinatorProcess) -> None:
    """Resources, task types and runners travel from Hello to operators, bound what runs, and outlive a restart."""
    offers: dict[str, Any] = {"resources": {"gpu": 1.0, "bad": -1.0}, "task_types": ["review"], "runners": ["claude"]}
    agent = ScriptedAgent(coordinator, "a", slots=4, **offers)
    demands: dict[str, Any] = {
        "resources": {"gpu": 1.0},
        "placement": task_pb2.Placement(runner="claude", task_type="review"),
    }
    first, second = submit(coordinator, **demands), submit(coordinator, **demands)
    (assignment,) = agent.next("assign").assignments
    assert assignment.ref.task_id == first
    get = fleet_service_pb2.GetAgentRequest(agent_id="a")
    shown = coordinator.fleet.GetAgent(get, timeout=20).agent
    assert dict(shown.resources) == {"gpu": 1.0}
    assert dict(shown.resources_used) == {"gpu": 1.0}
    assert (list(shown.task_types), list(shown.runners)) == (["review"], ["claude"])
    explained = coordinator.tasks.Explain(task_service_pb2.ExplainRequest(task_id=second), timeout=20)
    assert [(verdict.agent_id, verdict.rule) for verdict in explained.agents] == [("a", "RESOURCES_IN_USE")]
    finish(agent, assignment)
    (assignment,) = agent.next("assign").assignments
    assert assignment.ref.task_id == second
    coordinator.kill()
    coordinator.start()
    shown = coordinator.fleet.GetAgent(get, timeout=20).agent
    assert (dict(shown.resources), list(shown.runners)) == ({"gpu": 1.0}, ["claude"])
    assert dict(shown.resources_used) == {"gpu": 1.0}


def test_an_unknown_strategy_is_refused_by_its_field(coordinator: CoordinatorProcess) -> None:
    """A strategy that this version does not know is INVALID_ARGUMENT and names its field."""
    with pytest.raises(grpc.RpcError) as refused:
        submit(coordinator, placement=task_pb2.Placement(strategy=77))  # type: ignore[arg-type]  # a later version's
    error = status.from_rpc_error(refused.value)
    assert isinstance(error, errors.InvalidRequest)
    assert [violation.field for violation in error.violations] == ["spec.placement.strategy"]


def test_submitters_take_turns_also_after_a_restart(coordinator: CoordinatorProcess) -> None:
    """A task of another submitter goes before the rest of a flood; who submitted what is stored."""
    flood = [submit(coordinator, "bulk") for _ in range(6)]
    mine = submit(coordinator, "me")
    assert task_of(coordinator, mine).submitter == "me"
    coordinator.kill()
    coordinator.start()
    agent = ScriptedAgent(coordinator, "a")
    order = []
    for _ in range(3):
        (assignment,) = agent.next("assign").assignments
        order.append(assignment.ref.task_id)
        finish(agent, assignment)
    assert order == [flood[0], mine, flood[1]]


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    """Beyond queue_depth_max a submit is RESOURCE_EXHAUSTED with ErrorInfo QUEUE_FULL and RetryInfo."""
    coordinator = CoordinatorProcess(tmp_path, OUTRIDER_COORDINATOR_QUEUE_DEPTH_MAX="2")
    coordinator.start()
    try:
        submit(coordinator)
        submit(coordinator)
        with pytest.raises(grpc.RpcError) as refused:
            submit(coordinator)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = dict(refused.value.trailing_metadata())["grpc-status-details-bin"]
        found = {detail.type_url.rpartition("/")[2]: detail for detail in status_pb2.Status.FromString(details).details}
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        assert found[info.DESCRIPTOR.full_name].Unpack(info)
        assert found[retry.DESCRIPTOR.full_name].Unpack(retry)
        assert info.reason == "QUEUE_FULL"
        assert retry.retry_delay.ToMilliseconds() > 0
    finally:
        coordinator.kill()


def test_one_user_cannot_fill_the_queue(tmp_path: Path) -> None:
    """Beyond submitter_open_max another task of theirs is refused with their name; others still have room."""
    coordinator = CoordinatorProcess(tmp_path, OUTRIDER_COORDINATOR_SUBMITTER_OPEN_MAX="1")
    coordinator.start()
    try:
        submit(coordinator, "ann")
        with pytest.raises(grpc.RpcError, match="'ann' may have 1 open tasks") as refused:
            submit(coordinator, "ann")
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        submit(coordinator, "bob")
        submit(coordinator)
        submit(coordinator)
    finally:
        coordinator.kill()


def test_a_critical_task_takes_a_slot_over_the_wire(coordinator: CoordinatorProcess) -> None:
    """The agent is told to stop the victim for PREEMPTED, the urgent task starts, and the victim starts again later."""
    agent = ScriptedAgent(coordinator, "a")
    victim = submit(coordinator, preemptible=True)
    (running,) = agent.next("assign").assignments
    agent.report(running.ref, started=worker_message_pb2.Started())
    eventually(lambda: task_of(coordinator, victim).state == task_pb2.TASK_STATE_RUNNING)
    urgent = submit(coordinator, priority=10)
    order = agent.next("cancel")
    assert ([ref.task_id for ref in order.refs], order.reason) == ([victim], task_pb2.TASK_REASON_PREEMPTED)
    error = task_pb2.TaskError(reason=task_pb2.TASK_REASON_PREEMPTED, message="stopped")
    agent.report(running.ref, terminal=True, failed=worker_message_pb2.Failed(error=error, recoverable=True))
    (taken,) = agent.next("assign").assignments
    assert taken.ref.task_id == urgent
    finish(agent, taken)
    (again,) = agent.next("assign").assignments
    assert (again.ref.task_id, again.ref.attempt) == (victim, 2)
    assert [attempt.counted for attempt in task_of(coordinator, victim).attempts] == [False, False]
