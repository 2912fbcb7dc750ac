"""Explain: the rule that refused each agent, the place in the queue, the likely start, and what would change it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from outrider_coordinator.core.explain.explain_agent import explain_agent
from outrider_coordinator.core.explain.reasons import explain_task, explained
from outrider_coordinator.core.model import Breaker, HostFacts, System
from outrider_coordinator.core.placement.eligibility import closed_to_work, is_open, refusal
from outrider_coordinator.core.spec import SECOND_US, Claim, Constraint, Demands, Operator
from outrider_coordinator.core.states import Admin, BreakerState, Connectivity
from support.core_world import ModelAgent, World
from support.explaining import why, why_not
from support.source_tree import ROOT

GPU = Demands((Constraint("gpu", Operator.IN, ("yes",)),))


def busy(slots: int = 1, count: int = 1, **hello: Any) -> tuple[World, ModelAgent]:
    """An agent whose slots are taken by tasks of kind m:f, which take ten seconds."""
    world = World()
    agent = world.connect("a", slots, **hello)
    world.state.durations_us["m:f"] = 10 * SECOND_US
    for task in world.submit(count):
        world.start(agent, world.ref(agent, task))
    return world, agent


def test_the_first_rule_that_refused_each_agent() -> None:
    """One verdict per agent, by id, each with the first rule in the order in which placement asks."""
    world, _ = busy()
    world.connect("b", labels={"gpu": "no"})
    world.connect("c", labels={"gpu": "yes"})
    world.state.agents["c"].admin = Admin.PAUSED
    world.state.agents["c"].settle()
    (task,) = world.submit(demands=GPU)
    rules = [(agent_id, rule) for agent_id, _, rule, _ in why(world, task).agents]
    assert rules == [("a", "LABELS"), ("b", "LABELS"), ("c", "PAUSED")]


def test_the_place_in_the_queue_counts_what_goes_before() -> None:
    """Position 1 is next; what has a higher priority counts, what no agent of this task could take does not."""
    world, _ = busy()
    world.submit(5, demands=GPU)
    first, second = world.submit(2)
    world.submit(3, priority=9)
    assert [why(world, task).position for task in (first, second)] == [4, 5]
    assert why(world, second).ahead == 4


def test_a_start_is_predicted_from_what_work_takes() -> None:
    """One slot, ten seconds a task, four done of the one that runs: the third in line starts after twenty-six."""
    world, _ = busy()
    world.wait(4)
    *_, last = world.submit(3)
    predicted_s = (why(world, last).predicted_us - world.now_us) / SECOND_US
    assert predicted_s == pytest.approx(26, abs=0.01)


def test_two_slots_start_twice_as_much() -> None:
    """The formula: each slot starts a task when it is free and then one after another."""
    world, _ = busy(2, 2)
    *_, last = world.submit(4)
    assert (why(world, last).predicted_us - world.now_us) / SECOND_US == pytest.approx(20, abs=0.01)


def test_nothing_is_predicted_where_durations_are_not_known() -> None:
    """No prediction while a kind that matters has never ended and nobody estimated it; an estimate is enough."""
    world, _ = busy()
    world.submit(kind="m:unknown")
    (task,) = world.submit()
    assert why(world, task).predicted_us == 0
    world, _ = busy()
    world.submit(kind="m:unknown", estimated_us=5 * SECOND_US)
    (task,) = world.submit()
    assert (why(world, task).predicted_us - world.now_us) / SECOND_US == pytest.approx(15, abs=0.01)


def test_suggestions_are_tried_on_copies() -> None:
    """One more slot, another agent, a higher priority: each would do what it says, and the state is what it was."""
    world, _ = busy()
    world.submit(3)
    (task,) = world.submit()
    explanation = why(world, task)
    assert explanation.suggestions == [
        "one more agent: would start about 20 s earlier",
        "one more slot on agent a",
        "priority 6: 0 instead of 3 tasks before it",
    ]
    assert refusal(world.state.agents["a"], world.state.tasks[task]) is not None
    assert world.state.tasks[task].spec.priority == 5


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"admin": Admin.PAUSED}, "outrider agent resume a"),
        ({"admin": Admin.DRAINING}, "outrider agent resume a"),
        ({"connectivity": Connectivity.LOST}, "agent a online again"),
        ({"is_quarantined": True}, "outrider agent resume a"),
    ],
)
def test_what_closes_an_agent_has_a_remedy(change: dict[str, Any], hint: str) -> None:
    """A task that only a closed agent could take is told how that agent would be open again."""
    world = World()
    world.connect("a", labels={"gpu": "yes"})
    for name, value in change.items():
        setattr(world.state.agents["a"], name, value)
    world.state.agents["a"].settle()
    world.state.watch.online_count = int(world.state.agents["a"].is_online)
    (task,) = world.submit(demands=GPU)
    assert why(world, task).suggestions == ["one more agent with gpu=yes", hint]
    assert why_not(world, "a").suggestions[0] == hint


def test_an_agent_is_open_when_no_rule_closes_it() -> None:
    """What placement asks for every offer and what Explain names are the same (I10)."""
    world = World()
    world.connect("a")
    agent = world.state.agents["a"]
    closed: list[dict[str, Any]] = [
        {"connectivity": Connectivity.LOST},
        {"admin": Admin.PAUSED},
        {"admin": Admin.DRAINING},
        {"is_quarantined": True},
        {"facts": HostFacts(is_leaving=True)},
        {"breaker": Breaker(state=BreakerState.OPEN)},
        {},
    ]
    for change in closed:
        one = replace(agent, **change)
        assert is_open(one) == (closed_to_work(one) is None) == (not change)


def test_several_changes_are_told_together() -> None:
    """An agent that would need a label and to be resumed is named with both, behind those that need less."""
    world = World()
    world.connect("a", runners=("r",))
    world.connect("b", labels={"gpu": "yes"}, resources={"mem": 1.0})
    world.state.agents["a"].admin = Admin.PAUSED
    world.state.agents["a"].settle()
    (task,) = world.submit(demands=Demands(GPU.constraints, runner="r", resources=(("mem", 2.0),)))
    assert why(world, task).suggestions == [
        "one more agent with gpu=yes and runner r and mem of at least 2",
        "runner r on agent b, mem=2 on agent b",
        "label gpu=yes on agent a, mem=2 on agent a, outrider agent resume a",
    ]


@pytest.mark.parametrize(
    "constraints",
    [
        (Constraint("os", Operator.EXISTS), Constraint("os", Operator.NOT_EXISTS)),
        (Constraint("os", Operator.IN, ("a", "b")), Constraint("os", Operator.NOT_IN, ("a", "b"))),
        (Constraint("os", Operator.IN, ("a",)), Constraint("os", Operator.IN, ("b",))),
    ],
)
def test_constraints_that_no_agent_could_ever_meet_are_said_so(constraints: tuple[Constraint, ...]) -> None:
    """Such a task is accepted, and Explain says that nothing would help."""
    world = World()
    world.connect("a", labels={"os": "a"})
    (task,) = world.submit(demands=Demands(constraints))
    explanation = why(world, task)
    assert explanation.summary.startswith("no agent could ever take it: ")
    assert explanation.suggestions == []


@pytest.mark.parametrize(
    "constraints",
    [
        (Constraint("os", Operator.IN, ("a", "b")), Constraint("os", Operator.NOT_IN, ("a",))),
        (Constraint("os", Operator.EXISTS), Constraint("os", Operator.NOT_IN, ("yes", "x"))),
        (Constraint("os", Operator.NOT_EXISTS),),
    ],
)
def test_constraints_that_can_be_met_have_an_agent_made_for_them(constraints: tuple[Constraint, ...]) -> None:
    """An agent with the right label, or without it, is found by asking the rules."""
    world = World()
    world.connect("a", labels={"os": "x"})
    (task,) = world.submit(demands=Demands(constraints))
    explanation = why(world, task)
    assert not explanation.summary.startswith("no agent could ever")
    assert len(explanation.suggestions) == 2


def test_limits_hold_back_whatever_the_agent() -> None:
    """The holder of a limit is named, and what would let the task have it."""
    world = World()
    world.connect("a", 4)
    demands = Demands(claims=(Claim("db"),))
    holder, waiter = world.submit(2, demands=demands)
    explanation = why(world, waiter)
    assert holder in explanation.held_back[0]
    assert explanation.summary.startswith("held back: ")
    assert explanation.suggestions == [f"the end of task {holder}, which holds db"]
    assert explanation.predicted_us == 0


def test_a_system_holds_back_whatever_the_agent() -> None:
    """An outside system that is known to fail is named, and how to start its tasks again."""
    world = World()
    world.connect("a", 4)
    (task,) = world.submit(demands=Demands(systems=("mail", "ci")), not_before_us=world.now_us + SECOND_US)
    breaker = Breaker(system="ci", state=BreakerState.OPEN, reset_us=world.now_us + 10**9)
    world.state.systems["ci"] = System(breaker)
    world.wait(2)
    explanation = why(world, task)
    assert "ci" in explanation.held_back[0]
    assert explanation.suggestions == ["outrider system reset ci"]


def test_dependencies_are_named_with_where_they_are() -> None:
    """A pending task names what it waits for, and in which state that is."""
    world, _ = busy()
    (first,) = world.submit()
    (after,) = world.submit(after=(first,))
    assert why(world, after).held_back == [f"task {first} must succeed; it is QUEUED"]


def test_a_blocked_task_says_what_it_waits_for_and_how_to_end_that() -> None:
    """Each open wait with its age, and the command that answers it."""
    world, agent = busy()
    (task,) = [ref.task_id for ref in agent.held]
    world.block(agent, world.ref(agent, task), "k", "complexity", additional_us=90 * SECOND_US)
    world.wait(5)
    explanation = why(world, task)
    assert explanation.held_back == ["complexity 'k' waits for 90 s more time since 5 s"]
    assert explanation.suggestions == [f"outrider answer {task} --key k --extend 90s"]


def test_an_agent_that_is_closed_names_every_rule() -> None:
    """Not only the first: what would still be in the way after the first is mended is told too."""
    world = World()
    world.connect("a")
    agent = world.state.agents["a"]
    agent.connectivity, agent.admin = Connectivity.SUSPECT, Admin.PAUSED
    agent.settle()
    agent.breaker.state = BreakerState.OPEN
    explanation = why_not(world, "a")
    assert [rule.name for rule in explanation.closed_by] == ["NOT_ONLINE", "PAUSED", "BREAKER_OPEN"]
    assert explanation.suggestions == [
        "agent a online again",
        "outrider agent resume a",
        "outrider agent reset-breaker a",
    ]
    agent.facts = HostFacts(is_leaving=True)
    agent.settle()
    assert explained(explain_agent(world.state, "nobody")) is None


def test_an_agent_groups_what_waits_by_rule() -> None:
    """Waiting tasks that one rule keeps away are counted together, with what would bring them here."""
    world = World()
    world.connect("a", 2)
    first, *_ = world.submit(3, demands=GPU)
    world.submit(2, demands=Demands(runner="r"))
    explanation = why_not(world, "a")
    assert explanation.summary == "open to work, with 2 free slots; none of the 5 tasks that wait can go to it"
    assert [(group.task_id, group.tasks, group.rule) for group in explanation.groups] == [
        (first, 3, "LABELS"),
        ("t4", 2, "RUNNER"),
    ]
    assert explanation.suggestions == [
        "label gpu=yes on agent a: 3 waiting tasks could go to it",
        "runner r on agent a: 2 waiting tasks could go to it",
    ]


def test_long_work_comes_in_slices() -> None:
    """With many agents Explain pauses between them, and agents that leave meanwhile do no harm."""
    world = World()
    for number in range(450):
        world.connect(f"a{number:03}")
    (task,) = world.submit(demands=GPU)
    explaining = explain_task(world.state, task, world.now_us)
    slices = 0
    for _ in explaining:
        slices += 1
        world.state.agents.pop(f"a{449 - slices:03}", None)
    assert slices >= 2


def test_every_rule_is_in_the_docs_and_in_the_protocol() -> None:
    """Every name of a rule in the code is in docs/explain.md and in the comment of AgentVerdict or held_back_by."""
    code = "".join(path.read_text() for path in (ROOT / "coordinator/outrider_coordinator/core").rglob("*.py"))
    names = set(re.findall(r'Rule\(\s*"([A-Z_]+)"', code))
    page = (ROOT / "docs/explain.md").read_text()
    protocol = Path(ROOT / "protos/outrider/v1/task_service.proto").read_text()
    assert names, "no rule found"
    assert names <= set(re.findall(r"`([A-Z_]+)`", page)), names
    for name in names:
        assert name in protocol, name
