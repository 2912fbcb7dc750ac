"""Lines, lanes and classes of the queue one by one: what stands where, who has had a turn, what can be told apart."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core import pacing
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.events import AgentOrder, AgentOrdered, CancelRequested
from outrider_coordinator.core.model import Agent, Cap, Measured, Task, Wait
from outrider_coordinator.core.placement import eligibility, matching, preemption
from outrider_coordinator.core.placement.fleet import Lot, Ranking
from outrider_coordinator.core.placement.order import Lane, Line, entry_of
from outrider_coordinator.core.placement.queue import ClassKey, class_key
from outrider_coordinator.core.settings import CoreSettings, Preemption
from outrider_coordinator.core.spec import NO_DEMANDS, Claim, Constraint, Demands, Operator, Spec
from outrider_coordinator.core.states import AttemptState, TaskState
from support.core_world import World
from support.limit_world import held
from support.telling import begin


def task(order: int = 1, **spec: Any) -> Task:
    """A queued task."""
    fields = {"body": b"", "kind": "m:f", "is_function": True, **spec}
    return Task(f"t{order}", "n", Spec(**fields), order, 1000, TaskState.QUEUED)


# --- lines and lanes -------------------------------------------------------------------------------------------------


def test_what_comes_out_of_order_stands_beside() -> None:
    """In order to the one list, otherwise to a heap; what comes twice is not in order."""
    line, made = Line(), [task(order) for order in range(4)]
    for one in (made[1], made[3], made[2], made[0], made[3]):
        line.push(entry_of(one))
    assert [entry[1] for entry in line.fresh] == [1, 3]
    assert [entry[1] for entry in line.late] == [0, 2, 3]
    assert (len(line), [entry[1] for entry in line]) == (5, [1, 3, 0, 2, 3])


def test_a_deadline_goes_first_and_none_goes_last() -> None:
    """Earliest deadline first; what has none counts as due a long time after it was submitted."""
    soon, later, never = task(3, deadline_us=10), task(2, deadline_us=20), task(1)
    assert sorted(entry_of(one)[:2] for one in (never, later, soon))[:2] == [(1010, 3), (1020, 2)]
    assert entry_of(never)[0] == 1000 + 86_400 * 10**6, "a day"


def lanes() -> tuple[Lane, Lane, Lane]:
    """A priority, a namespace of weight 2 in it, a submitter of weight 4 in that."""
    level = Lane("5", None)
    space = Lane("n", level, 0.5)
    level.lanes["n"] = space
    submitter = Lane("s", space, 0.25)
    space.lanes["s"] = submitter
    return level, space, submitter


def test_a_start_is_charged_to_all_that_it_belongs_to() -> None:
    """Each moves on by its own step; the one above remembers how far anybody is."""
    level, space, submitter = lanes()
    submitter.charge(7)
    submitter.charge(8)
    assert (submitter.tag, space.tag, level.tag) == (0.5, 1.0, 0.0)
    assert (submitter.served, space.served, level.served) == (8, 8, 0)
    assert (space.virtual, level.virtual) == (0.5, 1.0)
    space.virtual = 9.0
    submitter.charge(9)
    assert space.virtual == 9.0


def test_who_was_away_has_no_credit() -> None:
    """It takes its turn from where the others are now, once, and those above with it."""
    level, space, submitter = lanes()
    space.virtual, level.virtual = 3.0, 2.0
    submitter.enlist()
    assert (submitter.tag, space.tag) == (3.0, 2.0)
    assert (submitter.is_listed, space.is_listed, level.is_listed) == (True, True, False)
    submitter.enlist()
    assert (len(space.heap), len(level.heap)) == (1, 1)
    submitter.is_listed = False
    submitter.tag = 5.0
    submitter.enlist()
    assert submitter.tag == 5.0
    assert (len(space.heap), len(level.heap)) == (2, 1)


@pytest.mark.parametrize(
    ("change", "stays"),
    [({}, False), ({"is_listed": True}, True), ({"strands": 1}, True), ({"tag": 1.5}, True), ({"tag": 1.0}, False)],
)
def test_idle_lanes_are_forgotten_when_there_are_many(change: dict[str, Any], stays: bool) -> None:
    """Unless something stands in them, or they have had more than their share."""
    parent = Lane("n", None, virtual=1.0)
    for name in "ab":
        parent.lanes[name] = Lane(name, parent)
    for name, value in change.items():
        setattr(parent.lanes["a"], name, value)
    parent.sweep(2)
    assert list(parent.lanes) == ["a", "b"]
    parent.sweep(1)
    assert list(parent.lanes) == (["a"] if stays else [])


def test_a_lane_with_lanes_is_not_idle() -> None:
    """A namespace stays as long as one of its submitters does."""
    level, space, _ = lanes()
    level.sweep(0)
    assert list(level.lanes) == ["n"]
    space.lanes.clear()
    level.sweep(0)
    assert not level.lanes


# --- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "is_plain", "namespace"),
    [
        ({}, True, ""),
        ({"is_function": False}, False, ""),
        ({"exclusive": True}, False, ""),
        ({"at_most_once": True}, False, ""),
        ({"demands": Demands(resources=(("gpu", 1.0),))}, False, ""),
        ({"demands": Demands(claims=(Claim("x"),))}, False, "n"),
        ({"demands": Demands(scopes=("x",))}, False, "n"),
        ({"demands": Demands(systems=("ci",))}, True, ""),
    ],
)
def test_a_class_tells_apart_what_placement_must(spec: dict[str, Any], is_plain: bool, namespace: str) -> None:
    """Only plain functions may wait in line; namespaces matter where limits do."""
    one = task(**spec)
    assert class_key(one) == ClassKey(one.spec.demands, "m:f", is_plain, namespace)
    one.caps = (Cap("fleet", "", 3),)
    assert class_key(one) == ClassKey(one.spec.demands, "m:f", False, namespace, one.caps)


def test_who_failed_somewhere_would_rather_go_elsewhere() -> None:
    """Each agent once, by name, beside what the task wishes for itself; nobody is avoided for nothing."""
    one = task(demands=Demands(affinities=(("z", 5),)))
    one.failed_on = ("b", "a")
    one.waits = (Wait("k", "external", b"", expired_on="c"), Wait("l", "external", b"", expired_on="a"))
    assert class_key(one).demands.affinities == (("z", 5), ("a", -100), ("b", -100), ("c", -100))
    one.failed_on = ()
    assert class_key(one).demands.affinities == (("z", 5), ("a", -100), ("c", -100))
    one.waits = (Wait("k", "external", b""),)
    assert class_key(one).demands is one.spec.demands


# --- agents ----------------------------------------------------------------------------------------------------------


def test_a_ranking_is_rebuilt_once_most_of_it_is_dead() -> None:
    """Keys that became better leave old ones behind; those go when they are twice as many, and some."""
    agents = {name: Agent(name, "m", slots=10_000) for name in "ab"}
    ranking = Ranking(lambda agent: (agent.slots_used, agent.id) if agent.slots_used < agent.slots else None)
    for agent in agents.values():
        agent.slots_used = 500
        assert ranking.note(agent)
    for number in range(66):
        agents["a"].slots_used = 499 - number
        ranking.note(agents["a"])
    assert len(ranking.heap) + len(ranking.fresh) == 68
    agents["a"].slots_used = 1
    ranking.note(agents["a"])
    assert (sorted(ranking.heap), ranking.fresh) == ([(1, "a"), (500, "b")], [])
    ranking.note(agents["a"])
    assert len(ranking.heap) + len(ranking.fresh) == 2
    agents["a"].slots_used = 10_000
    assert not ranking.note(agents["a"])
    assert ranking.first(agents) is agents["b"]


def test_the_best_come_in_order_and_stay() -> None:
    """Some of them, in order, and the ranking is what it was."""
    agents = {name: Agent(name, "m", slots_used=number) for number, name in enumerate("abc")}
    ranking = Ranking(lambda agent: (agent.slots_used, agent.id))
    for agent in agents.values():
        ranking.note(agent)
    assert [agent.id for agent in ranking.best(agents, 2)] == ["a", "b"]
    assert [agent.id for agent in ranking.best(agents, 9)] == ["a", "b", "c"]
    assert [agent.id for agent, _ in zip(ranking.each(agents), range(2), strict=False)] == ["a", "b"]
    assert len(ranking.heap) + len(ranking.fresh) == 3


def test_a_lot_knows_who_is_in_it() -> None:
    """Nobody twice, nobody who can take nothing; who leaves is replaced by the last one."""
    agents = {name: Agent(name, "m", slots=1) for name in "abcd"}
    lot = Lot(lambda agent: (agent.id,) if agent.slots else None)
    for agent in agents.values():
        assert lot.note(agent)
        assert lot.note(agent)
    agents["b"].slots = 0
    assert not lot.note(agents["b"])
    drawn = lot.draw(agents, lambda count: 1)
    assert drawn is agents["d"]
    assert (lot.ids, lot.places) == (["a", "d", "c"], {"a": 0, "d": 1, "c": 2})
    for agent in agents.values():
        agent.slots = 0
    assert lot.draw(agents, lambda count: count - 1) is None
    assert (lot.ids, lot.places) == ([], {})


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (Constraint("zone", Operator.IN, ("a",)), "zone=a"),
        (Constraint("zone", Operator.IN, ("a", "b")), "zone in (a, b)"),
        (Constraint("zone", Operator.NOT_IN, ("a", "b")), "zone not in (a, b)"),
        (Constraint("zone", Operator.EXISTS), "zone present"),
        (Constraint("zone", Operator.NOT_EXISTS), "zone absent"),
    ],
)
def test_constraints_are_told_as_people_write_them(constraint: Constraint, text: str) -> None:
    """And with what the agent has instead."""
    assert eligibility.describe(constraint) == text
    agent = Agent("a", "m")
    other = Agent("a", "m", labels={"zone": "c"})
    found = [eligibility.mismatch(one, Demands((constraint,))) for one in (agent, other)]
    texts = [rule.text if rule else "" for rule in found]
    expected = [f"{text} does not hold; it has no label zone", f"{text} does not hold; it has zone=c"]
    keeps = {"zone not in (a, b)": ["", ""], "zone present": [expected[0], ""], "zone absent": ["", expected[1]]}
    assert texts == keeps.get(text, expected)
    assert eligibility.mismatch(agent, NO_DEMANDS) is None


@pytest.mark.parametrize(
    ("measured", "cost_us"),
    [(Measured(), 1e15), (Measured(0.0, 0.5), 1.5e15), (Measured(100.0, 0.0), 100.0), (Measured(100.0, 0.5), 200.0)],
)
def test_a_kind_costs_its_time_per_success(measured: Measured, cost_us: float) -> None:
    """What never succeeded costs more than anything that did; failures make dearer up to twenty times."""
    assert measured.cost_us == cost_us
    assert Measured(100.0, 0.99).cost_us == Measured(100.0, 1.0).cost_us == pytest.approx(2000.0)


# --- preemption ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "spec", "expected"),
    [
        (Preemption.PREEMPTIBLE, {"preemptible": True}, True),
        (Preemption.PREEMPTIBLE, {}, False),
        (Preemption.LOWER, {}, True),
        (Preemption.LOWER, {"priority": 10}, False),
        (Preemption.LOWER, {"priority": 9}, True),
        (Preemption.LOWER, {"at_most_once": True}, False),
        (Preemption.NEVER, {"preemptible": True}, False),
    ],
)
def test_victims_are_those_that_the_policy_lets_be(policy: Preemption, spec: dict[str, Any], expected: bool) -> None:
    """Of a lower priority, not more than once started, and willing, where that is asked."""
    world = World(CoreSettings(preemption=policy))
    assert preemption.is_victim(world.state, task(**spec).spec) is expected


def crowded(slots: int = 1, **hello: Any) -> tuple[World, Any]:
    """An agent full of tasks that may be stopped."""
    world = World()
    agent = world.connect("a", slots, **hello)
    world.submit(slots, preemptible=True, priority=1)
    begin(world, agent)
    return world, agent


@pytest.mark.parametrize("obstacle", ["lock", "cap", "system", "paused", "blocked", "line"])
def test_nobody_is_stopped_where_that_would_not_help(obstacle: str) -> None:
    """A limit, a cap, a system, or the agent itself keeps the urgent task waiting anyway."""
    world, agent = crowded(2)
    demands = NO_DEMANDS
    ref = next(iter(agent.held))
    if obstacle == "lock":
        world.state.limits.pool(("default", "x")).hold(("other", 1), Claim("x"))
        demands = Demands(claims=(Claim("x"),))
    elif obstacle == "cap":
        world.state.capped[Cap("run", "run", 1)] = 1
    elif obstacle == "paused":
        world.do(AgentOrdered("a", AgentOrder.PAUSE, world.replies.append))
    elif obstacle == "blocked":
        for one in list(agent.held):
            attempt = world.state.tasks[one.task_id].attempt
            assert attempt is not None
            attempt.state = AttemptState.BLOCKED
    elif obstacle == "line":
        world.state.agents["a"].ahead[ref[:2]] = world.state.tasks[ref.task_id].attempt  # type: ignore[assignment]  # it is live
    urgent = task(99, priority=10, demands=demands)
    if obstacle == "system":
        urgent.spec.demands = Demands(systems=("ci",))
        known = preemption.systems.breaker.Breaker(system="ci", state=preemption.breaker.BreakerState.OPEN)
        world.state.systems["ci"] = preemption.systems.System(known)
    urgent.namespace = "default"
    world.state.add_task(urgent)
    if obstacle == "cap":
        urgent.caps = (Cap("run", "run", 1),)
    world.state.queue.push(urgent)
    matching.place(world.state, Effects(), units=99)
    assert urgent.victim_key is None


def test_what_the_victim_gives_back_must_be_enough() -> None:
    """Free resources and those of the victim together, to the last bit."""
    for wanted, expected in ((3.0, 1), (3.5, 0)):
        world = World()
        agent = world.connect("a", 1, resources={"gpu": 3.0})
        world.submit(1, preemptible=True, priority=1, demands=Demands(resources=(("gpu", 2.0),)))
        begin(world, agent)
        world.submit(1, priority=10, demands=Demands(resources=(("gpu", wanted),)))
        assert len(agent.cancelled) == expected
    world, agent = crowded(1, resources={"gpu": 1.0})
    world.submit(1, priority=10, demands=Demands(resources=(("gpu", 1.0),)))
    assert len(agent.cancelled) == 1


def test_a_victim_that_is_gone_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slot went to somebody else: the urgent task asks again."""
    world, agent = crowded(2)
    (urgent,) = world.submit(priority=10)
    assert len(agent.cancelled) == 1
    first = world.state.tasks[urgent].victim_key
    world.do(CancelRequested([agent.cancelled[0].task_id], "", world.replies.append))
    assert world.state.tasks[urgent].victim_key == first
    other = next(ref for ref in agent.held if ref not in agent.cancelled)
    world.complete(agent, other)
    assert urgent in held(world, agent)


def test_so_many_victims_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many only the first few of the lowest priority, youngest first."""
    monkeypatch.setattr(preemption, "LOOKED_AT_MAX", 2)
    world, agent = crowded(3)
    refs = list(agent.held)
    for ref in refs[1:]:
        attempt = world.state.tasks[ref.task_id].attempt
        assert attempt is not None
        attempt.state = AttemptState.BLOCKED
    (urgent,) = world.submit(priority=10)
    assert world.state.tasks[urgent].victim_key is None
    monkeypatch.setattr(preemption, "LOOKED_AT_MAX", 3)
    world.state.placement_is_due = True
    matching.place(world.state, Effects(), units=99)
    assert world.state.tasks[urgent].victim_key == refs[0][:2]


def test_a_step_places_so_many_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step takes long: what is left comes at once."""
    monkeypatch.setattr(pacing, "UNITS", 3)
    monkeypatch.setattr(pacing, "OFFERS_MIN", 3)
    world = World()
    for _ in range(8):
        world.submit()
    world.connect("a", 8)
    counts = [len(world.agents["a"].held)]
    while world.state.placement_is_due:
        world.do()
        counts.append(len(world.agents["a"].held))
    assert counts == [3, 6, 8]
