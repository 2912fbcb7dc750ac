"""Waits that are asked for again, beside others, or by another try: what is known of them, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.v1 import task_pb2
from outrider_coordinator.core.effects import LoadOutcomes, PushCancel
from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    Answered,
    End,
    GivenAnswer,
    OutcomesLoaded,
    Ref,
    ReportKind,
    WaitFacts,
)
from outrider_coordinator.core.model import Wait
from outrider_coordinator.core.spec import SECOND_US, WaitExpiry, WaitPolicies, WaitPolicy
from outrider_coordinator.core.states import EventType, Reason, TaskState
from outrider_coordinator.core.waits import blockage
from support.core_world import ModelAgent, World
from support.limit_world import finish, got, start, want


def running(slots: int = 4, **spec: Any) -> tuple[World, ModelAgent, Ref]:
    """A task that runs."""
    world = World()
    agent = world.connect("a", slots)
    (task,) = world.submit(**spec)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    return world, agent, ref


def wait_of(world: World, ref: Ref, key: str = "k") -> Wait:
    """A wait of the task."""
    wait = world.state.tasks[ref.task_id].wait(key)
    assert wait is not None
    return wait


def answer(world: World, ref: Ref, **facts: Any) -> Any:
    """Somebody answers what is asked under k; what they hear."""
    world.do(Answered(ref.task_id, "k", facts.pop("payload", b"\x0a\x03yes"), world.replies.append, **facts))
    return world.replies[-1]


def again(world: World, agent: ModelAgent, ref: Ref) -> Ref:
    """The attempt fails and the task's next one starts on the same agent."""
    world.fail(agent, ref)
    world.wait(2)
    ref = world.ref(agent, ref.task_id)
    world.start(agent, ref)
    return ref


def resolution(wait: Wait) -> task_pb2.Resolution:
    """How a wait was resolved."""
    return task_pb2.Resolution.FromString(wait.resolution)


# --- what is told ----------------------------------------------------------------------------------------------------


def test_events_say_who_waits_and_for_what() -> None:
    """The attempt and its agent, and the words of the report, at the begin and at the end."""
    world, agent, ref = running()
    world.report(agent, ref, ReportKind.BLOCKED, wait=WaitFacts("k", "clarification"), body=b"which?")
    answer(world, ref)
    world.report(agent, ref, ReportKind.UNBLOCKED, text="k", body=b"that one")
    told = [
        (event.attempt, event.agent_id, event.body)
        for kind in (EventType.TASK_BLOCKED, EventType.TASK_UNBLOCKED)
        for event in world.of(kind)
    ]
    assert told == [(1, "a", b"which?"), (1, "a", b"that one")]


def test_a_move_says_how_often_it_was_in_vain() -> None:
    """The second time the message names the budget and the earlier try."""
    policy = WaitPolicies(clarification=WaitPolicy(60 * SECOND_US, WaitExpiry.MOVE))
    world, agent, ref = running(waits=policy)
    world.connect("b", 2)
    for holder in (agent, world.agents["b"]):
        ref = world.ref(holder, ref.task_id)
        world.start(holder, ref)
        world.block(holder, ref, "k")
        world.wait(61)
        world.fail(holder, ref, holder.reasons.get(ref, Reason.MOVED))
        world.wait(1)
    told = [send.message for send in world.sent if isinstance(send, PushCancel)]
    plain = "clarification 'k' waited for longer than 60 s"
    assert told == [plain, f"{plain}, after 1 times elsewhere"]


def test_a_limit_that_no_answer_stands_for_is_named() -> None:
    """The refusal says what the wait is for, a limit or a task, and how to end it."""
    world, agent, ref = running()
    holder = start(world, agent, "db")
    want(world, agent, ref.task_id, "db")
    world.do(Answered(ref.task_id, "limit-db", b"", world.replies.append))
    text = "'limit-db' waits for limit 'db', which no answer can stand for; refuse it to end the wait"
    assert (world.replies[-1].message, holder != ref.task_id) == (text, True)


# --- asked again -----------------------------------------------------------------------------------------------------


def test_a_dependency_that_ended_is_not_waited_for_again() -> None:
    """A later try that names it hears at once how it ended, and the store is not asked."""
    world, agent, ref = running(max_attempts=3)
    (other,) = world.submit()
    world.block(agent, ref, "k", "dependency", required_task_id=other)
    finish(world, agent, other)
    world.unblock(agent, ref, "k")
    ref = again(world, agent, ref)
    world.sent.clear()
    world.block(agent, ref, "k", "dependency", required_task_id=other)
    assert wait_of(world, ref).dependency_state == TaskState.SUCCEEDED
    assert not [send for send in world.sent if isinstance(send, LoadOutcomes)]


def test_a_task_that_nobody_knows_is_refused_by_nobody() -> None:
    """The store has none of that id: the wait ends with a refusal that names it, and no resolver."""
    world, agent, ref = running()
    world.block(agent, ref, "k", "dependency", required_task_id="gone")
    world.do(OutcomesLoaded({"gone": None}))
    told = resolution(wait_of(world, ref))
    assert (told.error.reason, told.resolved_by) == (task_pb2.TASK_REASON_WAIT_REFUSED, "")
    assert told.error.message == "there is no task 'gone' in namespace 'default'"


def test_a_system_is_waited_for_anew_each_time() -> None:
    """That it was tried once says nothing of the next time, even before the attempt said that it went on."""
    world, agent, ref = running()
    world.block(agent, ref, "k", "external", retry_us=world.now_us + 5 * SECOND_US)
    world.wait(5)
    assert resolution(wait_of(world, ref)).resolved_by == "timer"
    world.block(agent, ref, "k", "external")
    assert wait_of(world, ref).is_pending


def test_a_limit_that_an_earlier_try_had_is_not_held_by_the_next() -> None:
    """It was given back with that try: the next one waits until it gets it."""
    world, agent, ref = running(max_attempts=3)
    holder = start(world, agent, "db")
    want(world, agent, ref.task_id, "db")
    finish(world, agent, holder)
    world.unblock(agent, ref, "limit-db")
    assert wait_of(world, ref, "limit-db").held_by == 1
    world.fail(agent, ref)
    other = start(world, agent, "db")
    world.wait(2)
    ref = world.ref(agent, ref.task_id)
    world.start(agent, ref)
    agent.answers.clear()
    want(world, agent, ref.task_id, "db")
    assert got(agent, ref.task_id) == []
    finish(world, agent, other)
    assert got(agent, ref.task_id) == ["limit-db"]
    assert wait_of(world, ref, "limit-db").held_by == 2


def test_a_retry_time_is_of_its_own_wait() -> None:
    """One that asks again under the same key and names no time is not woken by that of the wait before."""
    world, agent, ref = running()
    world.block(agent, ref, "k", "external", retry_us=world.now_us + 5 * SECOND_US)
    world.unblock(agent, ref, "k")
    world.block(agent, ref, "k", "external")
    world.wait(10)
    assert wait_of(world, ref).is_pending


def test_a_budget_is_of_its_own_wait() -> None:
    """A wait of another kind under the same key, for which there is no budget, outlasts that of the one before."""
    world, agent, ref = running(waits=WaitPolicies(clarification=WaitPolicy(5 * SECOND_US, WaitExpiry.FAIL)))
    world.block(agent, ref, "k")
    world.unblock(agent, ref, "k")
    world.block(agent, ref, "k", "external")
    world.wait(10)
    assert not agent.cancelled


# --- other tries and other tasks -------------------------------------------------------------------------------------


def test_the_end_of_an_earlier_try_leaves_the_waits_of_the_next_one_open() -> None:
    """A try that was given up for lost ends after all: what the next one waits for is still waited for."""
    world, here, ref = running(max_attempts=5)
    there = world.connect("b", 4)
    world.disconnect(here)
    world.wait(10)
    later = world.ref(there, ref.task_id)
    world.start(there, later)
    world.block(there, later, "k")
    world.connect("a", 4)
    world.fail(here, ref)
    assert wait_of(world, later).is_pending
    assert world.state_of(ref.task_id) is TaskState.BLOCKED


def test_the_waits_of_a_lost_try_stay_open_while_it_may_come_back() -> None:
    """Of two tries that were lost one is over, which ends nothing that the other waits for."""
    world, here, ref = running(max_attempts=9)
    there = world.connect("b", 4)
    world.block(here, ref, "k")
    world.disconnect(here)
    world.wait(10)
    later = world.ref(there, ref.task_id)
    world.start(there, later)
    world.block(there, later, "k")
    task = world.state.tasks[ref.task_id]
    world.disconnect(there)
    world.wait(10)
    assert len(task.strays) == 2
    world.do(AgentOrdered("a", AgentOrder.PAUSE, world.replies.append))
    world.connect("a", 4)
    assert (len(task.strays), wait_of(world, ref).is_open) == (1, True)


def test_another_task_grants_time_by_saying_yes() -> None:
    """What it agrees to is granted as it was asked for."""
    world, agent, ref = running()
    world.block(agent, ref, "k", "complexity", additional_us=1_500_000)
    (helper,) = world.submit()
    world.start(agent, world.ref(agent, helper))
    given = GivenAnswer(ref.task_id, "k", b"", agrees=True)
    world.report(agent, world.ref(agent, helper), ReportKind.ANSWER_GIVEN, given=given)
    assert resolution(wait_of(world, ref)).granted_duration.ToMicroseconds() == 1_500_000


def test_the_store_tells_of_several_tasks_at_once() -> None:
    """That one of them is open after all does not hide the others."""
    world, agent, ref = running()
    (open_one,) = world.submit()
    world.block(agent, ref, "k", "dependency", required_task_id="gone")
    world.do(OutcomesLoaded({open_one: End(TaskState.SUCCEEDED, "default"), "gone": End(TaskState.EXPIRED, "default")}))
    assert wait_of(world, ref).dependency_state == TaskState.EXPIRED


# --- amounts ---------------------------------------------------------------------------------------------------------


def test_who_names_no_amount_is_granted_none_by_policy() -> None:
    """Somebody has to say how much, though the policy has time left or none at all."""
    for left_us in (0, 10 * SECOND_US):
        world, agent, ref = running(waits=WaitPolicies(extension_max_us=left_us))
        world.block(agent, ref, "k", "complexity")
        assert wait_of(world, ref).is_pending


def test_a_refusal_grants_nothing_whatever_it_names() -> None:
    """Nobody gets time by a no, and it is not remembered once the attempt went on."""
    world, agent, ref = running()
    world.block(agent, ref, "k", "complexity", additional_us=SECOND_US)
    answer(world, ref, granted_us=5, refuses=True)
    told = resolution(wait_of(world, ref))
    assert (told.error.reason, told.granted_duration.ToMicroseconds()) == (task_pb2.TASK_REASON_WAIT_REFUSED, 0)
    world.unblock(agent, ref, "k")
    assert world.state.tasks[ref.task_id].waits == ()


@pytest.mark.parametrize(("open_count", "is_refused"), [(0, False), (blockage.OPEN_MAX - 1, False), (256, True)])
def test_only_open_waits_are_too_many(open_count: int, is_refused: bool) -> None:
    """Hundreds of answers that a task remembers do not keep it from asking; the coordinator says who refused."""
    world, agent, ref = running()
    waits = [Wait(f"k{number}", "clarification", b"", resolution=b"x") for number in range(300)]
    for number, wait in enumerate(waits):
        wait.is_open = number < open_count
    world.state.tasks[ref.task_id].waits = tuple(waits)
    world.block(agent, ref, "k")
    told = resolution(wait_of(world, ref))
    assert (told.error.reason == task_pb2.TASK_REASON_WAIT_REFUSED) is is_refused
    assert told.resolved_by == ("coordinator" if is_refused else "")


def test_what_was_read_of_tasks_says_how_they_ended_and_whose_they_are() -> None:
    """Those that are not over are left out; one that the store does not have is told as none."""
    states = {"done": int(TaskState.FAILED), "open": int(TaskState.RUNNING), "gone": None}
    read = OutcomesLoaded.of(states, {"done": "lab", "open": "lab"})
    assert read.ends == {"done": End(TaskState.FAILED, "lab"), "gone": None}
    assert isinstance(read.ends["done"], End)
    assert type(read.ends["done"].state) is TaskState
