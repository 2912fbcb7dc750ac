"""Draining with a deadline: what runs may end, what still runs then goes elsewhere and has used up no try."""

from __future__ import annotations

from outrider_coordinator.core.effects import PushControl
from outrider_coordinator.core.events import AgentOrder, AgentOrdered, HeartbeatReceived, Ref, SessionEnded
from outrider_coordinator.core.model import HostFacts
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.states import Admin, Reason, TaskState
from support.core_world import ModelAgent, World

TEN_S = 10 * SECOND_US


def draining(timeout_us: int = TEN_S) -> tuple[World, ModelAgent, ModelAgent, str, Ref]:
    """A task runs on an agent that is drained; another agent is there."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(max_attempts=1)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    other = world.connect("b")
    world.do(AgentOrdered("a", AgentOrder.DRAIN, world.replies.append, timeout_us=timeout_us))
    return world, agent, other, task, ref


def told(world: World) -> list[int]:
    """Timeouts of the drains that the agent was told of."""
    return [send.timeout_us for send in world.sent if isinstance(send, PushControl) and send.order == AgentOrder.DRAIN]


def test_what_runs_at_the_deadline_goes_elsewhere_uncounted() -> None:
    """The attempt is stopped with MOVED, and another agent gets the task though it may be tried once only."""
    world, agent, other, task, ref = draining()
    world.wait(9.9)
    assert ref not in agent.reasons
    world.wait(0.2)
    assert agent.reasons[ref] is Reason.MOVED
    world.fail(agent, ref, Reason.MOVED)
    assert [held.task_id for held in other.held] == [task]
    assert world.state.tasks[task].attempts_counted == 0


def test_an_agent_that_stops_it_by_itself_changes_nothing() -> None:
    """The agent's own clock may be first to act on our order: AGENT_STOPPED under MOVE is no try either."""
    world, agent, other, task, ref = draining()
    world.wait(10.1)
    world.fail(agent, ref, Reason.AGENT_STOPPED)
    assert [held.task_id for held in other.held] == [task]
    assert world.state.tasks[task].attempts_counted == 0


def test_without_a_deadline_what_runs_may_take_its_time() -> None:
    """Nothing is stopped, and nothing new is offered."""
    world, agent, _, task, ref = draining(0)
    world.wait(3600)
    assert ref not in agent.reasons
    world.complete(agent, ref)
    assert world.state_of(task) is TaskState.SUCCEEDED


def test_an_agent_that_comes_back_is_told_what_is_left() -> None:
    """A session that breaks does not end the drain; one that has left and comes again works again."""
    world, agent, _, _, ref = draining()
    world.wait(4)
    world.disconnect(agent)
    world.connect("a")
    assert world.state.agents["a"].admin is Admin.DRAINING
    assert told(world) == [TEN_S + 5 * SECOND_US, TEN_S + 5 * SECOND_US - 4 * SECOND_US]
    world.complete(agent, ref)
    world.do(SessionEnded("a", agent.epoch, goodbye=True))
    world.connect("a")
    assert world.state.agents["a"].admin is Admin.ACTIVE
    assert len(told(world)) == 2


def test_a_resume_ends_the_drain() -> None:
    """The deadline of a drain that was called off stops nothing."""
    world, agent, _, _, ref = draining()
    world.do(AgentOrdered("a", AgentOrder.RESUME, world.replies.append))
    world.do(HeartbeatReceived("a", agent.epoch, HostFacts(), workers_changed=True))
    world.wait(30)
    assert ref not in agent.reasons


def test_an_agent_that_stays_after_all_gets_work_at_once() -> None:
    """It takes back its word that it leaves: what waits for it goes there in the same step."""
    world = World()
    agent = world.connect("a")
    world.do(HeartbeatReceived("a", agent.epoch, HostFacts(is_leaving=True)))
    (task,) = world.submit()
    assert world.state_of(task) is TaskState.QUEUED
    world.do(HeartbeatReceived("a", agent.epoch, HostFacts()))
    assert world.state_of(task) is TaskState.ASSIGNED
