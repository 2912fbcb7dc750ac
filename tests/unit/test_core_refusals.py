"""Agents whose own policy refuses a task, and agents that take signed tasks only."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.attempts import refusals
from outrider_coordinator.core.attempts.refusals import NAMED_MAX, REFUSALS_MAX
from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    AttemptsReturned,
    CancelRequested,
    HeartbeatReceived,
)
from outrider_coordinator.core.explain.reasons import explain_task, explained
from outrider_coordinator.core.failure import encode_error, message_of
from outrider_coordinator.core.model import HostFacts
from outrider_coordinator.core.placement.eligibility import mismatch
from outrider_coordinator.core.placement.fleet import demands_of
from outrider_coordinator.core.rules import Rule
from outrider_coordinator.core.spec import NO_DEMANDS, Constraint, Demands, Operator
from outrider_coordinator.core.states import AttemptState, Blame, BreakerState, EventType, Reason, TaskState
from support.core_world import ModelAgent, World
from support.restart import restart

SIGNED = {"outrider.signed": "required"}
RULE = "[policy] commands allows only /usr/bin/make"


def refuse(world: World, agent: ModelAgent, task: str, message: str = RULE) -> None:
    """The agent's policy refuses the task that it was offered."""
    ref = world.ref(agent, task)
    agent.held.pop(ref)
    world.do(AttemptsReturned(agent.id, agent.epoch, [ref], revoked=False, message=message, by_policy=True))


def explanation(world: World, task: str) -> Any:
    """What Explain says of a task."""
    explaining = explain_task(world.state, task, world.now_us)
    return explained(explaining) if not hasattr(explaining, "state") else explaining


def rules(world: World, task: str) -> dict[str, str]:
    """The rule that keeps each agent from the task, by agent."""
    return {agent_id: rule for agent_id, _, rule, _ in explanation(world, task).agents}


def holder(world: World, task: str) -> ModelAgent:
    """The agent that the task is offered to."""
    attempt = world.state.tasks[task].attempt
    assert attempt is not None
    return world.agents[attempt.agent_id]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_task_that_one_policy_refuses_goes_to_another_agent() -> None:
    """No try is used up, nobody is blamed, and the log says why it was not taken."""
    world = World()
    world.connect("a")
    world.connect("b")
    (task,) = world.submit(max_attempts=1)
    first = holder(world, task)
    refuse(world, first, task)
    second = holder(world, task)
    assert second is not first
    rule = mismatch(world.state.agents[first.id], demands_of(world.state.tasks[task]))
    assert rule == Rule("REFUSED", "its own policy refuses this task, as its attempt there says")
    assert world.state.tasks[task].attempts_counted == 0
    agent = world.state.agents[first.id]
    assert (agent.breaker.state, agent.breaker.failures, agent.failed_count) == (BreakerState.CLOSED, 0, 0)
    row = [row for row in world.rows if getattr(row, "state", 0) == AttemptState.REJECTED][-1]
    assert (row.reason, row.blame, message_of(row.error)) == (Reason.REFUSED_BY_POLICY, Blame.NONE, RULE)
    retrying = world.of(EventType.TASK_RETRYING)[-1]
    assert (retrying.reason, retrying.text) == (Reason.REFUSED_BY_POLICY, RULE)
    world.complete(second, world.ref(second, task))
    assert world.state_of(task) is TaskState.SUCCEEDED


def test_a_task_that_every_policy_refuses_fails_with_what_each_said() -> None:
    """It is asked once of each agent, and its failure names them all."""
    world = World()
    world.connect("a")
    world.connect("b")
    (task,) = world.submit(max_attempts=5)
    refuse(world, holder(world, task), task, "no")
    refuse(world, holder(world, task), task, "never")
    assert world.state_of(task) is TaskState.FAILED
    ended = world.of(EventType.TASK_FAILED)[-1]
    assert Reason(ended.reason) is Reason.REFUSED_BY_POLICY
    assert message_of(ended.body) == "no agent takes it: a: no; b: never"
    assert world.kinds(task).count("TASK_RETRYING") == 1
    assert sorted(send.agent_id for send in world.assigned) == ["a", "b"]


def test_many_refusals_are_counted_and_the_first_are_named() -> None:
    """A task is over after a bounded number of refusals, however many agents are left."""
    world = World()
    for number in range(REFUSALS_MAX + 1):
        world.connect(f"agent-{number:02}")
    (task,) = world.submit()
    for _ in range(REFUSALS_MAX):
        refuse(world, holder(world, task), task, "x" * 600)
    assert world.state_of(task) is TaskState.FAILED
    said = message_of(world.of(EventType.TASK_FAILED)[-1].body)
    assert said.count("agent-") == NAMED_MAX
    assert said.endswith(f"; and {REFUSALS_MAX - NAMED_MAX} more")
    assert "x" * 500 in said
    assert "x" * 501 not in said


def test_as_many_refusals_as_are_named_are_all_there_are() -> None:
    """Each has its word, and nothing is left to count; the events name the try and its agent."""
    world = World()
    for number in range(NAMED_MAX):
        world.connect(f"agent-{number:02}")
    (task,) = world.submit()
    order = []
    for _ in range(NAMED_MAX):
        order.append(holder(world, task).id)
        refuse(world, holder(world, task), task, "no")
    said = message_of(world.of(EventType.TASK_FAILED)[-1].body)
    assert said == "no agent takes it: " + "; ".join(f"agent-{number:02}: no" for number in range(NAMED_MAX))
    told = [*world.of(EventType.TASK_RETRYING), *world.of(EventType.TASK_FAILED)]
    assert [(event.attempt, event.agent_id) for event in told] == list(enumerate(order, 1))


@pytest.mark.parametrize("crossed", ["cancel", "deadline"])
def test_a_refusal_of_what_was_to_be_stopped_is_no_retry(crossed: str) -> None:
    """The task ends as it was to end, and the log has no word of another try."""
    world = World()
    world.connect("a")
    world.connect("b")
    (task,) = world.submit(deadline_us=4_000_000)
    agent = holder(world, task)
    if crossed == "cancel":
        world.do(CancelRequested([task], "", world.replies.append))
    else:
        world.wait(4)
    refuse(world, agent, task)
    assert world.state_of(task) is (TaskState.CANCELLED if crossed == "cancel" else TaskState.EXPIRED)
    assert not world.of(EventType.TASK_RETRYING)


def test_agents_that_have_left_or_leave_are_not_waited_for() -> None:
    """A task fails when no connected agent is left that could take it, whatever others are known."""
    world = World()
    world.connect("a")
    leaving = world.connect("b")
    world.do(HeartbeatReceived("b", leaving.epoch, HostFacts(is_leaving=True)))
    (task,) = world.submit()
    refuse(world, holder(world, task), task)
    assert world.state_of(task) is TaskState.FAILED


@pytest.mark.parametrize("away_s", [0.1, 3600])
def test_an_agent_that_is_out_of_contact_may_come_back_and_take_it(away_s: float) -> None:
    """While the only other agent is suspect the task waits for it; once that is lost the task fails."""
    world = World()
    other = world.connect("b")
    world.disconnect(other)
    world.wait(away_s)
    world.connect("a")
    (task,) = world.submit()
    refuse(world, world.agents["a"], task)
    assert world.state_of(task) is (TaskState.QUEUED if away_s < 1 else TaskState.FAILED)
    if away_s < 1:
        assert rules(world, task) == {"a": "REFUSED", "b": "NOT_ONLINE"}
        world.connect("b")
        assert holder(world, task) is other


def test_a_refusal_is_remembered_across_a_restart() -> None:
    """A coordinator that starts again does not ask an agent a second time."""
    world = World()
    agent, other = world.connect("a"), world.connect("b", slots=1)
    (task,) = world.submit()
    first = holder(world, task)
    second = other if first is agent else agent
    world.submit()  # goes to the other one, so that the first task waits
    refuse(world, first, task)
    assert world.state_of(task) is TaskState.QUEUED
    before = world.state.tasks[task].refusals
    restart(world)
    assert world.state.tasks[task].refusals == before == ((first.id, encode_error(Reason.REFUSED_BY_POLICY, RULE)),)
    world.connect(first.id)
    world.settle()
    assert world.state_of(task) is TaskState.QUEUED
    assert rules(world, task)[first.id] == "REFUSED"
    world.connect(second.id, slots=2)
    world.settle()
    assert holder(world, task) is second


def test_only_refusals_are_remembered_as_such() -> None:
    """A start may meet attempts that were rejected for another reason: they say nothing about policies."""
    world = World()
    agent = world.connect("a")
    (task_id,) = world.submit()
    task = world.state.tasks[task_id]
    assert task.attempt is not None
    refusals.remember(task, task.attempt)
    assert task.refusals == ()
    task.attempt.reason = Reason.REFUSED_BY_POLICY
    refusals.remember(task, task.attempt)
    assert task.refusals == ((agent.id, b""),)


def test_an_ordinary_rejection_is_none_of_policy() -> None:
    """An agent that was full is asked again, also after a restart."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.do(AttemptsReturned("a", agent.epoch, [ref], revoked=False, message="no free slot"))
    assert world.state.tasks[task].refusals == ()
    restart(world)
    assert world.state.tasks[task].refusals == ()


def test_a_cancel_decides_before_a_refusal() -> None:
    """A task that somebody cancelled is CANCELLED, whoever would have refused it."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    world.do(CancelRequested([task], "", world.replies.append))
    refuse(world, agent, task)
    assert world.state_of(task) is TaskState.CANCELLED
    assert "TASK_RETRYING" not in world.kinds(task)


def test_a_refusal_of_what_has_begun_says_nothing() -> None:
    """Only an offer can be refused: an attempt that runs goes on."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.do(AttemptsReturned("a", agent.epoch, [ref], revoked=False, message=RULE, by_policy=True))
    assert world.state_of(task) is TaskState.RUNNING


def test_a_task_that_was_refused_goes_elsewhere_also_in_a_line() -> None:
    """It waits in no line, and no line is shortened for an agent that refuses it."""
    world = World()
    world.connect("a", slots=1, prefetch_credit=8)
    for _ in range(12):  # such work is short
        (one,) = world.submit()
        world.complete(world.agents["a"], world.ref(world.agents["a"], one))
    world.connect("b", slots=1, prefetch_credit=8)
    busy = world.submit(2)
    tasks = world.submit(2)
    refuse(world, world.agents["a"], next(ref.task_id for ref in world.agents["a"].held if ref.task_id in tasks))
    refused = next(task for task in tasks if world.state.tasks[task].refusals)
    assert world.state_of(refused) is TaskState.QUEUED
    for task in busy:
        agent = holder(world, task)
        world.complete(agent, world.ref(agent, task))
    world.settle()
    assert all(send.agent_id == "b" for send in world.assigned if send.task_id == refused and send.attempt > 1)


def test_refused_demands_are_kept_beside_others() -> None:
    """Explain says of each agent what keeps the task from it, and does not suggest to change a policy."""
    world = World()
    demands = Demands((Constraint("gpu", Operator.IN, ("yes",)),))
    world.connect("a", labels={"gpu": "yes"})
    world.connect("b")
    world.connect("c", labels={"gpu": "yes"})
    (task,) = world.submit(demands=demands)
    world.do(AgentOrdered("c" if holder(world, task).id == "a" else "a", AgentOrder.PAUSE, world.replies.append))
    first = holder(world, task)
    refuse(world, first, task)
    found = rules(world, task)
    assert (found[first.id], found["b"]) == ("REFUSED", "LABELS")
    assert not [text for text in explanation(world, task).suggestions if first.id in text.split()]


# --- signatures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("demands", [NO_DEMANDS, Demands(task_type="t"), Demands(is_signed=True)])
def test_only_signed_tasks_go_to_an_agent_that_takes_no_others(demands: Demands) -> None:
    """The others wait for another agent, and Explain says why and what would help."""
    world = World()
    world.connect("a", labels=SIGNED, task_types=("t",))
    (task,) = world.submit(demands=demands)
    if demands.is_signed:
        assert holder(world, task).id == "a"
        return
    assert world.state_of(task) is TaskState.QUEUED
    assert rules(world, task) == {"a": "UNSIGNED"}
    found = explanation(world, task)
    assert found.summary == "no agent has what it asks for (1 known): UNSIGNED"
    assert "signed, with `--sign`, on agent a" in found.suggestions
    world.connect("b", task_types=("t",))
    assert holder(world, task).id == "b"


def test_an_agent_that_asks_for_signatures_from_now_on_gets_no_other_task() -> None:
    """What it offers may change with every session."""
    world = World()
    agent = world.connect("a", slots=2)
    (first,) = world.submit()
    assert holder(world, first) is agent
    world.disconnect(agent)
    world.connect("a", slots=2, labels=SIGNED)
    (second,) = world.submit()
    assert world.state_of(second) is TaskState.QUEUED
    world.connect("a", slots=2, instance_id="next", instance_start_ms=2)
    world.settle()
    assert holder(world, second) is agent


def test_lines_of_unsigned_tasks_are_not_shortened_for_who_takes_none() -> None:
    """An idle agent that takes signed tasks only asks nothing back from the lines of others."""
    world = World()
    world.connect("a", slots=1, prefetch_credit=8)
    for _ in range(12):
        (one,) = world.submit()
        world.complete(world.agents["a"], world.ref(world.agents["a"], one))
    world.submit(3)
    assert world.state.agents["a"].ahead
    world.connect("s", slots=4, labels=SIGNED)
    world.settle()
    assert not [task for task in world.state.agents["a"].ahead.values() if task.revoke_sent]


def test_signed_functions_wait_in_no_line() -> None:
    """Only what every agent takes is sent ahead of a slot."""
    world = World()
    world.connect("a", slots=1, prefetch_credit=8)
    for _ in range(12):
        (one,) = world.submit()
        world.complete(world.agents["a"], world.ref(world.agents["a"], one))
    world.submit(3, demands=Demands(is_signed=True))
    assert not world.state.agents["a"].ahead


@pytest.mark.parametrize("message", ["", "short", "é" * 500])
def test_a_failure_that_was_encoded_says_what_it_said(message: str) -> None:
    """The message of a failure of the coordinator's own is found in it again."""
    assert message_of(encode_error(Reason.REFUSED_BY_POLICY, message)) == message
