"""What the end of an attempt says, whom it counts against, and when its task may go again."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.attempts.stopping import stop_attempt
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.events import AttemptsAccepted, AttemptsReturned, CancelRequested, Ref, ReportKind
from outrider_coordinator.core.model import Wait
from outrider_coordinator.core.runs import lifecycle
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.states import Blame, EventType, Intent, Reason, TaskState
from support.core_world import ModelAgent, World, member


def running(settings: CoreSettings | None = None, **spec: object) -> tuple[World, ModelAgent, Ref]:
    """A task that runs."""
    world = World(settings)
    agent = world.connect("a", 4)
    (task,) = world.submit(**spec)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    return world, agent, ref


def stop(world: World, ref: Ref, intent: Intent) -> None:
    """The coordinator stops an attempt for a reason of its own."""
    task, effects = world.state.tasks[ref.task_id], Effects()
    assert task.attempt is not None
    assert stop_attempt(world.state, effects, task, task.attempt, intent)
    world.take(effects)


# --- what is told ----------------------------------------------------------------------------------------------------


def test_an_end_is_told_with_its_result_or_its_error() -> None:
    """A success with the outcome and no error, a failure with the error as it was reported and no outcome."""
    world, agent, ref = running()
    world.complete(agent, ref)
    (event,) = world.of(EventType.TASK_SUCCEEDED)
    assert (event.outcome, event.body) == (b"done", b"")
    world, agent, ref = running()
    world.fail(agent, ref, recoverable=False, body=b"why")
    (event,) = world.of(EventType.TASK_FAILED)
    assert (event.outcome, event.body) == (b"", b"why")


@pytest.mark.parametrize("message", ["", "enough"])
def test_what_its_run_gives_up_says_why_if_anybody_did(message: str) -> None:
    """The error of a task that never ran is the run's reason, and none where none was given."""
    world = World()
    world.submit_members(member("a"))
    lifecycle.stop(world.state, Effects(), world.state.runs["run"], Reason.RUN_FAILED, message)
    world.settle()
    (event,) = world.of(EventType.TASK_CANCELLED)
    assert bool(event.body) is bool(message)
    assert message.encode() in event.body


def test_a_lost_try_that_says_when_it_began_does_not_speak_for_the_next() -> None:
    """The task began when the try began that counts."""
    world = World()
    here = world.connect("a")
    (task_id,) = world.submit(max_attempts=5)
    lost = world.ref(here, task_id)
    there = world.connect("b")
    world.disconnect(here)
    world.wait(10)
    world.start(there, world.ref(there, task_id))
    began_us = world.state.tasks[task_id].start_us
    here.held.clear()
    world.connect("a")
    world.report(here, lost, ReportKind.FAILED, reason=Reason.TASK_ERROR, recoverable=True, start=(7, b""))
    assert not world.state.tasks[task_id].strays
    assert world.state.tasks[task_id].start_us == began_us > 7


# --- how soon an agent answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("accepts", [True, False])
def test_the_first_word_is_how_soon_an_agent_answers(accepts: bool) -> None:
    """That is its Accepted, or else the start; what comes later is the work and not the agent."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    if accepts:
        world.do(AttemptsAccepted("a", agent.epoch, [ref]))
    world.now_us += 2 * SECOND_US
    world.start(agent, ref)
    assert (world.state.agents["a"].latency_us > 0) is not accepts


# --- blame -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crossed", ["deadline", "cancel"])
def test_who_was_told_to_stop_is_not_to_blame(crossed: str) -> None:
    """An attempt that fails by itself while it is being stopped says nothing of its agent or of its task."""
    world, agent, ref = running(deadline_us=5 * SECOND_US)
    if crossed == "cancel":
        world.do(CancelRequested([ref.task_id], "", world.replies.append))
    else:
        world.wait(6)
    attempt = world.state.tasks[ref.task_id].attempt
    assert attempt is not None
    world.fail(agent, ref, Reason.TASK_ERROR)
    assert (attempt.blame, world.state.tallies) == (Blame.NONE, {})


# --- when it goes again ----------------------------------------------------------------------------------------------


def test_what_is_returned_makes_room_though_its_task_is_over() -> None:
    """The slot of an offer that was cancelled goes to the next task in the step in which it comes back."""
    world = World()
    agent = world.connect("a", 1)
    first, second = world.submit(2)
    ref = world.ref(agent, first)
    world.do(CancelRequested([first], "", world.replies.append))
    agent.held.clear()
    world.do(AttemptsReturned("a", agent.epoch, [ref], revoked=True))
    assert (world.state_of(first), world.state_of(second)) == (TaskState.CANCELLED, TaskState.ASSIGNED)


def test_what_was_stopped_before_it_began_may_begin_elsewhere() -> None:
    """A task that runs at most once and was moved without having started has not run."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(at_most_once=True)
    ref = world.ref(agent, task)
    world.report(agent, ref, ReportKind.TAKEN)
    stop(world, ref, Intent.MOVE)
    world.fail(agent, ref, Reason.MOVED)
    assert world.state.tasks[task].attempts_made == 2


def test_who_gives_way_to_something_urgent_goes_again_at_once() -> None:
    """However often waits of its task have moved it before: a preemption is none of them."""
    world, agent, ref = running(initial_backoff_us=100 * SECOND_US)
    task = world.state.tasks[ref.task_id]
    task.waits = (Wait("k", "clarification", b"", is_open=False, moved_from=("x", "y", "z")),)
    stop(world, ref, Intent.PREEMPT)
    world.fail(agent, ref, Reason.PREEMPTED)
    assert task.ready_us <= world.now_us


def test_an_alarm_delays_what_was_lost_and_nothing_else() -> None:
    """A task that fails by itself on an agent that is there is tried again after its own backoff."""
    world = World()
    agents = [world.connect(f"a{number}") for number in range(6)]
    world.submit(6, max_attempts=5, initial_backoff_us=SECOND_US)
    for agent in agents:
        world.start(agent, *agent.held)
    for agent in agents[:3]:
        world.disconnect(agent)
    assert world.state.watch.is_alarmed
    (ref,) = agents[5].held
    world.fail(agents[5], ref)
    assert world.state.tasks[ref.task_id].ready_us == world.now_us + SECOND_US
