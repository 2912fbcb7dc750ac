"""Waits that are crossed by something else: a cancel, a restart, a second wait, contact lost and found."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.effects import PushAnswer
from outrider_coordinator.core.events import (
    Answered,
    CancelRequested,
    End,
    GivenAnswer,
    LimitDefined,
    OutcomesLoaded,
    Ref,
    ReportKind,
    RunCancelRequested,
    RunSubmitted,
    WaitFacts,
)
from outrider_coordinator.core.explain.reasons import explain_task, explained
from outrider_coordinator.core.limits.book import Definition, LimitKind
from outrider_coordinator.core.spec import SECOND_US, Claim, Demands, WaitExpiry, WaitPolicies, WaitPolicy
from outrider_coordinator.core.states import AttemptState, EventType, Reason, TaskState
from support.core_world import ModelAgent, World, member
from support.limit_world import finish, got, start, want, want_task
from support.restart import restart
from support.telling import begin


def blocked(kind: str = "clarification", slots: int = 2, **facts: object) -> tuple[World, ModelAgent, Ref]:
    """A task that waits with key k."""
    world = World()
    agent = world.connect("a", slots)
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, "k", kind, **facts)
    return world, agent, ref


def answer(world: World, task: str, key: str = "k") -> object:
    """Somebody answers; what they hear."""
    world.do(Answered(task, key, b"\x0a\x03yes", world.replies.append))
    return world.replies[-1]


def test_a_cancelled_task_stays_so_whatever_its_attempt_waits_for() -> None:
    """It is told of ends and begins of waits, and is on its way out all the same (I14)."""
    world, agent, ref = blocked()
    world.do(CancelRequested([ref.task_id], "", world.replies.append))
    world.unblock(agent, ref, "k")
    assert world.state_of(ref.task_id) is TaskState.CANCELLING
    assert world.state.agents["a"].slots_used == 1
    world.block(agent, ref, "again")
    assert world.state_of(ref.task_id) is TaskState.CANCELLING
    assert not world.state.tasks[ref.task_id].wait("again")


def test_a_task_cannot_answer_what_no_answer_can_stand_for() -> None:
    """Another task's word does not end a wait for a limit or a task."""
    world, agent, ref = blocked("dependency", required_task_id="t9")
    (other,) = world.submit()
    begin(world, agent)
    world.report(agent, world.ref(agent, other), ReportKind.ANSWER_GIVEN, given=GivenAnswer(ref.task_id, "k", b""))
    wait = world.state.tasks[ref.task_id].wait("k")
    assert wait is not None
    assert wait.is_pending


def test_an_outcome_that_is_loaded_of_an_open_task_says_nothing() -> None:
    """The store may know less than memory by now."""
    world = World()
    agent = world.connect("a", 2)
    first, second = world.submit(2)
    begin(world, agent)
    world.block(agent, world.ref(agent, first), "k", "dependency", required_task_id=second)
    world.do(OutcomesLoaded({second: End(TaskState.FAILED, "default"), "other": End(TaskState.SUCCEEDED, "default")}))
    wait = world.state.tasks[first].wait("k")
    assert wait is not None
    assert wait.is_pending


def test_an_answer_that_found_nobody_there_is_sent_again() -> None:
    """Answered while the agent was out of contact: the next session carries it."""
    world, agent, ref = blocked()
    world.disconnect(agent)
    assert answer(world, ref.task_id) == "k"
    assert not agent.answers
    world.connect("a", 2)
    assert [(send.key, send.epoch) for send in agent.answers] == [("k", agent.epoch)]


def test_an_answered_attempt_takes_its_slot_after_a_start() -> None:
    """Parked, answered while no slot was free, and found again like that: it goes on in the next free slot."""
    world, agent, ref = blocked(slots=1)
    (other,) = world.submit()
    begin(world, agent)
    answer(world, ref.task_id)
    assert list(world.state.agents["a"].resuming) == [(ref.task_id, 1)]
    restart(world)
    assert list(world.state.agents["a"].resuming) == [(ref.task_id, 1)]
    world.connect("a", 1)
    finish(world, agent, other)
    assert not world.state.agents["a"].resuming
    assert world.state.agents["a"].slots_used == 1


def test_asking_the_same_again_while_it_waits_is_one_wait() -> None:
    """The newer one is what counts: of another system, with another time."""
    world, agent, ref = blocked("external", system="ci")
    world.block(agent, ref, "k", "external", system="mail")
    assert world.state.system_waiters == {"mail": {(ref.task_id, "k"): None}}
    assert [wait.system for wait in world.state.tasks[ref.task_id].waits] == ["mail"]


def test_two_waits_over_their_budget_stop_an_attempt_once() -> None:
    """The first one that runs out is named."""
    world = World()
    agent = world.connect("a")
    policies = WaitPolicies(clarification=WaitPolicy(SECOND_US, WaitExpiry.FAIL))
    (task,) = world.submit(waits=policies)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    for key in ("one", "two"):
        world.block(agent, ref, key)
    world.wait(2)
    assert agent.cancelled == [ref]
    assert [wait.expired_on for wait in world.state.tasks[task].waits] == ["a", ""]


def test_the_time_of_a_wait_that_was_answered_ends_nothing() -> None:
    """An external wait that was resolved by hand is not resolved again by its retry time."""
    world, agent, ref = blocked("external", system="ci", retry_us=11 * SECOND_US)
    answer(world, ref.task_id)
    world.wait(15)
    assert len(agent.answers) == 1


def test_a_budget_is_that_of_the_wait_that_is_there() -> None:
    """Asked again, a wait lasts from then on: the end of the first one's budget ends nothing."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(waits=WaitPolicies(clarification=WaitPolicy(4 * SECOND_US, WaitExpiry.FAIL)))
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, "k")
    world.wait(2)
    world.unblock(agent, ref, "k")
    world.block(agent, ref, "k")
    world.wait(3)
    assert not agent.cancelled
    world.wait(2)
    assert agent.reasons[ref] is Reason.WAIT_EXPIRED


def test_more_are_blocked_than_are_parked() -> None:
    """Beyond what its agent parks, a blocked attempt keeps its slot (I16)."""
    world = World()
    agent = world.connect("a", 9)
    world.submit(9)
    for ref in begin(world, agent):
        world.block(agent, ref, "k")
    known = world.state.agents["a"]
    assert (known.parked, known.slots_used) == (8, 1)
    last = next(ref for ref in agent.held if world.state.tasks[ref.task_id].attempt.holds_slot)  # type: ignore[union-attr]  # it is live
    world.complete(agent, last)
    assert (known.parked, known.slots_used) == (8, 0)


def test_limits_are_not_given_to_who_is_not_there() -> None:
    """An agent out of contact cannot be told: its attempt has the limit once it is back, however long that takes."""
    world = World()
    first, second = world.connect("a"), world.connect("b")
    holder = start(world, first, "x")
    waiter = start(world, second, disconnect_grace_us=120 * SECOND_US)
    want(world, second, waiter, "x")
    world.disconnect(second)
    finish(world, first, holder)
    world.wait(30)
    assert not got(second, waiter)
    world.connect("b")
    assert got(second, waiter) == ["limit-x"]


def test_scopes_that_do_not_meet_are_no_edge() -> None:
    """Of two holders only the one whose files a queued task would write is in its way."""
    world = World()
    agent = world.connect("a", 4)
    for scope in ("b/*", "a/*"):
        world.submit(demands=Demands(scopes=(scope,)))
    (waits,) = world.submit(demands=Demands(scopes=("a/x",)))
    refs = begin(world, agent)
    want_task(world, agent, refs[0].task_id, waits)
    assert not world.of(EventType.TASK_DEADLOCK)
    want_task(world, agent, refs[1].task_id, waits)
    (told,) = world.of(EventType.TASK_DEADLOCK)
    assert f"write scope a/* of {refs[1].task_id}" in told.text


def test_a_rate_that_is_used_up_has_no_remedy() -> None:
    """Nobody holds it and no capacity would help: only time does."""
    world = World()
    agent = world.connect("a", 4)
    world.do(LimitDefined("default", "api", Definition(LimitKind.RATE, 0, 0.001, 1), world.replies.append))
    claims = Demands(claims=(Claim("api"),))
    first, second = world.submit(2, demands=claims)
    finish(world, agent, first)
    found = explained(explain_task(world.state, second, world.now_us))
    assert found is not None
    assert (found.held_back, found.suggestions) == (["limit api gives out 0.001 units a second"], [])


def test_an_end_outside_lets_nothing_of_a_stopping_run_start() -> None:
    """What would have been ready, or skipped, is cancelled with the rest of its run."""
    world = World()
    (outside,) = world.submit()
    made = [member("k")._replace(task_id="r-k", after_keys=("x",), after_ids=(outside,))]
    world.do(RunSubmitted("run", "default", "", "", made, world.replies.append))
    world.settle()
    world.do(
        CancelRequested([outside], "", world.replies.append),
        RunCancelRequested("run", "enough", world.replies.append),
    )
    world.settle()
    assert world.ended == {outside: TaskState.CANCELLED, "r-k": TaskState.CANCELLED}


def test_a_grace_is_counted_from_the_last_loss_of_contact() -> None:
    """The timer of an earlier loss means nothing any more."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(disconnect_grace_us=5 * SECOND_US)
    world.start(agent, world.ref(agent, task))
    world.disconnect(agent)
    world.wait(3)
    world.connect("a")
    world.wait(1)
    world.disconnect(agent)
    world.wait(3)
    assert world.state_of(task) is TaskState.RUNNING
    world.wait(2)
    assert world.state_of(task) is TaskState.QUEUED


def test_an_attempt_that_is_offered_and_blocked_at_once_is_parked() -> None:
    """A wait may be the first word of an attempt: it held a slot and gives it back."""
    world = World()
    agent = world.connect("a", 1)
    first, second = world.submit(2)
    world.block(agent, world.ref(agent, first), "k")
    assert world.state_of(second) is TaskState.ASSIGNED
    record = world.state.tasks[first].attempt
    assert record is not None
    assert (record.state, world.state.agents["a"].parked) == (AttemptState.BLOCKED, 1)
    assert not [send for send in world.sent if isinstance(send, PushAnswer)]


@pytest.mark.parametrize("kept", ["open", "ended", "unknown"])
def test_a_task_of_another_namespace_is_not_there_to_be_waited_for(kept: str) -> None:
    """Open, ended, or none at all: the waiter is told the same at once, and nothing of how that one ended."""
    world = World()
    agent = world.connect("a", 2)
    (foreign,) = world.submit(namespace="theirs") if kept != "unknown" else ("t9",)
    (waiter,) = world.submit()
    begin(world, agent)
    if kept == "ended":
        world.complete(agent, world.ref(agent, foreign))
    world.block(agent, world.ref(agent, waiter), "k", "dependency", required_task_id=foreign)
    if kept != "open":
        ends = {"ended": End(TaskState.SUCCEEDED, "theirs"), "unknown": None}
        world.do(OutcomesLoaded({foreign: ends[kept]}))
    wait = world.state.tasks[waiter].wait("k")
    assert wait is not None
    assert (wait.is_pending, wait.dependency_state) == (False, 0)
    (told,) = agent.answers
    assert f"there is no task '{foreign}' in namespace 'default'".encode() in told.resolution
    assert foreign not in world.state.waiters


def test_the_end_of_a_task_that_another_namespace_asked_for_is_not_told() -> None:
    """It ends in the very step in which it is asked for: the waiter hears that there is no such task."""
    world = World()
    agent = world.connect("a", 2)
    (foreign,) = world.submit(namespace="theirs")
    (waiter,) = world.submit()
    begin(world, agent)
    facts = WaitFacts("k", "dependency", required_task_id=foreign)
    asks = world.reporting(agent, world.ref(agent, waiter), ReportKind.BLOCKED, wait=facts)
    ends = world.reporting(agent, world.ref(agent, foreign), ReportKind.COMPLETED)
    world.do(asks, ends)
    wait = world.state.tasks[waiter].wait("k")
    assert wait is not None
    assert (wait.is_pending, wait.dependency_state) == (False, 0)


def test_an_old_timer_says_nothing_about_a_new_wait_of_its_name() -> None:
    """An external wait's time comes when its key names a wait for a task of the same namespace."""
    world = World()
    agent = world.connect("a", 2)
    required, waiter = world.submit(2)
    begin(world, agent)
    ref = world.ref(agent, waiter)
    world.block(agent, ref, "k", "external", retry_us=world.now_us + SECOND_US)
    world.unblock(agent, ref, "k")
    world.block(agent, ref, "k", "dependency", required_task_id=required)
    world.do(after_us=2 * SECOND_US)
    wait = world.state.tasks[waiter].wait("k")
    assert wait is not None
    assert wait.is_pending
