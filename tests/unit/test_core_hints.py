"""What people are told, word by word: why a task waits, what would change that, how long, and by whom it is held up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from outrider_coordinator.core.explain import reasons, whatif
from outrider_coordinator.core.explain.reasons import Explanation
from outrider_coordinator.core.limits import lines
from outrider_coordinator.core.limits.book import LOCK, Definition, LimitKind, Pool
from outrider_coordinator.core.model import Agent, Breaker, HostFacts, System, Task, Wait
from outrider_coordinator.core.placement.eligibility import closed_to_work
from outrider_coordinator.core.rules import Rule
from outrider_coordinator.core.spec import SECOND_US, Claim, Constraint, Demands, Operator, Spec
from outrider_coordinator.core.states import Admin, BreakerState, Connectivity, TaskState
from support.core_world import World
from support.explaining import why, why_not
from support.telling import begin


def task(**spec: Any) -> Task:
    """A queued task."""
    fields = {"body": b"", "kind": "m:f", "is_function": True, **spec}
    return Task("t", "default", Spec(**fields), 1, 1000, TaskState.QUEUED)


def online(**fields: Any) -> Agent:
    """An agent that is there, with one free slot."""
    return Agent("a", "m", **{"connectivity": Connectivity.ONLINE, "slots": 1, **fields})


# --- what would change it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "spec", "text", "number"),
    [
        ({}, {}, None, 0),
        ({"connectivity": Connectivity.LOST}, {}, "agent {} online again", 1),
        ({"is_quarantined": True}, {}, "outrider agent resume {}", 1),
        ({"admin": Admin.PAUSED}, {}, "outrider agent resume {}", 1),
        ({"admin": Admin.DRAINING}, {}, "outrider agent resume {}", 1),
        ({"facts": HostFacts(is_leaving=True)}, {}, None, 0),
        ({"breaker": Breaker(state=BreakerState.OPEN)}, {}, "outrider agent reset-breaker {}", 1),
        ({"slots": 0}, {}, "one more slot on agent {}", 1),
        ({"slots": 2, "slots_used": 2}, {}, "one more slot on agent {}", 1),
        ({}, {"demands": Demands(runner="r")}, "runner r on agent {}", 1),
        ({"runners": ("q",)}, {"demands": Demands(runner="r")}, "runner r on agent {}", 1),
        ({}, {"demands": Demands(task_type="t")}, "task type t on agent {}", 1),
        ({}, {"demands": Demands(resources=(("cpu", 2.0), ("gpu", 1.0)))}, "cpu=2 and gpu=1 on agent {}", 1),
        (
            {"resources": {"cpu": 2.0, "gpu": 0.5}},
            {"demands": Demands(resources=(("cpu", 2.0), ("gpu", 1.0)))},
            "gpu=1 on agent {}",
            1,
        ),
        (
            {"resources": {"gpu": 2.0}, "resources_used": {"gpu": 2.0}},
            {"demands": Demands(resources=(("gpu", 1.0),))},
            "the end of what takes the resources of agent {}",
            1,
        ),
        (
            {"type_breakers": {"m:f": Breaker("a", "m:f", state=BreakerState.OPEN), "m:g": Breaker("a", "m:g")}},
            {},
            "outrider agent reset-breaker {} --type m:f",
            1,
        ),
        ({"slots": 0, "admin": Admin.PAUSED}, {}, "outrider agent resume {}, one more slot on agent {}", 2),
    ],
)
def test_each_obstacle_has_its_remedy(
    agent: dict[str, Any], spec: dict[str, Any], text: str | None, number: int
) -> None:
    """What an operator would do about it, and nothing where nothing is wrong or nothing helps."""
    remedy = whatif.remedy(online(**agent), task(**spec))
    assert remedy == (None if text is None else whatif.Remedy(text, number))


IN, NOT_IN, EXISTS, ABSENT = Operator.IN, Operator.NOT_IN, Operator.EXISTS, Operator.NOT_EXISTS
ADMITS = Operator.ADMITS


@pytest.mark.parametrize(
    ("labels", "constraints", "text"),
    [
        ({}, [("zone", IN, ("x", "y"))], "label zone=x on agent {}"),
        ({"zone": "z"}, [("zone", IN, ("x", "y"))], "label zone=x on agent {}"),
        ({"zone": "z"}, [("zone", NOT_IN, ("z",))], "label no zone on agent {}"),
        ({"zone": "z"}, [("zone", ABSENT, ())], "label no zone on agent {}"),
        ({}, [("zone", EXISTS, ())], "label zone=yes on agent {}"),
        ({}, [("zone", EXISTS, ()), ("zone", NOT_IN, ("yes",))], "label zone=other on agent {}"),
        ({"arch": "arm"}, [("zone", EXISTS, ()), ("arch", EXISTS, ())], "label zone=yes on agent {}"),
        (
            {"arch": "arm", "os": "x"},
            [("zone", EXISTS, ()), ("arch", ABSENT, ())],
            "label zone=yes and no arch on agent {}",
        ),
        ({}, [("b", EXISTS, ()), ("a", IN, ("1",))], "label a=1 and b=yes on agent {}"),
        ({"zone": "x"}, [("zone", IN, ("x", "y")), ("zone", NOT_IN, ("x",))], "label zone=y on agent {}"),
        ({}, [("secret:s", ADMITS, ("*/*", "n/*"))], "[agent.secrets.s] in the settings of agent {}"),
        ({"secret:s": "m/*"}, [("secret:s", ADMITS, ("*/*", "n/*"))], "[agent.secrets.s] in the settings of agent {}"),
        (
            {"secret:s": "n/*"},
            [("secret:t", ADMITS, ("*/*",)), ("secret:s", ADMITS, ("*/*", "n/*")), ("secret:r", ADMITS, ("*/*",))],
            "[agent.secrets.r] and [agent.secrets.t] in the settings of agent {}",
        ),
        (
            {},
            [("zone", EXISTS, ()), ("secret:s", ADMITS, ("*/*",))],
            "label zone=yes on agent {} and [agent.secrets.s] in the settings of agent {}",
        ),
    ],
)
def test_labels_are_changed_as_little_as_possible(labels: dict[str, str], constraints: list[Any], text: str) -> None:
    """Only those that the task asks about, in order; what is there stays where it does no harm."""
    wanted = tuple(Constraint(*one) for one in constraints)
    assert whatif.remedy(online(labels=labels), task(demands=Demands(wanted))) == whatif.Remedy(text, 1)


def test_labels_that_contradict_each_other_have_no_remedy() -> None:
    """No label can be there and not be there."""
    wanted = (Constraint("zone", EXISTS), Constraint("zone", ABSENT))
    one = task(demands=Demands(wanted))
    assert whatif.remedy(online(), one) is None
    rule = whatif.never(one)
    assert rule is not None
    assert rule.name == "LABELS"


def test_an_agent_made_for_a_task_has_what_it_asks_for_and_nothing_more() -> None:
    """Labels, resources, runner, type and one slot."""
    demands = Demands((Constraint("zone", IN, ("x",)),), (("gpu", 2.0),), "r", "t")
    made = whatif.agent_for(task(demands=demands))
    assert made == Agent(
        "new",
        "",
        connectivity=Connectivity.ONLINE,
        labels={"zone": "x"},
        resources={"gpu": 2.0},
        task_types=("t",),
        runners=("r",),
        slots=1,
    )
    assert whatif.never(task(demands=demands)) is None
    plain = whatif.agent_for(task())
    assert (plain.labels, plain.resources, plain.task_types, plain.runners) == ({}, {}, (), ())
    text = whatif.one_more_agent(task(demands=demands))
    assert text == "one more agent with zone=x and runner r and task type t and gpu of at least 2"
    assert whatif.one_more_agent(task()) == "one more agent"


def test_every_rule_that_closes_an_agent_is_told_with_its_remedy() -> None:
    """One after the other is mended; where nothing can be done the list ends."""
    closed = online(connectivity=Connectivity.LOST, admin=Admin.PAUSED, facts=HostFacts(is_leaving=True))
    told = [(rule.name, text) for rule, text in whatif.closing_rules(closed, closed_to_work)]
    assert told == [("NOT_ONLINE", "agent a online again"), ("PAUSED", "outrider agent resume a"), ("DRAINING", "")]
    assert whatif.closing_rules(online(), closed_to_work) == []
    stubborn = whatif.closing_rules(online(), lambda agent: Rule("PAUSED", "always"))
    assert [rule.name for rule, _ in stubborn] == ["PAUSED"]


@pytest.mark.parametrize(
    ("count", "text"), [(1, "a"), (3, "a, b, c"), (4, "a, b, c or 1 more"), (6, "a, b, c or 3 more")]
)
def test_a_few_agents_are_named_and_the_rest_is_counted(count: int, text: str) -> None:
    """Three names are enough."""
    assert whatif._names(list("abcdefg"[:count])) == text


def test_the_same_change_on_several_agents_is_one_hint() -> None:
    """The fewest changes first, then by their words."""
    world = World()
    for name in "abc":
        world.connect(name)
        world.submit(demands=Demands((Constraint("name", EXISTS),)))
    for name in "ab":
        world.state.agents[name].admin = Admin.PAUSED
        world.state.agents[name].settle()
    world.state.agents["c"].is_quarantined = True
    world.state.agents["c"].settle()
    (waits,) = world.submit()
    world.state.agents["c"].connectivity = Connectivity.LOST
    world.state.agents["c"].settle()
    hints = why(world, waits).suggestions
    assert hints == ["one more agent", "outrider agent resume a, b", "agent c online again, outrider agent resume c"]


def test_the_least_priority_that_helps_is_named() -> None:
    """Going before everybody is best; else going before the most, with the least priority that does so."""
    world = World()
    agent = world.connect("a")
    world.submit()
    begin(world, agent)
    for priority in (9, 7, 7, 5):
        world.submit(priority=priority)
    (last,) = world.submit(priority=4)
    assert [text for text in why(world, last).suggestions if text.startswith("priority")] == [
        "priority 10: 0 instead of 4 tasks before it"
    ]


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0 s"), (0, "0 s"), (1.4, "1 s"), (119, "119 s"), (120, "2 min"), (600, "10 min")]
)
def test_spans_are_told_in_seconds_and_then_in_minutes(seconds: float, text: str) -> None:
    """From two minutes on nobody counts seconds."""
    assert reasons._span(int(seconds * SECOND_US)) == text


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ([], "no agent has ever registered; start one with `outrider agent run`"),
        (["LABELS", "LABELS"], "no agent has the labels it asks for (2 known)"),
        (["LABELS", "RUNNER", "RESOURCES"], "no agent has what it asks for (3 known): LABELS, RESOURCES, RUNNER"),
        (["", "NO_FREE_SLOT"], "about to be placed; 7 tasks go before it"),
        (
            ["NO_FREE_SLOT", "LABELS", "RESOURCES_IN_USE"],
            "every agent that could take it is busy; 7 tasks go before it",
        ),
        (["PAUSED", "NO_FREE_SLOT"], "no agent that could take it is open to work: NO_FREE_SLOT, PAUSED"),
    ],
)
def test_one_line_sums_up_what_the_agents_say(rules: list[str], text: str) -> None:
    """What is most worth knowing comes first."""
    told = Explanation(TaskState.QUEUED, "", ahead=7)
    assert reasons._queued_summary(told, rules, None) == text
    never = Rule("LABELS", "no label can be so")
    assert reasons._queued_summary(told, rules, never) == "no agent could ever take it: no label can be so"
    told.held_back.append("limit x is held")
    held = "held back: limit x is held"
    is_busy = bool(rules) and not all(rule in ("LABELS", "RUNNER", "RESOURCES") for rule in rules)
    assert reasons._queued_summary(told, rules, None) == (held if is_busy else text)


@pytest.mark.parametrize(
    ("wait", "text", "remedy"),
    [
        (
            Wait("k", "clarification", b"", opened_us=40 * SECOND_US),
            "clarification 'k' waits for an answer since 60 s",
            "outrider answer t --key k TEXT",
        ),
        (
            Wait("k", "external", b"", system="ci", opened_us=90 * SECOND_US, retry_us=130 * SECOND_US),
            "external 'k' waits for ci since 10 s, tries again in 30 s",
            "outrider answer t --key k TEXT",
        ),
        (
            Wait("k", "dependency", b"", required_task_id="t9", opened_us=100 * SECOND_US, expires_us=400 * SECOND_US),
            "dependency 'k' waits for task t9 since 0 s, 5 min of its budget left",
            "the end of task t9; `outrider task explain t9` says more",
        ),
        (
            Wait("k", "complexity", b"", additional_us=1_500_000, opened_us=100 * SECOND_US),
            "complexity 'k' waits for 1.5 s more time since 0 s",
            "outrider answer t --key k --extend 1.5s",
        ),
        (
            Wait("k", "resource", b"", claim=Claim("db"), opened_us=100 * SECOND_US),
            "resource 'k' waits for limit db since 0 s",
            "limit db becoming free; `outrider limit show db` says who holds it",
        ),
    ],
)
def test_a_wait_is_told_with_what_ends_it(wait: Wait, text: str, remedy: str) -> None:
    """Since when, for what, how much longer, and the command."""
    assert reasons._wait(wait, 100 * SECOND_US) == text
    assert reasons._remedy(task(), wait) == remedy


@pytest.mark.parametrize(
    ("definition", "claim", "text"),
    [
        (LOCK, Claim("x"), "limit x is kept for a task before it"),
        (
            Definition(LimitKind.SEMAPHORE, 2, 0.0, 0),
            Claim("x", units=3),
            "it claims 3 units of limit x, which never has more than 2; `outrider limit put` can raise that",
        ),
        (
            Definition(LimitKind.RATE, 0, 2.0, 4),
            Claim("x", units=5),
            "it claims 5 units of limit x, which never has more than 4; `outrider limit put` can raise that",
        ),
        (Definition(LimitKind.RATE, 0, 2.5, 4), Claim("x"), "limit x gives out 2.5 units a second"),
    ],
)
def test_a_limit_says_why_it_has_to_be_waited_for(definition: Definition, claim: Claim, text: str) -> None:
    """Never, not now, or not yet; under the name that people look for."""
    assert lines._limit_rule(Pool(definition), claim) == Rule("LIMIT", text)


def test_holders_of_a_limit_are_named() -> None:
    """A lock by who holds it, a semaphore also by how much; a few names, and how many more."""
    pool = Pool(Definition(LimitKind.SEMAPHORE, 9, 0.0, 0))
    pool.hold(("t1", 1), Claim("x", units=2))
    assert lines._limit_rule(pool, Claim("x")).text == "2 of 9 units of limit x are held by task t1"
    for number in range(2, 6):
        pool.hold((f"t{number}", 1), Claim("x"))
    named = lines._limit_rule(pool, Claim("x")).text
    assert named == "6 of 9 units of limit x are held by task t1, task t2, task t3 and 2 more"
    lock = Pool()
    lock.hold(("t1", 1), Claim("x"))
    assert lines._limit_rule(lock, Claim("x")).text == "limit x is held by task t1"
    assert lines._scope_rule(("t1", 2), ("a/*", "a/b")).text == "it writes a/*; task t1 has write scope a/b"
    waits = lines._scope_rule(("t1", 0), ("a/*", "a/b"))
    assert waits == Rule("WRITE_SCOPE", "it writes a/*; task t1 waits for write scope a/b")


# --- agents ----------------------------------------------------------------------------------------------------------


def test_an_agent_that_could_work_says_so() -> None:
    """How many could go to it, with what would bring more of the rest; limits are no matter of the agent."""
    world = World()
    agent = world.connect("a", 2)
    world.submit(demands=Demands(claims=(Claim("x"),)))
    begin(world, agent)
    world.submit(2, demands=Demands(claims=(Claim("x"),)))
    world.submit(3, demands=Demands(runner="r"))
    told = why_not(world, "a")
    assert told.summary == "open to work, with 1 free slots; none of the 5 tasks that wait can go to it"
    assert [(group.tasks, group.rule) for group in told.groups] == [(3, "RUNNER"), (2, "LIMIT")]
    assert told.suggestions == ["runner r on agent a: 3 waiting tasks could go to it"]
    world.state.placement_is_due = False
    (record,) = (one for one in world.state.tasks.values() if one.spec.demands.runner == "r" and one.order == 4)
    world.state.agents["a"].runners = ("r",)
    assert record.state is TaskState.QUEUED
    assert why_not(world, "a").summary == "open to work; 3 waiting tasks could go to it now"


def test_the_first_task_stands_for_its_group() -> None:
    """Of several classes that one rule keeps away the one that was accepted first is named."""
    world = World()
    world.connect("a")
    for kind in ("m:late", "m:early", "m:late"):
        world.submit(kind=kind, demands=Demands(runner="r"))
    (group,) = why_not(world, "a").groups
    assert (group.task_id, group.tasks) == ("t1", 3)
    assert why_not(world, "a").suggestions == ["runner r on agent a: 3 waiting tasks could go to it"]


def test_a_system_that_is_down_is_told_once_for_each() -> None:
    """Which of several systems hold a task back, and the command for each of them."""
    world = World()
    world.connect("a")
    (waits,) = world.submit(demands=Demands(systems=("ci", "mail", "up")), not_before_us=world.now_us + SECOND_US)
    for name in ("ci", "mail"):
        known = Breaker(system=name, state=BreakerState.OPEN, reset_us=10**12)
        world.state.systems[name] = System(replace(known))
    world.wait(2)
    assert why(world, waits).suggestions == ["outrider system reset ci", "outrider system reset mail"]
    world.state.systems.clear()
    assert whatif.changes_of_what_holds(world.state, world.state.tasks[waits]) == []
