"""Verdicts on agents that are not heard: when they are given, when not, and what an operator is told."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.events import AgentOrder, AgentOrdered, HeartbeatReceived, OutboxFacts, PauseNoticed
from outrider_coordinator.core.model import HostFacts
from outrider_coordinator.core.placement.eligibility import closed_to_work
from outrider_coordinator.core.records import InsertEvent, PutEpoch
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.states import Connectivity, EventType, TaskState
from support.core_world import World


def told(world: World, kind: EventType) -> list[InsertEvent]:
    """Events of a kind so far."""
    return [event for event in world.log if event.type == kind]


def fleet(count: int, silent: int) -> tuple[World, list[str]]:
    """A fleet with a running task on each agent, of which some have just gone silent; and their tasks."""
    world = World(CoreSettings(breaker_failures=50))
    agents = [world.connect(f"a{number}", 9) for number in range(count)]
    world.submit(count)
    for agent in agents:
        (ref,) = agent.held
        world.start(agent, ref)
    lost = agents[:silent]
    tasks = [ref.task_id for agent in lost for ref in agent.held]
    for agent in lost:
        world.disconnect(agent)
    return world, tasks


def reruns(world: World, tasks: list[str]) -> int:
    """How many of these tasks have been offered again."""
    return sum(world.state.tasks[task].attempts_made > 1 for task in tasks)


def test_half_the_fleet_silent_at_once_is_our_own_fault_at_first() -> None:
    """The verdicts are held for 60 s and given one after the other then; an alarm says so, and that it is over."""
    world, tasks = fleet(6, 3)
    assert len(told(world, EventType.FLEET_ALARM)) == 1
    assert world.state.watch.is_alarmed
    world.wait(59)
    assert reruns(world, tasks) == 0
    world.wait(3)
    assert reruns(world, tasks) == 3
    assert len(told(world, EventType.FLEET_RECOVERED)) == 1
    assert not world.state.watch.is_alarmed


@pytest.mark.parametrize(("count", "silent"), [(3, 2), (8, 3)])
def test_less_than_half_or_less_than_three_is_their_fault(count: int, silent: int) -> None:
    """The graces hold as ever."""
    world, tasks = fleet(count, silent)
    world.wait(6)
    assert reruns(world, tasks) == silent
    assert not told(world, EventType.FLEET_ALARM)


def test_the_end_of_an_alarm_says_who_is_still_missing() -> None:
    """Of seven agents five went silent, and one came back."""
    world, _ = fleet(7, 5)
    world.connect("a0", 9)
    world.wait(62)
    (event,) = told(world, EventType.FLEET_RECOVERED)
    assert event.text.startswith("4 agents are still missing; their work goes elsewhere, at most ")


def test_the_alarm_ends_when_everybody_is_back() -> None:
    """Nothing was rerun, nothing was lost, and a later loss of one agent is decided after its grace."""
    world, tasks = fleet(6, 3)
    for name in ("a0", "a1", "a2"):
        world.connect(name, 9)
    assert told(world, EventType.FLEET_RECOVERED)
    world.wait(5)
    world.disconnect(world.agents["a0"])
    world.wait(6)
    assert reruns(world, tasks) == 1


def test_there_is_one_alarm_in_ten_minutes() -> None:
    """A second wave is believed: holding back for ever would lose the work for good."""
    world, _ = fleet(9, 5)
    world.wait(70)
    left = [agent for agent in world.agents.values() if agent.epoch]
    tasks = [
        ref.task_id for agent in left[:3] for ref in agent.held if world.state.tasks[ref.task_id].attempts_made == 1
    ]
    for agent in left[:3]:
        world.disconnect(agent)
    world.wait(8)
    assert reruns(world, tasks) == len(tasks) > 0
    assert len(told(world, EventType.FLEET_ALARM)) == 1


def test_a_pause_of_our_own_loses_nobody() -> None:
    """A coordinator that stood still for a minute believes no silence before a Hello or 25 s."""
    world = World()
    there, gone, other = world.connect("a"), world.connect("b"), world.connect("c")
    tasks = world.submit(2)
    for agent, task in ((there, tasks[0]), (gone, tasks[1])):
        world.start(agent, world.ref(agent, task))
    world.disconnect(gone)
    world.do(PauseNoticed(60 * SECOND_US), after_us=60 * SECOND_US)
    assert world.state.agents["a"].connectivity is Connectivity.ONLINE
    world.wait(24)
    assert reruns(world, tasks) == 0
    world.wait(3)
    assert reruns(world, tasks) == 1
    assert [ref.task_id for ref in other.held] == [tasks[1]]


def test_heartbeats_get_rarer_with_the_fleet_and_patience_grows() -> None:
    """5,000 agents send 500 heartbeats a second, and each may miss three of its own."""
    world = World()
    agent = world.state.agents[world.connect("a").id]
    world.state.agents.update({f"x{number}": agent for number in range(4998)})
    world.connect("b")
    assert world.replies[-1].heartbeat_us == 10 * SECOND_US
    late = world.state.agents["b"]
    for name in [name for name in world.state.agents if name.startswith("x")]:
        del world.state.agents[name]
    world.agents["b"].silent = True
    world.wait(28)
    assert late.is_online
    world.wait(6)
    assert late.connectivity is Connectivity.SUSPECT


def test_two_processes_that_fight_for_a_name_are_held_back() -> None:
    """The third takeover in ten minutes quarantines the name: no work, said so, until an operator resumes it."""
    world = World()
    for number in range(4):
        world.connect("a", 2, instance_id=f"i{number}", instance_start_ms=number)
    agent = world.state.agents["a"]
    assert agent.is_quarantined
    (event,) = told(world, EventType.AGENT_QUARANTINED)
    assert "outrider agent resume a" in event.text
    (task,) = world.submit()
    assert world.state_of(task) is TaskState.QUEUED
    rule = closed_to_work(agent)
    assert rule is not None
    assert rule.name == "QUARANTINED"
    world.do(AgentOrdered("a", AgentOrder.RESUME, world.replies.append))
    assert world.state_of(task) is TaskState.ASSIGNED


def test_an_agent_that_restarts_often_is_not_held_back() -> None:
    """A stream that ended before the next process came is no fight, and the same process may come again at will."""
    world = World()
    for number in range(6):
        world.disconnect(world.connect("a", instance_id=f"i{number}", instance_start_ms=number))
    for _ in range(6):
        world.connect("a", instance_id="i6", instance_start_ms=6)
    assert not world.state.agents["a"].is_quarantined


def test_a_gap_in_an_outbox_is_recorded_and_passed() -> None:
    """An agent that has dropped what we do not know (our backup is older) goes on behind it; an event says so (I5)."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.disconnect(agent)
    agent.seq = 7
    world.connect("a", outboxes=[OutboxFacts("box-a", 8, 7)])
    (event,) = told(world, EventType.AGENT_OUTBOX_GAP)
    assert "reports 2 to 7" in event.text
    world.complete(agent, ref)
    assert world.state_of(task) is TaskState.SUCCEEDED


@pytest.mark.parametrize(("seen", "expected"), [(0, 1), (1, 2), (9, 10), (1 << 40, 1)])
def test_a_restored_coordinator_starts_above_what_the_fleet_has_seen(seen: int, expected: int) -> None:
    """Whoever has seen more than the store knows raises epoch, sessions and fences, durably, before any promise."""
    world = World()
    world.state.store_id = "s"
    agent = world.connect("a", store_id="s", coordinator_epoch=seen)
    assert world.state.epoch == expected
    assert agent.epoch >> 40 == expected
    assert world.state.fence_next >> 40 == expected
    assert [row for row in world.rows if isinstance(row, PutEpoch)] == ([PutEpoch(expected)] if expected > 1 else [])
    world.connect("a", store_id="s", coordinator_epoch=expected)
    assert world.state.epoch == expected


def test_an_agent_of_another_coordinator_is_named() -> None:
    """Another store's epochs mean nothing here, and the operator is told where the agent comes from."""
    world = World()
    world.state.store_id = "s"
    world.connect("a", store_id="other", coordinator_epoch=99)
    assert world.state.epoch == 1
    (event,) = told(world, EventType.AGENT_ONLINE)
    assert "store other" in event.text


def test_a_lease_is_counted_also_in_a_session_that_is_over() -> None:
    """The answer to a heartbeat leaves before we know of it: what was sent is what counts."""
    world = World()
    agent = world.connect("a")
    epoch = agent.epoch
    world.disconnect(agent)
    world.do(HeartbeatReceived("a", epoch, HostFacts()), after_us=SECOND_US)
    assert world.state.agents["a"].lease_us == world.state.now_us
