"""Who is still there, with real daemons: pauses, silences, and agents that come back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.v1 import event_pb2, fleet_service_pb2, task_pb2, task_service_pb2
from support.daemons import Daemons, command, state_name
from support.waiting import eventually, pass_time

QUICK = {"OUTRIDER_COORDINATOR_HEARTBEAT_INTERVAL_S": "0.2", "OUTRIDER_COORDINATOR_SUSPECT_AFTER_S": "0.6"}


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    """A coordinator that is quick to suspect agents; agents as the test starts them."""
    with Daemons(tmp_path, **QUICK) as running:
        yield running


def agent_events(daemons: Daemons) -> list[str]:
    """Kinds of the events about agents so far, from a watch of everything that ends with the next task."""
    (task_id,) = daemons.submit(command(["true"]))
    request = task_service_pb2.WatchRequest(after_cursor=0)
    kinds = []
    for response in daemons.coordinator.tasks.Watch(request, timeout=30):
        for event in response.events.events:
            kinds.append(event_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_"))
            if event.task_id == task_id and event.type == event_pb2.EVENT_TYPE_TASK_SUCCEEDED:
                return kinds
    raise AssertionError("the watch ended early")


def test_a_coordinator_that_stood_still_loses_nobody(daemons: Daemons) -> None:
    """SIGSTOP for ten times the silence it allows: every agent is there afterwards and nothing is run again."""
    for name in ("a", "b", "c"):
        daemons.agent(name, 2)
    spec = command(["sleep", "12"])
    spec.disconnect_grace.FromMilliseconds(100)
    tasks = daemons.submit(spec, spec, spec)
    eventually(lambda: daemons.states() == ["RUNNING"] * 3)
    daemons.coordinator.signal(signal.SIGSTOP)
    pass_time(6)
    daemons.coordinator.signal(signal.SIGCONT)
    daemons.events(tasks)
    for task_id in tasks:
        task = daemons.get(task_id)
        assert (state_name(task.state), len(task.attempts)) == ("SUCCEEDED", 1)
    assert "AGENT_SUSPECT" not in agent_events(daemons)


def test_a_drain_with_a_deadline_moves_what_still_runs(daemons: Daemons, tmp_path: Path) -> None:
    """What runs when the drain's time is over goes to another agent, uncounted, and the drained one leaves."""
    drained = daemons.agent("a", 1)
    gate = tmp_path / "gate"
    (task_id,) = daemons.submit(command(["sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.1; done"]))
    eventually(lambda: daemons.states() == ["RUNNING"])
    daemons.agent("b", 1)
    request = fleet_service_pb2.DrainAgentRequest(agent_id="a")
    request.timeout.FromMilliseconds(500)
    daemons.coordinator.fleet.DrainAgent(request, timeout=20)
    assert drained.wait() == 0
    eventually(lambda: [attempt.agent_id for attempt in daemons.get(task_id).attempts] == ["a", "b"])
    gate.touch()
    daemons.events([task_id])
    first, second = daemons.get(task_id).attempts
    assert first.error.reason == task_pb2.TASK_REASON_MOVED
    assert [first.counted, second.counted] == [False, True]


def test_an_alarm_is_shown_while_much_of_the_fleet_is_silent(daemons: Daemons) -> None:
    """Three agents stopped at once: the coordinator suspects itself, says so, and forgets it when they are back."""
    agents = [daemons.agent(name, 1) for name in ("a", "b", "c")]
    fleet = daemons.coordinator.fleet

    def alarm() -> bool:
        return fleet.GetCoordinator(fleet_service_pb2.GetCoordinatorRequest(), timeout=20).fleet_alarm

    spec = command(["sleep", "8"])
    spec.disconnect_grace.FromMilliseconds(100)
    tasks = daemons.submit(spec, spec, spec)
    eventually(lambda: daemons.states() == ["RUNNING"] * 3)
    assert not alarm()
    for agent in agents:
        agent.suspend()
    eventually(alarm, 10, "the alarm")
    pass_time(1)
    for agent in agents:
        agent.resume()
    eventually(lambda: not alarm(), 20, "its end")
    daemons.events(tasks)
    assert [len(daemons.get(task_id).attempts) for task_id in tasks] == [1, 1, 1]
    kinds = agent_events(daemons)
    assert kinds.count("FLEET_ALARM") == kinds.count("FLEET_RECOVERED") == 1
