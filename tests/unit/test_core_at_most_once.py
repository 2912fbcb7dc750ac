"""Tasks that run at most once: once an attempt may have started, no other is ever offered (I12)."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.attempts.stopping import stop_attempt
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.events import AgentOrder, AgentOrdered, AttemptsReturned, Ref, ReportKind, SessionEnded
from outrider_coordinator.core.states import Intent, Reason, TaskState
from support.core_world import ModelAgent, World


def offered() -> tuple[World, ModelAgent, str, Ref]:
    """A task that runs at most once, offered to agent a; agent b would take it too, but is paused."""
    world = World()
    agent = world.connect("a")
    world.connect("b")
    world.do(AgentOrdered("b", AgentOrder.PAUSE, world.replies.append))
    (task,) = world.submit(at_most_once=True)
    return world, agent, task, world.ref(agent, task)


def reason_of(world: World, task: str) -> Reason:
    """Why a task ended."""
    return Reason(next(event.reason for event in reversed(world.log) if event.task_id == task))


def test_one_that_may_have_started_is_lost_with_its_agent() -> None:
    """Out of contact past the grace: FAILED with MAY_HAVE_STARTED, also when nothing was heard of a start."""
    world, agent, task, _ = offered()
    world.disconnect(agent)
    world.wait(6)
    assert world.state_of(task) is TaskState.FAILED
    assert reason_of(world, task) is Reason.MAY_HAVE_STARTED


@pytest.mark.parametrize("answer", ["rejected", "revoked", "goodbye", "stopped"])
def test_one_that_is_known_not_to_have_started_may_go_again(answer: str) -> None:
    """Rejected, Revoked, a goodbye before it was taken, and an end without a start all say so."""
    world, agent, task, ref = offered()
    if answer == "goodbye":
        world.do(SessionEnded("a", agent.epoch, goodbye=True))
        world.connect("a")
    elif answer == "stopped":
        world.report(agent, ref, ReportKind.TAKEN)
        world.fail(agent, ref, Reason.AGENT_STOPPED)
    else:
        world.do(AttemptsReturned("a", agent.epoch, [ref], revoked=answer == "revoked"))
    assert world.state.tasks[task].attempts_made == 2


def test_an_inventory_without_it_says_that_it_never_started() -> None:
    """The process that was offered it does not list it, and nothing in its outbox says that it was taken."""
    world, agent, task, _ = offered()
    world.disconnect(agent)
    agent.held.clear()
    world.connect("a")
    assert world.state.tasks[task].attempts_made == 2


def test_a_restarted_agent_knows_what_its_folder_says() -> None:
    """The next keeper in the same folder has swept and replayed: not taken then, so it may go again."""
    world, agent, task, _ = offered()
    world.disconnect(agent)
    agent.held.clear()
    world.connect("a", instance_id="next", previous_instance_id="i")
    assert world.state.tasks[task].attempts_made == 2


@pytest.mark.parametrize("process", ["next", "clone"])
def test_taken_is_taken(process: str) -> None:
    """Taken on disk, then the keeper died; or another process that cannot know: it may have started."""
    world, agent, task, ref = offered()
    if process == "next":
        world.report(agent, ref, ReportKind.TAKEN)
    world.disconnect(agent)
    agent.held.clear()
    world.connect("a", instance_id=process, previous_instance_id="i" if process == "next" else "")
    assert world.state_of(task) is TaskState.FAILED
    assert reason_of(world, task) is Reason.MAY_HAVE_STARTED


@pytest.mark.parametrize("reason", [Reason.TASK_ERROR, Reason.WORKER_DIED, Reason.AGENT_STOPPED, Reason.TIMED_OUT])
def test_a_failure_of_its_own_is_final(reason: Reason) -> None:
    """Whatever could be tried again otherwise ends it with its own reason."""
    world, agent, task, ref = offered()
    world.start(agent, ref)
    world.fail(agent, ref, reason)
    assert world.state_of(task) is TaskState.FAILED
    assert reason_of(world, task) is reason


def test_one_that_is_moved_after_its_start_has_failed() -> None:
    """Its agent is drained: it cannot go on elsewhere."""
    world, agent, task, ref = offered()
    world.start(agent, ref)
    effects, record = Effects(), world.state.tasks[task]
    assert record.attempt is not None
    assert stop_attempt(world.state, effects, record, record.attempt, Intent.MOVE)
    world.take(effects)
    world.fail(agent, ref, Reason.MOVED)
    assert reason_of(world, task) is Reason.MAY_HAVE_STARTED


def test_it_resumes_within_the_grace() -> None:
    """Contact is back in time: it goes on, and its success counts."""
    world, agent, task, ref = offered()
    world.start(agent, ref)
    world.disconnect(agent)
    world.wait(3)
    world.connect("a")
    world.complete(agent, ref)
    assert world.state_of(task) is TaskState.SUCCEEDED
