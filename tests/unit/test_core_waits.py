"""Waits: how long each kind may last and what happens then, who may end them, and what the next attempt knows."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.v1 import task_pb2
from outrider_coordinator.core import recovery
from outrider_coordinator.core.attempts.stopping import STOPS
from outrider_coordinator.core.effects import Effects, PushAssign
from outrider_coordinator.core.events import AgentOrder, AgentOrdered, Answered, GivenAnswer, Ref, ReportKind
from outrider_coordinator.core.records import PutWait
from outrider_coordinator.core.settings import CoreSettings, WaitBudgets
from outrider_coordinator.core.snapshots import wait_row
from outrider_coordinator.core.spec import (
    SECOND_US,
    Claim,
    Constraint,
    Demands,
    Operator,
    WaitExpiry,
    WaitPolicies,
    WaitPolicy,
)
from outrider_coordinator.core.states import AttemptState, EventType, Reason, TaskState
from outrider_coordinator.core.step import new_state
from outrider_coordinator.core.waits import blockage, budgets
from support.core_world import ModelAgent, World
from support.limit_world import SEMAPHORE, define

KINDS = {
    "dependency": {"required_task_id": "t99"},
    "external": {"system": "ci"},
    "complexity": {"additional_us": SECOND_US},
    "clarification": {},
    "resource": {"claim": Claim("db", units=2)},
}


def waiting(
    kind: str = "clarification", settings: CoreSettings | None = None, agents: int = 1, **spec: Any
) -> tuple[World, ModelAgent, str, Ref]:
    """A task that waits with key k on agent a; what it depends on is there and does not end."""
    world = World(settings)
    agent = world.connect("a", 2)
    if kind == "resource":
        define(world, "db", SEMAPHORE, 1)
    if kind == "dependency":
        (required,) = world.submit(not_before_us=world.now_us + 10**12)
        KINDS["dependency"]["required_task_id"] = required
    (task,) = world.submit(**spec)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    for number in range(1, agents):
        world.connect("abc"[number], 2)
    world.block(agent, ref, "k", kind, **KINDS[kind])
    return world, agent, task, ref


def policies(kind: str, seconds: float, on_expiry: WaitExpiry) -> WaitPolicies:
    """Policies in which only this kind has a budget."""
    name = "dependency" if kind == "resource" else kind
    return WaitPolicies()._replace(**{name: WaitPolicy(int(seconds * SECOND_US), on_expiry)})


def obey(world: World) -> None:
    """Agents kill what they were told to stop."""
    for agent in world.agents.values():
        for ref in [ref for ref in agent.cancelled if ref in agent.held]:
            world.fail(agent, ref, agent.reasons[ref])
        agent.cancelled.clear()


def answer(world: World, task: str, **facts: Any) -> Any:
    """Somebody answers; what they hear."""
    fields: dict[str, Any] = {"key": "", "payload": b"\x0a\x03yes"} | facts
    world.do(Answered(task, fields.pop("key"), fields.pop("payload"), world.replies.append, **fields))
    return world.replies[-1]


def resolution(agent: ModelAgent) -> task_pb2.Resolution:
    """The last one that an agent was sent."""
    return task_pb2.Resolution.FromString(agent.answers[-1].resolution)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_wait_over_its_budget_fails_its_task(kind: str) -> None:
    """FAIL: not before the budget of its kind is over, the attempt is stopped and the task is FAILED."""
    world, agent, task, ref = waiting(kind, waits=policies(kind, 60, WaitExpiry.FAIL), max_attempts=5)
    world.wait(59)
    assert not agent.cancelled
    world.wait(2)
    assert agent.reasons[ref] is Reason.WAIT_EXPIRED
    obey(world)
    assert world.state_of(task) is TaskState.FAILED


def test_a_wait_that_moves_goes_on_elsewhere_with_what_is_known() -> None:
    """MOVE: queued again without a try used up; the next attempt is told the answers and what ran out of time."""
    world, agent, task, ref = waiting(agents=2, waits=policies("clarification", 60, WaitExpiry.MOVE), max_attempts=1)
    answer(world, task)
    world.unblock(agent, ref, "k")
    world.block(agent, ref, "second", "clarification")
    world.wait(61)
    assert agent.reasons[ref] is STOPS[world.state.tasks[task].attempt.intent].reason is Reason.MOVED
    obey(world)
    record = world.state.tasks[task]
    assert (record.attempts_made, record.attempts_counted, record.attempt.agent_id) == (2, 0, "b")
    assigned = [send for send in world.sent if isinstance(send, PushAssign)][-1]
    assert len(assigned.carried.answers) == len(assigned.carried.expired) == 1


def test_an_answer_that_comes_after_the_move_is_there_when_it_is_asked_for() -> None:
    """What expired and moved can still be answered; asking again then gets it at once."""
    world, _, task, _ = waiting(agents=2, waits=policies("clarification", 60, WaitExpiry.MOVE))
    world.wait(61)
    obey(world)
    assert answer(world, task) == "k"
    other = world.agents["b"]
    ref = world.ref(other, task)
    world.start(other, ref)
    world.block(other, ref, "k")
    assert other.answers[-1].attempt == ref.attempt
    assert world.state_of(task) is TaskState.RUNNING


def asks(world: World, task: str, key: str = "k") -> str:
    """The task's new attempt starts, asks and is left alone for a minute; the agent it did that on."""
    while (attempt := world.state.tasks[task].attempt) is None:
        world.wait(1)
    agent = world.agents[attempt.agent_id]
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, key)
    world.wait(61)
    obey(world)
    return attempt.agent_id


def test_a_wait_moves_to_each_agent_once() -> None:
    """MOVE: where it ran out it does not go again; when everybody has had it the task has failed."""
    world, _, task, _ = waiting(agents=3, waits=policies("clarification", 60, WaitExpiry.MOVE), max_attempts=1)
    world.wait(61)
    obey(world)
    assert {asks(world, task), asks(world, task)} == {"b", "c"}
    assert world.state_of(task) is TaskState.FAILED
    assert Reason(world.of(EventType.TASK_FAILED)[0].reason) is Reason.WAIT_EXPIRED
    assert len(world.assigned) == 3


def test_a_wait_that_can_move_no_more_may_be_kept() -> None:
    """MOVE_OR_KEEP: on the last agent it waits on, and an answer still ends it."""
    world, _, task, _ = waiting(agents=2, waits=policies("clarification", 60, WaitExpiry.MOVE_OR_KEEP))
    world.wait(61)
    obey(world)
    assert asks(world, task) == "b"
    world.wait(1000)
    assert world.state_of(task) is TaskState.BLOCKED
    answer(world, task)
    assert world.agents["b"].answers


@pytest.mark.parametrize("closed", [AgentOrder.PAUSE, AgentOrder.DRAIN, "labels"])
def test_a_wait_moves_only_where_somebody_could_take_it(closed: str) -> None:
    """An agent that takes no work, or not this one, is no place to move to."""
    spec = {"demands": Demands((Constraint("zone", Operator.IN, ("x",)),))} if closed == "labels" else {}
    world = World()
    agent = world.connect("a", 2, labels={"zone": "x"})
    (task,) = world.submit(waits=policies("clarification", 60, WaitExpiry.MOVE), **spec)
    world.start(agent, ref := world.ref(agent, task))
    world.connect("b", 2)
    if closed != "labels":
        world.do(AgentOrdered("b", closed, world.replies.append))
    world.block(agent, ref, "k")
    world.wait(61)
    assert agent.reasons[ref] is Reason.WAIT_EXPIRED


def test_all_waits_of_a_task_move_it_so_often_and_ever_more_rarely() -> None:
    """A task that asks something new wherever it comes is moved 16 times, each time later than before."""
    world, _, task, _ = waiting(
        agents=2, waits=policies("clarification", 60, WaitExpiry.MOVE), initial_backoff_us=SECOND_US
    )
    world.wait(61)
    obey(world)
    for number in range(budgets.MOVES_MAX - 1):
        assert world.state_of(task) is not TaskState.FAILED
        asks(world, task, f"k{number}")
    assert budgets.moves_made(world.state.tasks[task]) == budgets.MOVES_MAX
    asks(world, task, "last")
    assert world.state_of(task) is TaskState.FAILED
    moved = [event.time_us for event in world.of(EventType.TASK_RETRYING)]
    queued = [event.time_us for event in world.of(EventType.TASK_QUEUED)][1:]
    pauses_s = [round((after - before) / SECOND_US) for before, after in zip(moved, queued, strict=True)]
    assert pauses_s[:5] == [0, 1, 2, 4, 8]
    assert pauses_s == sorted(pauses_s)


def test_what_a_wait_has_tried_survives_a_restart() -> None:
    """The agents on which it ran out are stored with the wait."""
    world, _, task, _ = waiting(agents=3, waits=policies("clarification", 60, WaitExpiry.MOVE))
    world.wait(61)
    obey(world)
    first = asks(world, task)
    world.wait(2)
    world.block(world.agents["c"], world.ref(world.agents["c"], task), "k")
    (row,) = [row for row in world.rows if isinstance(row, PutWait)][-1:]
    assert (first, row.moved_from, row.expired_on) == ("b", ("a", "b"), "")


def test_a_wait_that_is_kept_lasts() -> None:
    """KEEP: over its budget it goes on waiting, and an answer still ends it."""
    world, agent, task, _ = waiting(waits=policies("clarification", 1, WaitExpiry.KEEP))
    world.wait(1000)
    assert world.state_of(task) is TaskState.BLOCKED
    answer(world, task)
    assert agent.answers


@pytest.mark.parametrize("kind", ["external", "complexity", "clarification"])
def test_a_wait_that_was_answered_does_not_expire(kind: str) -> None:
    """The budget ends with the resolution, however long the attempt needs to go on."""
    world, agent, task, _ = waiting(kind, waits=policies(kind, 60, WaitExpiry.FAIL))
    world.wait(50)
    answer(world, task)
    world.wait(100)
    assert not agent.cancelled


def test_the_coordinators_budget_holds_where_the_task_names_none() -> None:
    """A task's own policy comes before the setting; KEEP opts out of it."""
    settings = CoreSettings(wait_budgets=WaitBudgets(clarification_us=10 * SECOND_US))
    world, agent, _, _ = waiting(settings=settings)
    keeps = waiting(settings=settings, waits=policies("clarification", 0, WaitExpiry.KEEP))
    for one in (world, keeps[0]):
        one.wait(11)
    assert agent.cancelled
    assert not keeps[1].cancelled


def test_what_may_run_once_never_moves() -> None:
    """A task that runs at most once fails instead of being moved (I12)."""
    world, agent, _, ref = waiting(at_most_once=True, waits=policies("clarification", 1, WaitExpiry.MOVE))
    world.wait(2)
    assert agent.reasons[ref] is Reason.WAIT_EXPIRED


def test_a_budget_survives_a_restart() -> None:
    """The end of the budget is stored: a coordinator that comes back does not begin to count again."""
    world, _, task, _ = waiting("external", waits=policies("external", 60, WaitExpiry.FAIL))
    world.wait(50)
    record = world.state.tasks[task]
    row = wait_row(task, record.waits[0])
    assert row.expires_us - row.opened_us == 60 * SECOND_US
    state = new_state(CoreSettings(), coordinator_epoch=2, now_us=world.now_us)
    wait, attempt = record.waits[0], record.attempt
    record.waits, record.attempt = (), None
    recovery.restore(
        state,
        tasks=[record],
        attempts=[attempt],
        waits=[(task, wait)],
        runs=[],
        agents=[world.state.agents["a"]],
        limits=[],
        breakers=[],
    )
    assert (wait.expires_us, task, "k") in [(timer[0], timer[3], timer[4]) for timer in state.timers]
    assert state.system_waiters == {"ci": {(task, "k"): None}}


def test_policy_grants_time_up_to_its_sum() -> None:
    """Time is granted without asking, all attempts together up to the policy; what goes beyond asks and waits."""
    world, agent, task, ref = waiting("complexity", waits=WaitPolicies(extension_max_us=3 * SECOND_US), max_attempts=2)
    assert resolution(agent).granted_duration.ToSeconds() == 1
    assert world.state_of(task) is TaskState.RUNNING
    world.unblock(agent, ref, "k")
    world.fail(agent, ref)
    world.wait(2)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, "second", "complexity", additional_us=2 * SECOND_US)
    assert resolution(agent).granted_duration.ToSeconds() == 2
    world.unblock(agent, ref, "second")
    world.block(agent, ref, "third", "complexity", additional_us=1)
    assert world.state_of(task) is TaskState.BLOCKED
    assert world.state.tasks[task].waits[0].granted_us == 3 * SECOND_US


@pytest.mark.parametrize(
    ("said", "granted_us"), [({"agrees": True}, SECOND_US), ({"granted_us": 7}, 7), ({}, 0), ({"refuses": True}, 0)]
)
def test_people_grant_time_or_refuse_it(said: dict[str, Any], granted_us: int) -> None:
    """Yes grants what was asked for, a duration so much, anything else nothing; the attempt sees which."""
    world, agent, task, _ = waiting("complexity")
    assert answer(world, task, **said) == "k"
    assert resolution(agent).granted_duration.ToMicroseconds() == granted_us
    assert (resolution(agent).error.reason == task_pb2.TASK_REASON_WAIT_REFUSED) == said.get("refuses", False)


def test_a_question_can_be_refused_and_is_not_asked_again() -> None:
    """A refusal is an answer: the attempt sees why, and a later one that asks the same gets the same."""
    world, agent, task, ref = waiting(max_attempts=2)
    answer(world, task, refuses=True, text="ask somebody else")
    assert resolution(agent).error.message == "ask somebody else"
    world.fail(agent, ref)
    world.wait(2)
    again = world.ref(agent, task)
    world.start(agent, again)
    world.block(agent, again, "k")
    assert resolution(agent).error.message == "ask somebody else"


@pytest.mark.parametrize("kind", ["dependency", "resource"])
def test_no_answer_stands_for_a_task_or_a_limit(kind: str) -> None:
    """An answer would let the attempt believe that it has what it waits for; a refusal ends the wait."""
    world, agent, task, _ = waiting(kind)
    assert answer(world, task).reason == "ILLEGAL_TRANSITION"
    assert not agent.answers
    answer(world, task, refuses=True)
    assert resolution(agent).error.reason == task_pb2.TASK_REASON_WAIT_REFUSED


def test_only_who_asks_for_time_is_granted_time() -> None:
    """A grant to a question names the field that is wrong."""
    world, _, task, _ = waiting()
    refused = answer(world, task, granted_us=5)
    assert (refused.reason, refused.field) == ("INVALID_REQUEST", "granted_duration")


def test_an_answer_to_what_is_being_stopped_is_refused() -> None:
    """Once the budget has decided, an answer says so instead of being lost."""
    world, _, task, _ = waiting(waits=policies("clarification", 1, WaitExpiry.FAIL))
    world.wait(2)
    assert "longer than it may" in answer(world, task).message


def test_another_task_answers() -> None:
    """A running task answers what another asks, once; one that does not wait for it hears nothing."""
    world, agent, task, _ = waiting()
    (helper,) = world.submit()
    ref = world.ref(agent, helper)
    world.start(agent, ref)
    for key in ("other", "k", "k"):
        world.report(agent, ref, ReportKind.ANSWER_GIVEN, given=GivenAnswer(task, key, b"\x0a\x02hi"))
    assert len(agent.answers) == 1
    assert (resolution(agent).answer.data, resolution(agent).resolved_by) == (b"hi", f"task:{helper}")


def test_a_system_that_works_again_wakes_everybody_who_waits_for_it() -> None:
    """`system_recovered` resolves every wait for that system, and no other."""
    world, agent, task, _ = waiting("external")
    (other,) = world.submit()
    ref = world.ref(agent, other)
    world.start(agent, ref)
    world.block(agent, ref, "k", "external", system="mail")
    effects = Effects()
    blockage.system_recovered(world.state, effects, "ci")
    world.take(effects)
    assert [(sent.task_id, resolution(agent).resolved_by) for sent in agent.answers] == [(task, "system:ci")]


def test_a_limit_that_is_granted_or_never_can_be_ends_the_wait() -> None:
    """`resource_granted` wakes the attempt, `deadlocked` tells it the cycle; a later attempt asks anew."""
    world, agent, task, ref = waiting("resource", max_attempts=2)
    effects = Effects()
    blockage.resource_granted(world.state, effects, task, "k")
    world.take(effects)
    assert resolution(agent).resolved_by == "limit:db"
    world.fail(agent, ref)
    world.wait(2)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, "k", "resource", claim=Claim("db", units=2))
    assert world.state_of(task) is TaskState.BLOCKED
    effects = Effects()
    blockage.deadlocked(world.state, effects, task, "k", "t1 -> db -> t1")
    world.take(effects)
    assert resolution(agent).error.reason == task_pb2.TASK_REASON_DEADLOCK


def test_a_wait_whose_answer_is_known_keeps_its_slot() -> None:
    """What is resolved at once is not parked: nobody takes the slot meanwhile."""
    world, agent, task, ref = waiting("complexity", waits=WaitPolicies(extension_max_us=3 * SECOND_US))
    attempt = world.state.tasks[task].attempt
    assert (attempt.state, attempt.holds_slot) == (AttemptState.STARTED, True)
    world.unblock(agent, ref, "k")
    assert world.state.agents["a"].slots_used == 1


def test_who_was_answered_takes_the_next_slot_before_what_is_new() -> None:
    """The slot that becomes free is the answered attempt's; what waits in the queue goes on waiting (I11)."""
    world = World()
    agent = world.connect("a", 1)
    first, second, third = world.submit(3)
    world.start(agent, world.ref(agent, first))
    world.block(agent, world.ref(agent, first), "k")
    world.start(agent, world.ref(agent, second))
    answer(world, first)
    record = world.state.tasks[first].attempt
    assert not record.holds_slot
    world.complete(agent, world.ref(agent, second))
    assert record.holds_slot
    assert world.state_of(third) is TaskState.QUEUED
    world.unblock(agent, world.ref(agent, first), "k")
    world.complete(agent, world.ref(agent, first))
    assert world.state_of(third) is TaskState.ASSIGNED


def test_who_was_answered_and_waits_again_gives_the_slot_back() -> None:
    """An answer to one of two waits does not keep a slot that the attempt cannot use."""
    world, agent, task, ref = waiting()
    world.block(agent, ref, "second")
    answer(world, task, key="k")
    attempt = world.state.tasks[task].attempt
    assert attempt.holds_slot
    world.unblock(agent, ref, "k")
    assert (attempt.holds_slot, world.state_of(task)) == (False, TaskState.BLOCKED)


def test_waits_of_one_task_are_bounded() -> None:
    """An attempt has at most so many open waits, further ones are refused; answers of long ago are forgotten (I16)."""
    world, agent, task, ref = waiting()
    for number in range(blockage.OPEN_MAX):
        world.block(agent, ref, f"k{number}", keeps_running=True)
    assert resolution(agent).error.reason == task_pb2.TASK_REASON_WAIT_REFUSED
    world, agent, task, ref = waiting()
    answer(world, task)
    world.unblock(agent, ref, "k")
    last = blockage.REMEMBERED_MAX + 300
    for number in range(last + 1):
        world.now_us += 1
        world.block(agent, ref, f"k{number}")
        answer(world, task, key=f"k{number}")
        world.unblock(agent, ref, f"k{number}")
    waits = world.state.tasks[task].waits
    assert len(waits) == blockage.REMEMBERED_MAX
    assert waits[-1].key == f"k{last}"
