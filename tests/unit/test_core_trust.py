"""Who is to blame: what counts against an agent, what against its work of one kind, and what against a task."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    BreakerReset,
)
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.states import BreakerState, EventType, Reason, TaskState
from support.trust_world import (
    breaker_of,
    fail_on,
    fails_here_passes_there,
    fleet,
    on,
    order,
    pass_on,
)

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def test_all_that_one_silence_takes_along_is_one_failure() -> None:
    """An agent that loses contact with eight attempts is charged once, and again for the next silence."""
    world, (agent,) = fleet("a", slots=8)
    tasks = world.submit(8)
    for task in tasks:
        world.start(agent, world.ref(agent, task))
    world.disconnect(agent)
    world.wait(6)
    breaker = breaker_of(world, "a")
    assert breaker is not None
    assert (breaker.state, breaker.failures) == (CLOSED, 1)
    world.connect("a", 8)
    world.disconnect(agent)
    world.wait(6)
    assert breaker.failures == 2


def test_a_failure_of_a_task_says_nothing_about_its_agent() -> None:
    """However many tasks fail on the only agent there is, nothing tells whose fault that is, and no breaker opens."""
    world, (agent,) = fleet("a")
    for reason in (Reason.TASK_ERROR, Reason.WORKER_DIED, Reason.TIMED_OUT) * 10:
        fail_on(world, agent, reason=reason)
    assert breaker_of(world, "a").state is CLOSED  # type: ignore[union-attr]
    assert breaker_of(world, "a", "m:f") is None


def test_what_passes_elsewhere_is_held_against_the_agent_for_that_kind_only() -> None:
    """Tasks that fail here and succeed there open this agent's breaker for their kind; other work goes on."""
    world, (here, there) = fleet("a", "b")
    for _ in range(5):
        assert breaker_of(world, "a").state is CLOSED  # type: ignore[union-attr]
        fails_here_passes_there(world, here, there)
    breaker = breaker_of(world, "a", "m:f")
    assert breaker is not None
    assert breaker.state is OPEN
    assert breaker_of(world, "a").state is CLOSED  # type: ignore[union-attr]
    assert breaker_of(world, "b", "m:f") is None
    tasks = world.submit(4)
    assert {ref.task_id for ref in there.held} == set(tasks)
    (other,) = world.submit(kind="m:g")
    assert {ref.task_id for ref in here.held} == {other}
    texts = [event.text for event in world.log if event.type == EventType.AGENT_TYPE_BREAKER]
    assert texts == ["m:f: OPEN"]


def test_the_breaker_of_a_kind_probes_and_is_forgotten() -> None:
    """It lets one task of its kind at a time through, and leaves nothing behind once two have succeeded."""
    world, (here, there) = fleet("a", "b", slots=1)
    for _ in range(5):
        fails_here_passes_there(world, here, there)
    world.wait(31)
    world.submit(3, demands=on("a"))
    for _ in range(2):
        (ref,) = here.held
        world.complete(here, ref)
    assert breaker_of(world, "a", "m:f") is None


def test_a_failed_probe_of_a_kind_opens_it_again() -> None:
    """A probe that fails by its own error is evidence enough while the kind is on trial."""
    world, (here, there) = fleet("a", "b")
    for _ in range(5):
        fails_here_passes_there(world, here, there)
    world.wait(31)
    fail_on(world, here)
    breaker = breaker_of(world, "a", "m:f")
    assert breaker is not None
    assert (breaker.state, breaker.opened_count) == (OPEN, 2)


def test_an_agent_that_fails_far_above_the_fleet_loses_the_kind() -> None:
    """Tasks that are never tried again are evidence too, once there are enough: ten failures beside ten successes."""
    world, (here, there) = fleet("a", "b")
    fail_on(world, here)
    for _ in range(10):
        pass_on(world, there)
    for _ in range(9):
        fail_on(world, here)
    assert breaker_of(world, "a", "m:f") is None
    fail_on(world, here)
    breaker = breaker_of(world, "a", "m:f")
    assert breaker is not None
    assert breaker.state is OPEN


def test_an_agent_that_fails_as_often_as_the_fleet_is_not_charged() -> None:
    """Work that fails half of the time fails half of the time everywhere."""
    world, agents = fleet("a", "b", "c")
    for _ in range(30):
        for agent in agents:
            fail_on(world, agent)
            pass_on(world, agent)
    assert not any(breaker_of(world, name, "m:f") for name in "abc")


def test_a_task_that_fails_everywhere_is_at_fault() -> None:
    """It stops after three different agents however many tries it has left, and nobody is charged."""
    world, agents = fleet("a", "b", "c", "d", slots=1)
    (task,) = world.submit(max_attempts=9)
    seen = []
    for _ in range(3):
        agent = next(agent for agent in agents if agent.held)
        seen.append(agent.id)
        world.fail(agent, world.ref(agent, task))
        order(world, agent, AgentOrder.PAUSE)
        world.wait(61)
    assert len(set(seen)) == 3
    assert world.state_of(task) is TaskState.FAILED
    assert next(event for event in reversed(world.log) if event.task_id == task).reason == Reason.FAILS_EVERYWHERE
    assert not any(breaker_of(world, name, "m:f") for name in "abcd")


def test_a_task_that_kills_its_worker_everywhere_costs_no_agent_its_name() -> None:
    """Poison goes round the fleet and is quarantined; every agent stays trusted, so bystanders are not charged."""
    world, agents = fleet(*"abcdef", slots=1)
    for _ in range(12):
        (task,) = world.submit(max_attempts=9)
        while world.state_of(task) is not TaskState.FAILED:
            agent = next((agent for agent in agents if agent.held), None)
            if agent is not None:
                world.fail(agent, world.ref(agent, task), Reason.WORKER_DIED)
            world.wait(20)
    for name in "abcdef":
        assert breaker_of(world, name).state is CLOSED  # type: ignore[union-attr]
        assert breaker_of(world, name, "m:f") is None


def test_what_a_task_at_fault_had_opened_closes_again() -> None:
    """A probe of a kind that failed by poison is taken back once the task proves to be poison."""
    world, (here, there) = fleet("a", "b")
    for _ in range(5):
        fails_here_passes_there(world, here, there)
    world.wait(31)
    (task,) = world.submit(max_attempts=9, demands=on("a"))
    world.fail(here, world.ref(here, task), Reason.WORKER_DIED)
    breaker = breaker_of(world, "a", "m:f")
    assert breaker is not None
    assert (breaker.state, breaker.opened_count) == (OPEN, 2)
    world.state.tasks[task].worker_deaths = 2  # it killed others meanwhile
    world.state.agents["a"].type_breakers.clear()
    world.wait(2)
    world.state.agents["a"].type_breakers["m:f"] = breaker
    world.fail(here, world.ref(here, task), Reason.WORKER_DIED)
    assert world.state_of(task) is TaskState.FAILED
    assert (breaker.state, breaker.opened_count) == (HALF_OPEN, 1)


def test_a_first_opening_is_taken_back_too() -> None:
    """The task whose failure showed an agent to stand out fails everywhere: the agent has its kind back."""
    world, (a, b, c) = fleet("a", "b", "c", slots=1)
    fail_on(world, a)
    for _ in range(5):
        pass_on(world, b)
        pass_on(world, c)
    for _ in range(9):
        fail_on(world, a)
    for agent in (b, c):
        order(world, agent, AgentOrder.PAUSE)
    (task,) = world.submit(max_attempts=9)
    world.fail(a, world.ref(a, task))
    opened = breaker_of(world, "a", "m:f")
    assert opened is not None
    assert (opened.state, opened.culprit) == (OPEN, task)
    assert breaker_of(world, "a").failures == 1  # type: ignore[union-attr]
    for agent in (b, c):
        order(world, agent, AgentOrder.RESUME)
        world.wait(6)
        world.fail(agent, world.ref(agent, task))
        order(world, agent, AgentOrder.PAUSE)
    assert world.state_of(task) is TaskState.FAILED
    assert opened.state is CLOSED
    assert breaker_of(world, "a").failures == 0  # type: ignore[union-attr]


def test_an_operator_trusts_an_agent_again() -> None:
    """All of its breakers, or the one for a kind; what is not there is refused with advice."""
    world, (here, there) = fleet("a", "b", settings=CoreSettings(breaker_failures=2))
    for kind in ("m:f", "m:g"):
        for _ in range(2):
            fails_here_passes_there(world, here, there, kind)
    world.replies.clear()
    for agent_id, kind in (("a", "m:f"), ("a", "m:f"), ("a", ""), ("nobody", "")):
        world.do(BreakerReset(agent_id, kind, "", world.replies.append))
    assert [getattr(reply, "reason", reply) for reply in world.replies] == [True, "NOT_FOUND", True, "NOT_FOUND"]
    agent = world.state.agents["a"]
    assert (agent.breaker.state, agent.type_breakers) == (CLOSED, {})
    assert all(not tally.agents.get("a") for tally in world.state.tallies.values())


def test_agents_that_are_removed_are_forgotten() -> None:
    """Neither counts nor breakers of an agent outlive it; a task that failed there may still be at fault."""
    world, (here, there) = fleet("a", "b", settings=CoreSettings(breaker_failures=2))
    for _ in range(2):
        fails_here_passes_there(world, here, there)
    (task,) = world.submit(max_attempts=9, demands=on("b"))
    world.state.tasks[task].failed_on = ("a", "c")
    world.do(AgentOrdered("a", AgentOrder.REMOVE, world.replies.append, force=True))
    assert all("a" not in tally.agents for tally in world.state.tallies.values())
    world.fail(there, world.ref(there, task))
    assert world.state_of(task) is TaskState.FAILED


def test_what_is_counted_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind that failed least recently is no longer compared; one without failures is forgotten after a window."""
    monkeypatch.setattr("outrider_coordinator.core.trust.blame.COUNTS_MAX", 4)
    world, (agent, _) = fleet("a", "b")
    for kind in ("k1", "k2", "k1", "k3"):
        fail_on(world, agent, kind)
    assert list(world.state.tallies) == ["k1", "k3"]
    world.wait(601)
    pass_on(world, agent, "k3")
    assert list(world.state.tallies) == ["k1"]


def test_many_kinds_that_open_open_the_agent() -> None:
    """An agent that loses five kinds of work with no success between has lost everybody's trust."""
    world, (here, there) = fleet("a", "b", settings=CoreSettings(breaker_failures=2))
    for kind in ("m:f", "m:g"):
        for _ in range(2):
            fails_here_passes_there(world, here, there, kind)
    assert breaker_of(world, "a").state is OPEN  # type: ignore[union-attr]
