"""Breakers over real sockets: listed, reset, told in events, and there again after a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from outrider import errors, status
from outrider.v1 import (
    event_pb2,
    fleet_service_pb2,
    task_pb2,
    task_service_pb2,
    worker_message_pb2,
)
from support.coordinator_process import CoordinatorProcess, ScriptedAgent

ResetBreaker = fleet_service_pb2.ResetBreakerRequest
OPEN, CLOSED = fleet_service_pb2.BREAKER_STATE_OPEN, fleet_service_pb2.BREAKER_STATE_CLOSED


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[CoordinatorProcess]:
    """A coordinator whose breakers open at the second failure and stay open for the test."""
    process = CoordinatorProcess(
        tmp_path, OUTRIDER_COORDINATOR_BREAKER_FAILURES="2", OUTRIDER_COORDINATOR_BREAKER_RESET_S="500"
    )
    process.start()
    yield process
    process.kill()


def submit(coordinator: CoordinatorProcess, **spec: Any) -> str:
    """A function that may be tried often; its id."""
    retry = task_pb2.RetryPolicy(max_attempts=9)
    retry.initial_backoff.FromMilliseconds(1)
    work = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function="m:f"), retry=retry, **spec)
    return coordinator.tasks.Submit(task_service_pb2.SubmitRequest(spec=work), timeout=20).task_id


def fail(agent: ScriptedAgent, before: Callable[[], object] = lambda: None) -> str:
    """The next assignment fails by its own error, once ``before`` has been done; the id of its task."""
    (assignment,) = agent.next("assign").assignments
    before()
    error = task_pb2.TaskError(reason=task_pb2.TASK_REASON_TASK_ERROR, message="boom")
    agent.report(assignment.ref, failed=worker_message_pb2.Failed(error=error, recoverable=True), terminal=True)
    return str(assignment.ref.task_id)


def complete(agent: ScriptedAgent) -> str:
    """The next assignment succeeds; the id of its task."""
    (assignment,) = agent.next("assign").assignments
    agent.report(assignment.ref, completed=worker_message_pb2.Completed(), terminal=True)
    return str(assignment.ref.task_id)


def wait_for(coordinator: CoordinatorProcess, kind: event_pb2.EventType.ValueType) -> event_pb2.Event:
    """The first event of a kind, from the beginning of the log."""
    request = task_service_pb2.WatchRequest(after_cursor=0, types=[kind])
    for response in coordinator.tasks.Watch(request, timeout=30):
        for event in response.events.events:
            return event
    raise AssertionError("the watch ended")


def get(coordinator: CoordinatorProcess, task_id: str) -> task_pb2.Task:
    """A task as committed."""
    return coordinator.tasks.Get(task_service_pb2.GetRequest(task_id=task_id), timeout=20).task


def agent_of(coordinator: CoordinatorProcess, name: str) -> fleet_service_pb2.Agent:
    """An agent as it is shown."""
    return coordinator.fleet.GetAgent(fleet_service_pb2.GetAgentRequest(agent_id=name), timeout=20).agent


def systems(coordinator: CoordinatorProcess) -> list[fleet_service_pb2.SystemBreaker]:
    """All systems that are complained of."""
    return list(coordinator.fleet.ListSystems(fleet_service_pb2.ListSystemsRequest(), timeout=20).systems)


def lose_a_type(coordinator: CoordinatorProcess) -> tuple[ScriptedAgent, ScriptedAgent]:
    """Two agents, the first of which fails twice at what the second one can do."""
    bad, good = ScriptedAgent(coordinator, "bad"), None

    def pause() -> None:
        coordinator.fleet.PauseAgent(fleet_service_pb2.PauseAgentRequest(agent_id="bad"), timeout=20)

    for _ in range(2):
        task_id = submit(coordinator, type="build")
        # Paused first: what failed goes again within a millisecond, and would go there once more.
        assert fail(bad, pause) == task_id
        good = good or ScriptedAgent(coordinator, "good")
        coordinator.fleet.ResumeAgent(fleet_service_pb2.ResumeAgentRequest(agent_id="good"), timeout=20)
        assert complete(good) == task_id
        coordinator.fleet.PauseAgent(fleet_service_pb2.PauseAgentRequest(agent_id="good"), timeout=20)
        coordinator.fleet.ResumeAgent(fleet_service_pb2.ResumeAgentRequest(agent_id="bad"), timeout=20)
    assert good is not None
    return bad, good


def test_an_agent_loses_a_type_of_work_and_gets_it_back(coordinator: CoordinatorProcess) -> None:
    """The breaker for the type is shown and told in an event, other work goes on, and a reset ends it."""
    bad, _ = lose_a_type(coordinator)
    event = wait_for(coordinator, event_pb2.EVENT_TYPE_AGENT_TYPE_BREAKER)
    assert (event.agent_id, event.text) == ("bad", "build: OPEN")
    shown = agent_of(coordinator, "bad")
    assert shown.breaker == CLOSED
    ((lost),) = shown.type_breakers
    assert (lost.task_type, lost.state) == ("build", OPEN)
    assert lost.reset_time.seconds > shown.last_heard_time.seconds
    held = submit(coordinator, type="build")
    other = submit(coordinator, type="test")
    assert complete(bad) == other
    reset = coordinator.fleet.ResetBreaker(ResetBreaker(agent_id="bad", task_type="build"), timeout=20)
    assert not reset.agent.type_breakers
    assert complete(bad) == held


def test_breakers_outlive_a_kill(coordinator: CoordinatorProcess) -> None:
    """What was not trusted before a kill -9 of the coordinator is not trusted after it either."""
    lose_a_type(coordinator)
    # What is offered and not accepted for a while goes elsewhere: there is nobody else.
    coordinator.fleet.PauseAgent(fleet_service_pb2.PauseAgentRequest(agent_id="bad"), timeout=20)
    agent = ScriptedAgent(coordinator, "third", slots=4)
    for _ in range(3):
        submit(coordinator, systems=["github"], type="other")
        (assignment,) = agent.next("assign").assignments
        external = task_pb2.ExternalDependency(system="github", issue="503")
        agent.report(assignment.ref, started=worker_message_pb2.Started())
        agent.report(assignment.ref, blocked=task_pb2.BlockedReason(key="gh", external=external))
    assert wait_for(coordinator, event_pb2.EVENT_TYPE_SYSTEM_BREAKER).text == "github: OPEN"
    before = systems(coordinator), list(agent_of(coordinator, "bad").type_breakers)
    coordinator.kill()
    coordinator.start()
    assert (systems(coordinator), list(agent_of(coordinator, "bad").type_breakers)) == before
    assert [(one.system, one.state) for one in before[0]] == [("github", OPEN)]


def test_a_system_that_is_down_holds_back_what_declares_it(coordinator: CoordinatorProcess) -> None:
    """Three tasks that fail on it take it down; it is listed with what it holds back; a reset lets that go."""
    agent = ScriptedAgent(coordinator, "a")
    failed = []
    for _ in range(3):
        once = task_pb2.RetryPolicy(max_attempts=1)
        work = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function="m:f"), retry=once, systems=["api:example"])
        coordinator.tasks.Submit(task_service_pb2.SubmitRequest(spec=work), timeout=20)
        failed.append(fail(agent))
    wait_for(coordinator, event_pb2.EVENT_TYPE_SYSTEM_BREAKER)
    held = submit(coordinator, systems=["api:example"])
    (system,) = systems(coordinator)
    assert (system.system, system.state, system.held_count) == ("api:example", OPEN, 1)
    blamed = [attempt.blame for task_id in failed for attempt in get(coordinator, task_id).attempts]
    assert blamed == [task_pb2.BLAME_TASK, task_pb2.BLAME_SYSTEM, task_pb2.BLAME_SYSTEM]
    assert system.reset_time.seconds
    coordinator.fleet.ResetBreaker(ResetBreaker(system="api:example"), timeout=20)
    assert complete(agent) == held
    assert systems(coordinator) == []


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        (ResetBreaker(), errors.InvalidRequest, "name an agent or a system"),
        (ResetBreaker(agent_id="a", system="s"), errors.InvalidRequest, "not both"),
        (ResetBreaker(system="s", task_type="t"), errors.InvalidRequest, "one breaker for all types"),
        (ResetBreaker(agent_id="nobody"), errors.NotFound, "outrider agent list"),
        (ResetBreaker(agent_id="a", task_type="t"), errors.NotFound, "outrider agent show a"),
        (ResetBreaker(system="s"), errors.NotFound, "outrider system list"),
    ],
    ids=["nobody", "both", "type of a system", "unknown agent", "unknown type", "unknown system"],
)
def test_a_reset_of_what_is_not_there_says_so(
    coordinator: CoordinatorProcess, request_: fleet_service_pb2.ResetBreakerRequest, kind: type, words: str
) -> None:
    """Each refusal is a typed error that says what to do."""
    ScriptedAgent(coordinator, "a")
    with pytest.raises(grpc.RpcError) as raised:
        coordinator.fleet.ResetBreaker(request_, timeout=20)
    error = status.from_rpc_error(raised.value)
    assert isinstance(error, kind)
    assert words in str(error)
