"""Bounds on a task's whole time: what expires, when, and what does not."""

from __future__ import annotations

from outrider_coordinator.core.effects import PushAssign
from outrider_coordinator.core.events import CancelRequested, Submission, TasksSubmitted
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Spec
from outrider_coordinator.core.states import Reason, TaskState
from support.core_world import World

TEN_S = 10 * SECOND_US


def test_a_task_that_nobody_runs_expires_at_its_deadline() -> None:
    """Queued, or waiting for another: EXPIRED once all its time is over, and not before."""
    world = World()
    (first,) = world.submit()
    tasks = world.submit(deadline_us=TEN_S) + world.submit(after=(first,), deadline_us=TEN_S)
    world.wait(9.9)
    assert [world.state_of(task) for task in tasks] == [TaskState.QUEUED, TaskState.PENDING]
    world.wait(0.2)
    assert {world.state_of(task) for task in tasks} == {TaskState.EXPIRED}
    reasons = {Reason(event.reason) for event in world.log if event.task_id in tasks and event.reason}
    assert reasons == {Reason.DEADLINE_EXCEEDED}


def test_a_running_attempt_is_stopped_and_its_end_decides() -> None:
    """At the deadline the agent is told; the task is EXPIRED when the attempt has ended."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(deadline_us=TEN_S, max_attempts=9)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.wait(10)
    assert agent.reasons[ref] is Reason.DEADLINE_EXCEEDED
    assert world.state_of(task) is TaskState.RUNNING
    world.fail(agent, ref, Reason.DEADLINE_EXCEEDED)
    assert world.state_of(task) is TaskState.EXPIRED


def test_an_agent_may_notice_first() -> None:
    """An agent's own clock ends the attempt before the coordinator's does: the task is EXPIRED all the same."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(deadline_us=TEN_S, max_attempts=9)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.wait(9)
    world.fail(agent, ref, Reason.DEADLINE_EXCEEDED)
    assert world.state_of(task) is TaskState.EXPIRED


def test_what_is_left_travels_with_each_attempt() -> None:
    """The second try has less time than the first, by the time that passed on the coordinator's own line."""
    world = World()
    submission = Submission("t", "default", Spec(b"", "m:f", True, deadline_us=TEN_S))
    world.do(TasksSubmitted([submission], world.replies.append))
    world.wait(3)
    world.connect("a")
    pushes = [send for send in world.sent if isinstance(send, PushAssign)]
    assert [push.remaining_us for push in pushes] == [7 * SECOND_US]


def test_an_attempt_out_of_contact_does_not_hold_up_the_deadline() -> None:
    """A long grace does not outlast the deadline: the task is EXPIRED and the attempt fenced when it comes back."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(deadline_us=TEN_S, disconnect_grace_us=120 * SECOND_US)
    world.start(agent, world.ref(agent, task))
    world.disconnect(agent)
    world.wait(10)
    assert world.state_of(task) is TaskState.EXPIRED
    world.connect("a")
    assert not agent.held


def test_an_attempt_that_does_not_end_is_fenced() -> None:
    """An agent that is there and does not do as it is told keeps no task past its deadline for ever."""
    world = World(CoreSettings(stop_overdue_us=20 * SECOND_US))
    agent = world.connect("a")
    (task,) = world.submit(deadline_us=TEN_S)
    world.start(agent, world.ref(agent, task))
    world.wait(29)
    assert world.state_of(task) is TaskState.RUNNING
    world.wait(1)
    assert world.state_of(task) is TaskState.EXPIRED
    assert not agent.held


def test_a_cancel_before_the_deadline_wins() -> None:
    """A task that is being cancelled when its deadline passes is CANCELLED (I14)."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(deadline_us=TEN_S)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.do(CancelRequested([task], "", world.replies.append))
    world.wait(200)
    world.fail(agent, ref, Reason.CANCEL_REQUESTED, False)
    assert world.state_of(task) is TaskState.CANCELLED
