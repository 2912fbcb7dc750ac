"""Explain in the rarer cases: what comes in slices and to a bound, and what nobody can mend."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.explain import explain_agent as agents
from outrider_coordinator.core.explain import foresight, position, whatif
from outrider_coordinator.core.explain.explain_agent import explain_agent
from outrider_coordinator.core.explain.reasons import explain_task, explained, no_work_reason
from outrider_coordinator.core.limits import survey
from outrider_coordinator.core.model import HostFacts
from outrider_coordinator.core.placement.eligibility import closed_to_work
from outrider_coordinator.core.spec import SECOND_US, Claim, Condition, Constraint, Demands, Operator
from outrider_coordinator.core.states import Admin, Connectivity, Intent
from support.core_world import ModelAgent, World
from support.explaining import why
from support.limit_world import SEMAPHORE, define
from support.restart import restart

GPU = Demands((Constraint("gpu", Operator.IN, ("yes",)),))


def busy(slots: int = 1, **hello: Any) -> tuple[World, ModelAgent]:
    """An agent whose slots are taken by tasks of kind m:f, which take ten seconds."""
    world = World()
    agent = world.connect("a", slots, **hello)
    world.state.durations_us["m:f"] = 10 * SECOND_US
    for task in world.submit(slots):
        world.start(agent, world.ref(agent, task))
    return world, agent


def test_what_is_not_there_is_not_explained() -> None:
    """A task that ended, or never was, has no explanation."""
    world = World()
    assert explained(explain_task(world.state, "nobody", world.now_us)) is None


def test_without_agents_somebody_has_to_start_one() -> None:
    """The first thing a new user needs to hear."""
    world = World()
    (task,) = world.submit()
    explanation = why(world, task)
    assert explanation.summary == "no agent has ever registered; start one with `outrider agent run`"
    assert explanation.suggestions == ["one more agent"]


def test_a_dependency_that_has_just_ended_is_named_without_its_state() -> None:
    """Between a start and its first slices a task waits for what is over already."""
    world = World()
    agent = world.connect("a")
    (first,) = world.submit()
    last = world.submit(200, after=(first,), conditions=(Condition.SUCCESS,))[-1]
    world.fail(agent, world.ref(agent, first))
    restart(world)
    assert why(world, last).held_back == [f"task {first} must succeed"]


def test_an_attempt_that_is_being_stopped_says_for_what() -> None:
    """Not that it runs, which is as good as over; one that is being cancelled says that."""
    world, agent = busy()
    (ref,) = agent.held
    attempt = world.state.tasks[ref.task_id].attempt
    assert attempt is not None
    attempt.intent = Intent.PREEMPT
    assert why(world, ref.task_id).summary == "attempt 1 on agent a is being stopped: a more urgent task takes its slot"


def test_waits_for_tasks_and_limits_say_how_to_end_them() -> None:
    """The end of a task, a limit that becomes free; each with the command that says more."""
    world, agent = busy(2)
    define(world, "db", SEMAPHORE, 1)
    first, second = agent.held
    other = f"task {second.task_id}"
    world.block(agent, second, "db", "resource", claim=Claim("db"))
    world.unblock(agent, second, "db")
    world.block(agent, first, "then", "dependency", required_task_id=second.task_id)
    world.block(agent, first, "db", "resource", claim=Claim("db"))
    explanation = why(world, first.task_id)
    assert explanation.held_back == [
        f"dependency 'then' waits for {other} since 0 s",
        "resource 'db' waits for limit db since 0 s",
    ]
    assert explanation.suggestions == [
        f"the end of {other}; `outrider task explain {second.task_id}` says more",
        "limit db becoming free; `outrider limit show db` says who holds it",
    ]


def test_an_agent_that_leaves_cannot_be_mended() -> None:
    """Its own word that it leaves is not for an operator to take back: nothing is suggested for it."""
    world = World()
    world.connect("a", labels={"gpu": "yes"})
    agent = world.state.agents["a"]
    agent.facts = HostFacts(is_leaving=True)
    agent.settle()
    (task,) = world.submit(demands=GPU)
    assert why(world, task).suggestions == ["one more agent with gpu=yes"]
    assert [(rule.name, text) for rule, text in whatif.closing_rules(agent, closed_to_work)] == [("DRAINING", "")]
    found = explained(explain_agent(world.state, "a"))
    assert found is not None
    assert (found.summary, found.suggestions) == ("gets no work: it finishes its work and leaves", [])


def test_too_many_changes_are_no_remedy() -> None:
    """What an agent would need beyond three changes is not suggested for it."""
    for demands, count in (
        (Demands(runner="r", task_type="t"), 3),
        (Demands((Constraint("x", Operator.EXISTS),), (("gpu", 1.0),), "r", "t"), 0),
    ):
        world = World()
        world.connect("a")
        world.state.agents["a"].admin = Admin.PAUSED
        world.state.agents["a"].settle()
        (task,) = world.submit(demands=demands)
        remedies = why(world, task).suggestions[1:]
        assert [len(text.split(", ")) for text in remedies] == ([count] if count else [])
        if count:
            assert remedies == ["runner r on agent a, task type t on agent a, outrider agent resume a"]


def test_no_priority_helps_where_nobody_of_another_stands() -> None:
    """A task of the highest priority behind others of it is not told to take a higher one."""
    world, _ = busy()
    *_, last = world.submit(3, priority=10)
    explanation = why(world, last)
    assert explanation.ahead == 2
    assert not [text for text in explanation.suggestions if text.startswith("priority")]


def test_a_limit_that_nobody_holds_now_has_no_holder_to_wait_for() -> None:
    """A rate gives out what it gives out: nothing but time is suggested; a limit that is free is not mentioned."""
    world = World()
    world.connect("a", 4)
    demands = Demands(claims=(Claim("free"), Claim("db")))
    world.submit(demands=Demands(claims=(Claim("db"),)))
    (task,) = world.submit(demands=demands)
    assert why(world, task).suggestions == ["the end of task t1, which holds db"]


def test_a_capacity_that_would_do_is_named() -> None:
    """How large a semaphore would have to be for the task to start now."""
    world = World()
    world.connect("a", 4)
    define(world, "db", SEMAPHORE, 3)
    world.submit(2, demands=Demands(claims=(Claim("db"),)))
    (task,) = world.submit(demands=Demands(claims=(Claim("db", units=2),)))
    assert why(world, task).suggestions == ["outrider limit put db --capacity 4"]


@pytest.mark.parametrize(("free", "text"), [(True, ""), (False, "all 1 slots are in use")])
def test_one_line_says_why_an_agent_has_no_work(free: bool, text: str) -> None:
    """A rule, or no slot, or nothing at all."""
    world = World()
    world.connect("a")
    if not free:
        world.submit()
    agent = world.state.agents["a"]
    assert no_work_reason(agent) == text
    agent.connectivity = Connectivity.LOST
    agent.settle()
    assert no_work_reason(agent) == "it is lost: out of contact for long"


# --- slices and bounds -----------------------------------------------------------------------------------------------


def slices(explaining: Any) -> tuple[int, Any]:
    """How often a generator paused, and what it returned."""
    count = 0
    while True:
        try:
            next(explaining)
        except StopIteration as end:
            return count, end.value
        count += 1


def test_many_classes_are_explained_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause lets the coordinator do its work; the answer is the same as in one go."""
    world, _ = busy()
    for number in range(9):
        world.submit(demands=Demands(task_type=f"t{number}"))
    last = world.submit(2)[-1]
    whole, of_agent = why(world, last), explained(explain_agent(world.state, "a"))
    for module in (position, agents, foresight):
        monkeypatch.setattr(module, "_SLICE", 2)
    count, sliced = slices(explain_task(world.state, last, world.now_us))
    assert (count > 8, sliced) == (True, whole)
    count, sliced = slices(explain_agent(world.state, "a"))
    assert (count > 3, sliced) == (True, of_agent)


def test_a_long_queue_is_read_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many strands the rest is left out: fewer tasks are counted than there are."""
    world, _ = busy()
    for number in range(6):
        world.submit(submitter=f"s{number}", kind=f"m:{number}", priority=9)
    last = world.submit(1)[-1]
    before = why(world, last).ahead
    monkeypatch.setattr(position, "STRANDS_MAX", 2)
    assert why(world, last).ahead < before


def test_a_large_fleet_is_predicted_from_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the slots stands for all, with the share of the tasks before."""
    world = World()
    world.state.durations_us["m:f"] = 10 * SECOND_US
    for name in "abcdef":
        agent = world.connect(name, 2)
        for task in world.submit(2):
            world.start(agent, world.ref(agent, task))
    *_, last = world.submit(19)
    whole_us = why(world, last).predicted_us - world.now_us
    assert whole_us == pytest.approx(20 * SECOND_US, abs=1000)
    monkeypatch.setattr(foresight, "SLOTS_MAX", 4)
    monkeypatch.setattr(foresight, "_SLICE", 2)
    assert why(world, last).predicted_us - world.now_us == pytest.approx(whole_us, abs=1000)


def test_with_more_free_slots_than_tasks_a_start_is_now() -> None:
    """Nothing to wait for: the formula says zero, and not the first time after it."""
    assert foresight._start_us([0.0, 0.0, 5.0], 1000.0, 1) == 0.0
    assert foresight._start_us([0.0, 0.0, 5.0], 0.5, 9) == 0.0
    assert foresight._start_us([2000.0], 3000.0, 2) == pytest.approx(8000.0, abs=1000)


def test_a_survey_shows_so_many_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that hold a limit, and of those that wait, the first ones."""
    monkeypatch.setattr(survey, "PARTIES_MAX", 2)
    world = World()
    world.connect("a", 9)
    define(world, "db", SEMAPHORE, 3)
    world.submit(7, demands=Demands(claims=(Claim("db"),)))
    (found,) = survey.survey(world.state, "default")
    assert [party.task_id for party in found.holders] == ["t1", "t2"]
    assert [party.task_id for party in found.waiters] == ["t4", "t5"]
    assert found.available == 0.0
    assert survey.survey(world.state, "default", "other") == survey.survey(world.state, "elsewhere") == []
