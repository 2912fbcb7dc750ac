"""Faults that the simulator found, each as the few steps that show it."""

from __future__ import annotations

from outrider_coordinator.core.events import AgentOrder, AgentOrdered, OutboxFacts, ReportKind, SessionEnded
from outrider_coordinator.core.limits import holdings
from outrider_coordinator.core.limits.book import Definition, LimitKind, Pool
from outrider_coordinator.core.records import UpdateTask
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Condition
from outrider_coordinator.core.states import Connectivity, EventType, Reason, TaskState
from support.core_world import World, member


def test_a_grace_longer_than_the_time_to_lost_is_kept() -> None:
    """An attempt stays with its agent for its whole grace, also when the agent counts as lost before that."""
    world = World(CoreSettings(lost_after_us=10 * SECOND_US))
    agent = world.connect("a")
    (task_id,) = world.submit(disconnect_grace_us=60 * SECOND_US)
    world.start(agent, world.ref(agent, task_id))
    world.disconnect(agent)
    world.wait(20)
    assert world.state.agents["a"].connectivity is Connectivity.LOST
    assert world.state_of(task_id) is TaskState.RUNNING
    world.wait(45)
    assert world.state_of(task_id) is not TaskState.RUNNING


def test_a_blocked_attempt_that_comes_back_late_hangs_nobody() -> None:
    """A stray that waits for somebody is fenced when it comes back, and its task ends by another try."""
    world = World()
    agent = world.connect("a")
    (task_id,) = world.submit(disconnect_grace_us=SECOND_US, max_attempts=3)
    ref = world.ref(agent, task_id)
    world.start(agent, ref)
    world.block(agent, ref, "q")
    world.disconnect(agent)
    world.wait(5)
    world.connect("a")
    assert ref not in agent.held
    world.complete(agent, world.ref(agent, task_id), start=(1, b""))
    assert world.state_of(task_id) is TaskState.SUCCEEDED


def test_a_rate_that_was_defined_again_still_gives_after_a_start() -> None:
    """A start takes over what a redefined rate owes, and not the time of its definition."""
    rate = Definition(LimitKind.RATE, per_second=4.0, burst=2)
    pool, state = Pool(), World().state
    pool.define(rate, state.now_us)
    pool.define(rate, state.now_us)
    holdings.restore(state, [(("default", "rate"), pool)])
    assert pool.ready_us(1, state.now_us) <= state.now_us


def test_what_is_lost_when_the_last_report_is_in_makes_room_at_once() -> None:
    """An agent came back without an attempt, and its replay says so: what is queued gets the slot without a nudge."""
    world = World()
    agent = world.connect("a")
    (lost,) = world.submit(at_most_once=True)
    (queued,) = world.submit()
    ref = world.ref(agent, lost)
    world.disconnect(agent)
    agent.held.clear()
    world.connect("a", outboxes=[OutboxFacts("box-a", 1, 1)])
    world.report(agent, ref, ReportKind.TAKEN)
    assert world.state_of(lost) is TaskState.FAILED
    assert world.state_of(queued) is TaskState.ASSIGNED


def test_the_start_of_what_was_taken_back_is_durable() -> None:
    """A stray that comes back counts as running before its Started is in: that one writes the task's start."""
    world = World()
    agent = world.connect("a")
    (task_id,) = world.submit(disconnect_grace_us=0, initial_backoff_us=60 * SECOND_US, max_attempts=3)
    ref = world.ref(agent, task_id)
    world.report(agent, ref, ReportKind.TAKEN)
    world.disconnect(agent)
    world.wait(1)
    assert world.state_of(task_id) in (TaskState.PENDING, TaskState.QUEUED)
    world.connect("a", outboxes=[OutboxFacts("box-a", 2, 2)])
    assert world.state_of(task_id) is TaskState.RUNNING
    world.start(agent, ref)
    (row,) = (row for row in world.written if isinstance(row, UpdateTask))
    assert row.start_us == world.state.tasks[task_id].start_us > 0


def test_what_was_not_needed_long_ago_was_not_needed_for_who_comes_later() -> None:
    """A task after one that was skipped because its condition was not met is not needed either, whenever it comes."""
    world = World()
    agent = world.connect("a")
    (first,) = world.submit()
    (not_needed,) = world.submit(after=(first,), conditions=(Condition.FAILURE,))
    run = world.submit_members(member("x"), member("y", "x", conditions=(Condition.FAILURE,)), member("z"))
    for task_id in (first, run["x"]):
        world.complete(agent, world.ref(agent, task_id), start=(1, b""))
    world.add(member("late", "y"))
    (late,) = world.submit(after=(not_needed,))
    for task_id in (late, "r-late"):
        assert world.ends[task_id] == (TaskState.SKIPPED, Reason.CONDITION_NOT_MET)


def test_a_task_may_turn_out_to_be_poisonous_between_two_tries() -> None:
    """The third machine that died under it is known to have died when nobody runs the task: that quarantines it."""
    world = World(CoreSettings(poison_limit=1))
    agent = world.connect("a", boot_id="1")
    (task_id,) = world.submit(disconnect_grace_us=SECOND_US, max_attempts=5, initial_backoff_us=60 * SECOND_US)
    world.start(agent, world.ref(agent, task_id))
    world.disconnect(agent)
    world.wait(30)
    assert world.state_of(task_id) in (TaskState.PENDING, TaskState.QUEUED)
    agent.held.clear()
    world.connect("a", boot_id="2")
    assert world.ends[task_id] == (TaskState.FAILED, Reason.POISONED)


def test_a_session_that_never_began_does_not_end() -> None:
    """The end of a stream that was refused changes nothing for an agent that has left."""
    world = World()
    agent = world.connect("a")
    world.do(SessionEnded("a", agent.epoch, goodbye=True))
    world.do(SessionEnded("a", 0, goodbye=False))
    assert world.state.agents["a"].connectivity is Connectivity.LEFT


def test_a_quarantine_that_outlived_its_pause_is_lifted_with_effect() -> None:
    """Quarantined, drained and back, an agent is ACTIVE and takes nothing; resume gives it work at once."""
    world = World()
    for number in range(1, 5):
        agent = world.connect("a", instance_id=f"i{number}", instance_start_ms=number)
    assert world.state.agents["a"].is_quarantined
    world.do(AgentOrdered("a", AgentOrder.DRAIN, world.replies.append))
    world.do(SessionEnded("a", agent.epoch, goodbye=True))
    world.connect("a", instance_id="i5", instance_start_ms=5)
    (task_id,) = world.submit()
    assert world.state_of(task_id) is TaskState.QUEUED
    world.do(AgentOrdered("a", AgentOrder.RESUME, world.replies.append))
    assert world.state_of(task_id) is TaskState.ASSIGNED
    assert world.of(EventType.AGENT_RESUMED)
