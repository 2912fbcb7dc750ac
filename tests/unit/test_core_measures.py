"""What placement measures and counts, in numbers: pressure, latency, durations, lines, resources, wishes, turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from outrider_coordinator.core.model import Agent, Attempt, HostFacts
from outrider_coordinator.core.placement import resources, strategies, wishes
from outrider_coordinator.core.placement.eligibility import fits
from outrider_coordinator.core.placement.fleet import Fleet, Hard
from outrider_coordinator.core.placement.queue import ReadyQueue
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Claim, Demands, Strategy
from outrider_coordinator.core.states import AttemptState, Connectivity
from support.core_world import World
from support.limit_world import held
from support.telling import begin


def online(world: World | None = None, **fields: Any) -> tuple[World, Agent]:
    """A world with one agent of these facts."""
    world = world or World()
    world.connect("a", 2)
    agent = world.state.agents["a"]
    for name, value in fields.items():
        setattr(agent, name, value)
    agent.settle()
    return world, agent


@pytest.mark.parametrize(
    ("cpu", "latency_us", "expected"),
    [
        (0.0, 0.0, 0),
        (0.0, 999.0, 0),
        (0.0, 1000.0, 1),
        (0.0, 1999.0, 1),
        (0.0, 2000.0, 2),
        (0.0, 1e15, 31),
        (0.09, 0.0, 0),
        (0.1, 0.0, 32),
        (0.55, 4000.0, 5 * 32 + 3),
        (1.0, 0.0, 320),
        (9.0, 0.0, 320),
        (-1.0, 0.0, 0),
    ],
)
def test_pressure_is_tenths_of_the_processor_and_doublings_of_a_millisecond(
    cpu: float, latency_us: float, expected: int
) -> None:
    """The processor weighs most; whatever a machine says stays within bounds."""
    world, agent = online(facts=HostFacts(cpu_fraction=cpu), latency_us=latency_us, pressure=-1)
    strategies.press(world.state, agent)
    assert agent.pressure == expected


def test_latency_moves_by_a_fifth_towards_what_was_measured() -> None:
    """From the offer to the first word; what stood in line says nothing."""
    world, agent = online(latency_us=1000.0)
    attempt = Attempt("t", 1, "a", 1, AttemptState.OFFERED, world.state.now_us)
    world.state.now_us += 6000
    strategies.first_word(world.state, agent, attempt)
    assert agent.latency_us == pytest.approx(2000.0)
    assert agent.pressure == 2
    attempt.prefetched = True
    strategies.first_word(world.state, agent, attempt)
    assert agent.latency_us == pytest.approx(2000.0)


def test_a_kind_is_measured_by_averages_that_move() -> None:
    """A fifth of each new sample; failures that speak against the agent have no duration."""
    world, agent = online()
    strategies.measure(world.state, agent, "m:f", 100)
    assert (agent.measured["m:f"].duration_us, agent.measured["m:f"].failure_rate) == (100.0, 0.0)
    strategies.measure(world.state, agent, "m:f", 200)
    assert agent.measured["m:f"].duration_us == pytest.approx(120.0)
    strategies.measure(world.state, agent, "m:f", None)
    assert agent.measured["m:f"].failure_rate == pytest.approx(0.2)
    strategies.measure(world.state, agent, "m:f", None)
    assert agent.measured["m:f"].failure_rate == pytest.approx(0.36)
    strategies.measure(world.state, agent, "m:f", 120)
    assert (agent.measured["m:f"].duration_us, agent.measured["m:f"].failure_rate) == (
        pytest.approx(120.0),
        pytest.approx(0.288),
    )
    strategies.measure(world.state, agent, "m:g", None)
    assert (agent.measured["m:g"].duration_us, agent.measured["m:g"].failure_rate) == (0.0, pytest.approx(0.2))


@pytest.mark.parametrize(
    ("known_us", "line"), [(None, 0.0), (50_000.0, 5.0), (50_001.0, 0.0), (1000.0, 250.0), (0.5, 250_000.0)]
)
def test_so_many_stand_in_line_as_end_within_its_time(known_us: float | None, line: float) -> None:
    """A quarter of a second of work per slot, of kinds that are known to be short."""
    world, _ = online()
    (task,) = world.submit(not_before_us=1)
    need = None
    if known_us is not None:
        world.state.durations_us["m:f"] = known_us
    for group in (world.submit(3), [task])[:1]:
        need = next(iter(world.state.queue.needs.values()))
        assert group
    assert need is not None
    assert strategies._line_max(world.state, need) == line


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"slots_used": 1}, (0.5, 0, "a")),
        ({"slots_used": 2}, None),
        ({"slots_used": 0, "pressure": 7}, (0.0, 7, "a")),
        ({"is_quarantined": True}, None),
    ],
)
def test_the_share_of_slots_in_use_comes_first(fields: dict[str, Any], key: Any) -> None:
    """Then the pressure; who has no slot, or is closed, is no choice."""
    _, agent = online(**fields)
    assert strategies.slot_key(agent) == key
    assert strategies._turn_key_of(strategies.slot_key)(agent) == (None if key is None else (0, "a"))
    cost = strategies._performance_key_of(strategies.slot_key, "m:f")
    assert cost(agent) == (None if key is None else (0.0, *key))
    agent.measured["m:f"] = strategies.Measured(100.0, 0.5)
    assert cost(agent) == (None if key is None else (200.0, *key))


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"prefetch_credit": 4}, (0.0, "a")),
        ({"prefetch_credit": 4, "ahead": {("t", 1): 1, ("t", 2): 1}}, (1.0, "a")),
        ({"prefetch_credit": 2, "ahead": {("t", 1): 1, ("t", 2): 1}}, None),
        ({"prefetch_credit": 4, "slots_used": 4}, (1.0, "a")),
        ({"prefetch_credit": 2, "slots_used": 4}, None),
        ({"prefetch_credit": 4, "slots": 0}, None),
        ({"prefetch_credit": 4, "is_quarantined": True}, None),
        ({}, None),
    ],
)
def test_a_line_is_as_long_as_its_credit(fields: dict[str, Any], key: Any) -> None:
    """Per slot; what runs beyond the slots takes of the credit too."""
    _, agent = online(**fields)
    assert strategies.line_key(agent) == key


def test_turns_are_counted_over_the_fleet() -> None:
    """Each offer is one; whoever was offered something last waits longest."""
    world = World()
    for name in "ab":
        world.connect(name, 9)
    world.submit(3, demands=Demands(strategy=Strategy.ROUND_ROBIN))
    assert (world.state.fleet.turn, [world.state.agents[name].turn for name in "ab"]) == (3, [3, 2])
    assert world.state.retries.dispatched == 3


# --- resources -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "used", "wanted", "lacks", "in_use"),
    [
        (2.0, 0.0, 2.0, False, False),
        (2.0, 0.0, 2.1, True, True),
        (2.0, 0.5, 1.5, False, False),
        (2.0, 0.5, 1.6, False, True),
        (0.3, 0.2, 0.1, False, False),
    ],
)
def test_resources_are_lacking_or_in_use(there: float, used: float, wanted: float, lacks: bool, in_use: bool) -> None:
    """To the last bit and not beyond: tenths add up as people think they do."""
    agent = Agent("a", "m", resources={"gpu": there}, resources_used={"gpu": used})
    assert (resources.lacking(agent, (("gpu", wanted),)) is not None) is lacks
    assert (resources.in_use(agent, (("gpu", wanted),)) is not None) is in_use
    assert resources.lacking(agent, (("cpu", 0.5),)) is not None


def test_resources_are_given_back_whole() -> None:
    """What is left over by rounding is nothing; other resources are not touched."""
    agent = Agent("a", "m", resources={"gpu": 1.0, "cpu": 2.0})
    attempts = [replace(Attempt("t", number, "a", 1, AttemptState.OFFERED, 0)) for number in range(3)]
    for attempt, amount in zip(attempts, (0.1, 0.2, 0.3), strict=True):
        attempt.resources = (("gpu", amount),)
        resources.take(agent, attempt)
    attempts[0].resources += (("cpu", 1.0),)
    agent.resources_used["cpu"] = 1.0
    assert agent.resources_used["gpu"] == pytest.approx(0.6)
    for attempt in attempts[::-1]:
        resources.give_back(agent, attempt)
    assert agent.resources_used == {}


# --- wishes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demands", "expected"),
    [
        (Demands(), 0),
        (Demands(affinities=(("a", 40), ("b", 7), ("a", 2))), 42),
        (Demands(sticky=True), 60),
        (Demands(sticky=True, affinities=(("a", -10),)), 50),
        (Demands(avoid_tags=("x",)), -50),
        (Demands(avoid_tags=("x", "y")), -100),
        (Demands(avoid_tags=("z",)), 0),
        (Demands(spread=True), -10),
        (Demands(spread=True, avoid_tags=("x",)), -60),
    ],
)
def test_wishes_add_up_to_a_score(demands: Demands, expected: int) -> None:
    """Affinities, nearness, neighbours to avoid, kin to keep away from."""
    world = World()
    world.connect("a", 9)
    world.submit(kind="m:kin", tags=("x", "other"))
    world.submit(kind="m:else", tags=("y",))
    world.submit(kind="m:plain")
    (task,) = world.submit(kind="m:kin", not_before_us=10**12)
    record = world.state.tasks[task]
    record.near_agent_id = "a"
    assert wishes.score_of(world.state, demands, record, world.state.agents["a"]) == expected


def test_kin_are_tasks_of_one_run_or_of_one_type_outside_of_runs() -> None:
    """A run's task is no kin of another's, whatever its type."""
    world = World()
    world.submit_run(("a", ()), ("b", ()))
    world.submit_run(("a", ()), run_id="second")
    plain, other = world.submit(kind="m:f")[0], world.submit(kind="m:g")[0]
    of = world.state.tasks
    pairs = {
        ("r-a", "r-b"): True,
        ("r-a", "s-a"): False,
        ("r-a", plain): False,
        (plain, "r-a"): False,
        (plain, other): False,
        (plain, plain): True,
    }
    assert {pair: wishes.is_kin(of[pair[0]], of[pair[1]]) for pair in pairs} == pairs


def test_the_best_of_equals_is_the_first_also_below_zero() -> None:
    """A task that would rather be nowhere goes where it minds least."""
    world = World()
    for name in "abc":
        world.connect(name)
    (task,) = world.submit(not_before_us=10**12)
    agents = list(world.state.agents.values())
    for affinities, expected in (((), "a"), ((("a", -5), ("b", -9)), "c"), ((("a", -5), ("b", -9), ("c", -6)), "a")):
        chosen = wishes.best(world.state, Demands(affinities=affinities), world.state.tasks[task], agents)
        assert chosen is not None
        assert chosen.id == expected


def test_only_the_first_dependency_is_remembered() -> None:
    """By tasks that want to be near it."""
    world = World()
    (first, second) = world.submit(2)
    for sticky, ended, expected in ((True, first, "a"), (True, second, ""), (False, first, "")):
        (task,) = world.submit(after=(first, second), demands=Demands(sticky=sticky))
        wishes.remember(world.state.tasks[task], ended, "a")
        assert world.state.tasks[task].near_agent_id == expected


# --- reaches and classes ---------------------------------------------------------------------------------------------


def test_a_reach_that_somebody_uses_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """As does the one of everybody; others go when there are too many, and their agents forget them."""
    monkeypatch.setattr("outrider_coordinator.core.placement.fleet.REACHES_MAX", 3)
    known = Fleet()
    agents = {"a": Agent("a", "m", connectivity=Connectivity.ONLINE, slots=1, runners=("r", "s", "t"))}
    everybody, used, unused = (known.reach(hard, agents, fits) for hard in (Hard(), Hard(runner="r"), Hard(runner="s")))
    used.needs = 1
    assert known.reaches_made == 3
    assert known.reach(Hard(runner="r"), agents, fits) is used
    known.reach(Hard(runner="t"), agents, fits)
    assert list(known.reaches) == [Hard(), Hard(runner="r"), Hard(runner="t")]
    assert (known.reaches_made, unused.hard) == (4, Hard(runner="s"))
    assert everybody.members.keys() == used.members.keys() == {"a"}


def test_needs_are_shared_by_classes_that_wait_for_other_things() -> None:
    """Limits, scopes and systems make classes of one need; the queue asks as many of them again as it may."""
    world = World(CoreSettings(shares={"default": 2.0, "default/x": 4.0}))
    for claims, scopes, systems in (((Claim("l"),), (), ()), ((), ("s",), ()), ((), (), ("y",))):
        world.submit(demands=Demands(claims=claims, scopes=scopes, systems=systems), submitter="x")
    queue: ReadyQueue = world.state.queue
    assert [(need.demands, need.may_be_held, need.classes, need.waiting) for need in queue.needs.values()] == [
        (Demands(), True, 2, 2),
        (Demands(), True, 1, 1),
    ]
    space = queue.levels[5].lanes["default"]
    assert (space.step, space.lanes["x"].step, space.lanes["x"].strands) == (0.5, 0.25, 3)
    groups = dict(queue.classes)
    for group in groups.values():
        queue.hold(group, 5)
    queue.ask_again()
    queue.let_go(2)
    assert [group.is_held for group in groups.values()] == [False, False, True]
    assert len(queue.to_ask) == 1


def test_claimants_are_few_of_each_class_in_their_order() -> None:
    """Only those that claim limits; first come first served within a rank."""
    world = World()
    for name in "xy":
        world.submit(3, demands=Demands(claims=(Claim(name),)))
    world.submit(1)
    found = world.state.queue.claimants(2)
    assert [task.id for task in found] == ["t1", "t2", "t4", "t5"]
    found[0].rank_us = 5
    assert [task.id for task in world.state.queue.claimants(2)][-1] == "t1"


def test_short_work_fills_a_line_and_no_more() -> None:
    """As many as end in a quarter of a second per slot."""
    world = World()
    agent = world.connect("a", 1, prefetch_credit=99)
    world.state.durations_us["m:f"] = 50_000.0
    world.submit(1)
    begin(world, agent)
    world.submit(20)
    assert len(held(world, agent)) == 1 + 5
