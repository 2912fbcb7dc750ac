"""What people order and what agents say of attempts, in the core: what is out of date changes nothing."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.effects import PushCancel, PushControl, Refused
from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    AttemptsAccepted,
    AttemptsReturned,
    CancelRequested,
    Ref,
    RunCancelRequested,
)
from outrider_coordinator.core.states import Admin, AttemptState, EventType, TaskState
from support.core_world import ModelAgent, World
from support.trust_world import reject


def offered() -> tuple[World, ModelAgent, Ref]:
    """A world whose only agent was offered one task."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    return world, agent, world.ref(agent, task)


def attempt_state(world: World, ref: Ref) -> AttemptState:
    """Where the core has the attempt of a task."""
    attempt = world.state.tasks[ref.task_id].attempt
    assert attempt is not None
    return attempt.state


def order(world: World, agent_id: str, what: str, **fields: bool) -> object:
    """What an operator's order is answered with."""
    world.do(AgentOrdered(agent_id, what, world.replies.append, **fields))
    return world.replies[-1]


def test_a_cancel_that_comes_twice_is_answered_twice_and_done_once() -> None:
    """Cancelling a task that is being cancelled is no error, and its agent is told once."""
    world, agent, ref = offered()
    world.start(agent, ref)
    for _ in range(2):
        world.do(CancelRequested([ref.task_id], "enough", world.replies.append))
    first, second = world.replies[-2:]
    assert first == second
    assert (first[0].state, first[0].cancelled) == (TaskState.CANCELLING, True)
    assert world.kinds(ref.task_id).count("TASK_CANCELLING") == 1
    assert [send.message for send in world.sent if isinstance(send, PushCancel)] == ["enough"]


def test_a_cancel_without_a_word_says_what_it_is() -> None:
    """The agent is told a reason also where nobody gave one."""
    world, agent, ref = offered()
    world.start(agent, ref)
    world.do(CancelRequested([ref.task_id], "", world.replies.append))
    assert world.sent[-2] == PushCancel(agent.epoch, "a", *ref, "cancel requested")


def test_a_cancel_of_what_is_over_says_so() -> None:
    """A task that is not in memory was decided before: the cancel did nothing."""
    world, agent, ref = offered()
    world.complete(agent, ref)
    world.do(CancelRequested([ref.task_id], "", world.replies.append))
    assert world.replies[-1] == [(ref.task_id, None, False)]


def test_a_cancel_of_a_run_that_is_over_decides_nothing() -> None:
    """The reply to it is that no task was decided."""
    world = World()
    world.do(RunCancelRequested("run", "", world.replies.append))
    assert world.replies[-1] == 0


def test_what_an_agent_accepts_is_accepted() -> None:
    """Accepted: the offer arrived, and the agent was heard."""
    world, agent, ref = offered()
    world.do(AttemptsAccepted("a", agent.epoch, [ref]), after_us=7)
    assert attempt_state(world, ref) is AttemptState.ACCEPTED
    assert world.state.agents["a"].last_heard_us == world.now_us


@pytest.mark.parametrize("wrong", ["agent", "epoch", "task", "attempt", "fence"])
def test_an_acceptance_with_a_wrong_name_accepts_nothing(wrong: str) -> None:
    """Only the agent's own session speaks for it, and only of attempts whose fence it knows (I4)."""
    world, agent, ref = offered()
    changed = ref._replace(**({} if wrong in ("agent", "epoch") else {f"{wrong}_id" if wrong == "task" else wrong: 99}))
    name, epoch = ("b" if wrong == "agent" else "a"), agent.epoch + (wrong == "epoch")
    world.do(AttemptsAccepted(name, epoch, [changed]), after_us=7)
    assert attempt_state(world, ref) is AttemptState.OFFERED
    assert (world.state.agents["a"].last_heard_us == world.now_us) is (wrong not in ("agent", "epoch"))


def test_an_acceptance_that_comes_after_the_start_changes_nothing() -> None:
    """What has started is not accepted any more."""
    world, agent, ref = offered()
    world.start(agent, ref)
    world.do(AttemptsAccepted("a", agent.epoch, [ref]))
    assert attempt_state(world, ref) is AttemptState.STARTED


@pytest.mark.parametrize("wrong", ["agent", "epoch", "task", "fence"])
def test_giving_back_with_a_wrong_name_gives_nothing_back(wrong: str) -> None:
    """An attempt is given back by the agent that has it, in its session, by its fence (I4)."""
    world, agent, ref = offered()
    changed = ref._replace(**{"task": {"task_id": "?"}, "fence": {"fence": 99}}.get(wrong, {}))
    name, epoch = ("b" if wrong == "agent" else "a"), agent.epoch + (wrong == "epoch")
    world.do(AttemptsReturned(name, epoch, [changed], revoked=False), after_us=7)
    assert attempt_state(world, ref) is AttemptState.OFFERED
    assert world.state.agents["a"].breaker.failures == 0


def test_giving_back_what_has_started_gives_nothing_back() -> None:
    """User code has begun: only a report ends it."""
    world, agent, ref = offered()
    world.start(agent, ref)
    world.do(AttemptsReturned("a", agent.epoch, [ref], revoked=True), after_us=7)
    assert attempt_state(world, ref) is AttemptState.STARTED
    assert world.state.agents["a"].last_heard_us == world.now_us


@pytest.mark.parametrize(("revoked", "leaving", "charged"), [(False, False, 1), (True, False, 0), (False, True, 0)])
def test_a_refusal_counts_against_an_agent_that_stays(revoked: bool, leaving: bool, charged: int) -> None:
    """What was revoked on request, or refused by an agent that leaves, is nobody's fault."""
    world, agent, ref = offered()
    world.state.agents["a"].facts.is_leaving = leaving
    world.state.agents["a"].settle()
    agent.held.clear()
    world.do(AttemptsReturned("a", agent.epoch, [ref], revoked=revoked, message="no"))
    assert world.state.agents["a"].breaker.failures == charged
    assert world.state.tasks[ref.task_id].attempts_counted == 0


def test_a_cancelled_task_that_is_given_back_is_over() -> None:
    """An attempt that never started ends its task when that is being cancelled."""
    world, agent, ref = offered()
    world.do(CancelRequested([ref.task_id], "", world.replies.append))
    reject(world, agent)
    assert world.state_of(ref.task_id) is TaskState.CANCELLED


@pytest.mark.parametrize("what", [AgentOrder.PAUSE, AgentOrder.REMOVE])
def test_an_order_for_nobody_is_refused(what: str) -> None:
    """An agent that is not known cannot be ordered about."""
    refused = order(World(), "nobody", what)
    assert isinstance(refused, Refused)
    assert (refused.reason, "'nobody'" in refused.message) == ("NOT_FOUND", True)


@pytest.mark.parametrize(
    ("what", "admin", "kind"),
    [
        (AgentOrder.PAUSE, Admin.PAUSED, EventType.AGENT_PAUSED),
        (AgentOrder.DRAIN, Admin.DRAINING, EventType.AGENT_DRAINING),
    ],
)
def test_an_order_that_holds_already_is_passed_on_again(what: str, admin: Admin, kind: EventType) -> None:
    """Told twice, done once: the agent may have missed the first, the history has one."""
    world = World()
    world.connect("a")
    assert [order(world, "a", what), order(world, "a", what)] == [True, True]
    assert world.state.agents["a"].admin is admin
    assert len(world.of(kind)) == 1
    assert [send.order for send in world.sent if isinstance(send, PushControl)] == [what, what]


def test_an_order_for_an_agent_out_of_contact_waits_for_it() -> None:
    """Nothing is sent to nobody; the next session is told that it is paused."""
    world = World()
    agent = world.connect("a")
    world.disconnect(agent)
    assert order(world, "a", AgentOrder.PAUSE) is True
    assert not [send for send in world.sent if isinstance(send, PushControl)]
    world.connect("a")
    assert world.replies[-1].paused


def test_an_agent_that_is_there_is_removed_by_force_only() -> None:
    """The refusal says what to do, and with force the agent is gone."""
    world = World()
    world.connect("a")
    refused = order(world, "a", AgentOrder.REMOVE)
    assert isinstance(refused, Refused)
    assert (refused.reason, "force" in refused.message) == ("ILLEGAL_TRANSITION", True)
    assert order(world, "a", AgentOrder.REMOVE, force=True) is True
    assert not world.state.agents


def test_what_a_removed_agent_had_goes_elsewhere_at_once() -> None:
    """Work of an agent that is removed is offered again in the same step."""
    world, agent, ref = offered()
    other = world.connect("b")
    agent.held.clear()
    order(world, "a", AgentOrder.REMOVE, force=True)
    assert [held.task_id for held in other.held] == [ref.task_id]
