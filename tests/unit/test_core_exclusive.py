"""Exclusive tasks: another attempt starts only once it is certain that the earlier one does not run (I13)."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.agents import lease
from outrider_coordinator.core.events import AgentOrder, AgentOrdered, SessionEnded
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.states import AttemptState, Reason, TaskState
from support.core_world import ModelAgent, World
from support.restart import restart


def lost(world: World) -> tuple[ModelAgent, ModelAgent, str]:
    """An exclusive task that runs on an agent which goes out of contact, and another agent."""
    gone, other = world.connect("a"), world.connect("b")
    (task,) = world.submit(exclusive=True, disconnect_grace_us=SECOND_US)
    world.start(gone, world.ref(gone, task))
    world.wait(30)
    world.disconnect(gone)
    return gone, other, task


def test_it_waits_for_the_lease_and_a_tenth() -> None:
    """The grace is over after one second, the lease after 15: the task goes elsewhere after 16.5."""
    world = World()
    _, other, _ = lost(world)
    world.wait(16.4)
    assert not other.held
    world.wait(0.2)
    assert other.held


def test_a_grace_that_is_longer_than_the_lease_is_kept() -> None:
    """The lease is a lower bound only."""
    world = World()
    gone, other = world.connect("a"), world.connect("b")
    (task,) = world.submit(exclusive=True, disconnect_grace_us=60 * SECOND_US)
    world.start(gone, world.ref(gone, task))
    world.disconnect(gone)
    world.wait(59.9)
    assert not other.held
    world.wait(0.2)
    assert other.held


def test_the_old_attempt_decides_nothing_any_more() -> None:
    """No strays: a success that arrives after another attempt was started is kept as evidence only."""
    world = World()
    gone, other, task = lost(world)
    ref = world.ref(gone, task)
    world.wait(17)
    gone.held[ref] = AttemptState.CLOSED
    world.connect("a")
    world.complete(gone, ref)
    assert world.state_of(task) is TaskState.ASSIGNED
    world.complete(other, world.ref(other, task))
    assert world.state_of(task) is TaskState.SUCCEEDED


def test_it_goes_on_when_its_agent_is_back_within_the_lease() -> None:
    """Contact within the lease: the attempt resumes, nothing else is started."""
    world = World()
    gone, other, task = lost(world)
    world.wait(10)
    world.connect("a")
    world.wait(60)
    assert not other.held
    world.complete(gone, world.ref(gone, task))
    assert world.state_of(task) is TaskState.SUCCEEDED


def test_one_that_its_lease_ended_is_tried_again() -> None:
    """The agent comes back, says that it killed the attempt, and the task is tried again as after any loss."""
    world = World()
    gone, _, task = lost(world)
    world.wait(15.5)
    ref = world.ref(gone, task)
    gone.held[ref] = AttemptState.CLOSED
    world.connect("a")
    world.fail(gone, ref, Reason.LEASE_EXPIRED)
    record = world.state.tasks[task]
    assert (record.attempts_made, record.attempts_counted) == (2, 1)


def test_a_removed_agents_exclusive_task_waits_for_the_lease() -> None:
    """Removing an agent by force does not make it certain that it has stopped."""
    world = World()
    gone, other = world.connect("a"), world.connect("b")
    (task,) = world.submit(exclusive=True)
    world.start(gone, world.ref(gone, task))
    world.do(AgentOrdered("a", AgentOrder.REMOVE, world.replies.append, force=True))
    assert world.state_of(task) is TaskState.PENDING
    world.wait(16.4)
    assert not other.held
    world.wait(0.2)
    assert other.held


@pytest.mark.parametrize("waits", [True, False])
def test_a_start_waits_for_leases_by_its_own_clock(*, waits: bool) -> None:
    """The wall clock was set an hour ahead while no coordinator ran: a lease is waited for from the start on."""
    world = World()
    gone, other = world.connect("a"), world.connect("b")
    (task,) = world.submit(exclusive=waits)
    world.start(gone, world.ref(gone, task))
    world.do(AgentOrdered("b", AgentOrder.PAUSE, world.replies.append))
    world.do(AgentOrdered("a", AgentOrder.REMOVE, world.replies.append, force=True))
    world.now_us += 3600 * SECOND_US
    restart(world)
    world.connect("b")
    world.do(AgentOrdered("b", AgentOrder.RESUME, world.replies.append))
    world.wait(16.4)
    assert bool(other.held) is not waits
    world.wait(0.2)
    assert other.held


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("instance", ["i", "another"])
def test_only_the_same_process_can_say_that_it_has_not_got_it(*, started: bool, instance: str) -> None:
    """An attempt that Hello does not name is gone when the process is the same; another one cannot know (clones)."""
    world = World()
    agent, other = world.connect("a"), world.connect("b")
    (task,) = world.submit(exclusive=True)
    if started:
        world.start(agent, world.ref(agent, task))
    world.disconnect(agent)
    agent.held.clear()
    world.do(AgentOrdered("b", AgentOrder.PAUSE, world.replies.append))
    world.connect("a", instance_id=instance)
    assert (world.state_of(task) is TaskState.PENDING) is (instance == "another")
    world.wait(17)
    assert world.state_of(task) is TaskState.ASSIGNED
    assert not other.held


def test_a_goodbye_is_certain() -> None:
    """What an agent that left on purpose had not taken goes elsewhere at once, also when it is exclusive."""
    world = World()
    leaving, other = world.connect("a", slots=2), world.connect("b")
    world.do(AgentOrdered("b", AgentOrder.PAUSE, world.replies.append))
    (task,) = world.submit(exclusive=True)
    world.do(SessionEnded("a", leaving.epoch, goodbye=True))
    world.do(AgentOrdered("b", AgentOrder.RESUME, world.replies.append))
    assert [ref.task_id for ref in other.held] == [task]


def test_a_session_that_is_over_gets_no_lease() -> None:
    """From the step that ends a session on, before anybody is told of that, its heartbeats are answered with none."""
    world = World()
    agent = world.connect("a")
    epoch = agent.epoch
    assert lease.is_due(world.state, "a", epoch)
    world.connect("a")
    assert not lease.is_due(world.state, "a", epoch)
    assert lease.is_due(world.state, "a", agent.epoch)
    world.do(AgentOrdered("a", AgentOrder.REMOVE, world.replies.append, force=True))
    assert not lease.is_due(world.state, "a", agent.epoch)


def test_a_large_fleet_has_longer_leases() -> None:
    """The lease is three heartbeats and five seconds, at least 15 s; heartbeats get rarer with the fleet."""
    world = World()
    agent = world.state.agents[world.connect("a").id]
    assert lease.duration_us(agent.heartbeat_us) == 15 * SECOND_US
    for number in range(2500):
        world.state.agents[f"x{number}"] = agent
    world.connect("b")
    assert world.replies[-1].heartbeat_us == 5_004_000
    assert lease.duration_us(5 * SECOND_US) == 20 * SECOND_US


@pytest.mark.parametrize("is_here", [True, False])
@pytest.mark.parametrize(("boot_id", "waits"), [("other", True), ("boot", False)])
def test_a_clone_of_the_disk_is_not_believed(is_here: bool, boot_id: str, waits: bool) -> None:
    """A process says that it came after the last one, on a machine that was booted since: it may be a clone.

    After a restart without a boot it is true.
    """
    world = World()
    agent, other = world.connect("a", instance_id="i1", boot_id="boot"), world.connect("b")
    (task,) = world.submit(exclusive=True)
    world.start(agent, world.ref(agent, task))
    if not is_here:
        world.disconnect(agent)
    agent.held.clear()
    world.connect("a", instance_id="i2", instance_start_ms=2, previous_instance_id="i1", boot_id=boot_id)
    world.wait(10)
    assert bool(agent.held or other.held) is not waits
    world.wait(10)
    assert agent.held or other.held


def removed(world: World) -> str:
    """An exclusive task whose agent was removed while it ran, so that it waits for the lease to be over."""
    gone = world.connect("a")
    (task,) = world.submit(exclusive=True)
    world.start(gone, world.ref(gone, task))
    world.do(AgentOrdered("a", AgentOrder.REMOVE, world.replies.append, force=True))
    gone.held.clear()
    world.wait(3)
    assert world.state_of(task) is TaskState.PENDING
    return task


def test_after_a_start_the_lease_counts_anew() -> None:
    """Nobody knows then how the clock was set meanwhile: another one starts a lease and a tenth after the start."""
    world = World()
    task = removed(world)
    restart(world)
    assert world.state.tasks[task].ready_us == world.now_us + 33 * SECOND_US // 2


def test_a_lease_that_was_over_before_a_start_is_over() -> None:
    """A task that was queued again is offered as soon as somebody is there."""
    world = World()
    task = removed(world)
    world.wait(20)
    assert world.state_of(task) is TaskState.QUEUED
    before_us = world.state.tasks[task].ready_us
    restart(world)
    assert world.state.tasks[task].ready_us == before_us
    assert world.ref(world.connect("b"), task).attempt == 2
