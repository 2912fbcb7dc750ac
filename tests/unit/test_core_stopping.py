"""Attempts that the coordinator stops: what their end then decides."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.attempts.stopping import STOPS, stop_attempt
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.events import AttemptsReturned, CancelRequested, Ref
from outrider_coordinator.core.snapshots import attempt_row
from outrider_coordinator.core.states import AttemptState, Intent, Reason, TaskState
from support.core_world import ModelAgent, World


def running(**spec: object) -> tuple[World, ModelAgent, str, Ref]:
    """A task that runs on agent a."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(**spec)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    return world, agent, task, ref


def stop(world: World, task_id: str, intent: Intent) -> Effects:
    """Stop the task's attempt, as a decision of the core does."""
    effects = Effects()
    task = world.state.tasks[task_id]
    assert task.attempt is not None
    assert stop_attempt(world.state, effects, task, task.attempt, intent)
    world.take(effects)
    return effects


@pytest.mark.parametrize("intent", [Intent.PREEMPT, Intent.MOVE])
def test_a_preempted_or_moved_attempt_uses_up_no_try(intent: Intent) -> None:
    """Its task is queued again, the attempt number rises, and no try is counted."""
    world, agent, task, ref = running(max_attempts=1)
    effects = stop(world, task, intent)
    assert attempt_row(effects.attempts[ref[:2]]).intent == intent
    assert agent.reasons[ref] is STOPS[intent].reason
    world.fail(agent, ref, STOPS[intent].reason)
    record = world.state.tasks[task]
    assert (record.attempts_made, record.attempts_counted) == (2, 0)
    assert "TASK_PREEMPTED" in world.kinds(task)


@pytest.mark.parametrize("intent", [intent for intent in STOPS if STOPS[intent].ends is not None])
def test_other_stops_end_the_task_as_they_say(intent: Intent) -> None:
    """The task ends in the stop's state with its reason, even when it could be tried again."""
    world, agent, task, ref = running(max_attempts=5)
    stop(world, task, intent)
    world.fail(agent, ref, STOPS[intent].reason)
    assert world.state_of(task) is STOPS[intent].ends


def test_a_success_that_comes_before_the_stop_wins() -> None:
    """What the worker finished before it heard of the stop is the outcome."""
    world, agent, task, ref = running()
    stop(world, task, Intent.DEADLINE)
    world.complete(agent, ref)
    assert world.state_of(task) is TaskState.SUCCEEDED


def test_a_failure_of_its_own_before_the_stop_is_a_failure() -> None:
    """An attempt that failed by itself while it was being preempted has used up its try."""
    world, agent, task, ref = running()
    stop(world, task, Intent.PREEMPT)
    world.fail(agent, ref, Reason.TASK_ERROR)
    assert world.state_of(task) is TaskState.FAILED


def test_a_cancel_wins_over_a_stop() -> None:
    """After a cancel was acknowledged the task is CANCELLED, whatever it was being stopped for (I14)."""
    world, agent, task, ref = running()
    stop(world, task, Intent.MOVE)
    world.do(CancelRequested([task], "", world.replies.append))
    world.fail(agent, ref, Reason.MOVED)
    assert world.state_of(task) is TaskState.CANCELLED


def test_the_order_is_sent_again_in_a_new_session() -> None:
    """A session that breaks between the order and its obedience changes nothing: the next one carries it again."""
    world, agent, task, ref = running()
    world.disconnect(agent)
    stop(world, task, Intent.MOVE)
    assert ref not in agent.reasons
    world.connect("a")
    assert agent.reasons[ref] is Reason.MOVED


def test_an_agent_that_is_lost_with_a_moved_attempt_costs_no_try() -> None:
    """Lost while it was being moved: the task goes elsewhere as it would have done."""
    world, agent, task, _ = running(max_attempts=1)
    other = world.connect("b")
    world.disconnect(agent)
    stop(world, task, Intent.MOVE)
    world.wait(6)
    assert [held.task_id for held in other.held] == [task]
    assert world.state.tasks[task].attempts_counted == 0


def test_an_attempt_stopped_before_it_started_goes_back_uncounted() -> None:
    """A stop that reaches the agent before the start ends in Revoked or in Failed: both queue the task again."""
    for answer in ("revoked", "failed"):
        world = World()
        agent = world.connect("a")
        (task,) = world.submit(max_attempts=1)
        ref = world.ref(agent, task)
        stop(world, task, Intent.PREEMPT)
        if answer == "revoked":
            world.do(AttemptsReturned("a", agent.epoch, [ref], revoked=True))
        else:
            world.fail(agent, ref, Reason.PREEMPTED)
        record = world.state.tasks[task]
        assert (record.attempts_made, record.attempts_counted) == (2, 0)


def test_a_stop_that_ends_the_task_outranks_one_that_does_not() -> None:
    """A deadline that passes while an attempt is being moved ends the task; the other way round nothing changes."""
    world, agent, task, ref = running()
    stop(world, task, Intent.MOVE)
    stop(world, task, Intent.DEADLINE)
    attempt = world.state.tasks[task].attempt
    assert attempt is not None
    assert not stop_attempt(world.state, Effects(), world.state.tasks[task], attempt, Intent.MOVE)
    world.fail(agent, ref, Reason.MOVED)
    assert world.state_of(task) is TaskState.EXPIRED
    assert attempt.state is AttemptState.CLOSED
