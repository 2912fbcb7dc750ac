"""Agents as placement sees them, one rule at a time: rankings, slots, amounts, victims, who is drawn and named."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.model import Agent, Attempt, Breaker, System, Task
from outrider_coordinator.core.placement import matching, preemption, resources, slots, strategies, wishes
from outrider_coordinator.core.placement.fleet import Fleet, Hard, Ranking
from outrider_coordinator.core.settings import CoreSettings, Preemption
from outrider_coordinator.core.spec import NO_DEMANDS, Claim, Demands, Spec, Strategy
from outrider_coordinator.core.states import AttemptState, BreakerState, Connectivity, TaskState
from support.core_world import ModelAgent, World
from support.limit_world import held
from support.telling import begin


def attempt_of(world: World, task_id: str) -> Attempt:
    """The attempt of a task that has one."""
    attempt = world.state.tasks[task_id].attempt
    assert attempt is not None
    return attempt


# --- rankings --------------------------------------------------------------------------------------------------------


def test_an_agent_that_closed_and_came_back_as_it_was_stands_there_once() -> None:
    """Its entry of before has the same key and is dead: it is neither given for the agent, nor thrown away for it."""
    agents = {name: Agent(name, "m", slots=4) for name in "ab"}
    closed: set[str] = set()
    ranking = Ranking(lambda agent: None if agent.id in closed else (agent.slots_used, agent.id))
    a, b = agents["a"], agents["b"]
    b.slots_used = 1
    ranking.note(a)
    ranking.note(b)
    assert ranking.first(agents) is a
    a.slots_used = 2
    assert ranking.first(agents) is b
    a.slots_used = 0
    ranking.note(a)
    closed.add("a")
    assert ranking.first(agents) is b
    closed.clear()
    a.slots_used = 2
    ranking.note(a)
    assert ranking.best(agents, 3) == [b, a]
    assert ranking.best(agents, 3) == [b, a]
    b.slots_used = 3
    assert ranking.first(agents) is a


def test_an_agent_that_is_as_it_was_before_it_got_better_stands_there_once() -> None:
    """The entry of before is dead, and as good as the one that counts."""
    agents = {"a": Agent("a", "m", slots=4, slots_used=1)}
    ranking = Ranking(lambda agent: (agent.slots_used, agent.id))
    for slots_used in (1, 0):
        agents["a"].slots_used = slots_used
        ranking.note(agents["a"])
    agents["a"].slots_used = 1
    assert ranking.best(agents, 3) == [agents["a"]]


def test_a_ranking_keeps_few_entries_that_are_dead() -> None:
    """However often an agent gets better: twice the agents there are, and some."""
    agents = {f"a{number:02}": Agent(f"a{number:02}", "m", slots_used=number * 1000) for number in range(100)}
    ranking = Ranking(lambda agent: (agent.slots_used, agent.id))
    for agent in agents.values():
        ranking.note(agent)
    assert ranking.best(agents, 100) == list(agents.values())
    last = agents["a99"]
    for _ in range(500):
        last.slots_used -= 1
        ranking.note(last)
        assert len(ranking.heap) + len(ranking.fresh) <= 2 * len(agents) + 64
    assert ranking.best(agents, 100)[-1] is last


def test_nothing_in_the_fleet_remembers_an_agent_that_left() -> None:
    """No reach, no line, no change that somebody has to look at."""
    fleet, agent = Fleet(), Agent("a", "m", connectivity=Connectivity.ONLINE, slots=1)
    reach = fleet.reach(Hard(), {"a": agent}, lambda agent, hard: True)
    fleet.changed(agent)
    fleet.lines["a"] = agent
    fleet.left(agent)
    assert (reach.members, fleet.dirty, fleet.lines, agent.reaches) == ({}, {}, {}, [])


# --- amounts ---------------------------------------------------------------------------------------------------------


def test_an_amount_that_an_agent_does_not_have_is_not_free() -> None:
    """Whoever asks only what is in use is told so, in the words of what there is."""
    rule = resources.in_use(Agent("a", "m", resources={"cpu": 9.0}), (("cpu", 1.0), ("gpu", 0.5)))
    assert rule is not None
    assert rule.text == "it takes gpu=0.5; 0 of 0 in use"


def test_amounts_too_small_to_count_leave_nothing_behind() -> None:
    """However many take them, and in whatever order they end."""
    agent = Agent("a", "m", resources={"gpu": 1.0})
    attempts = [Attempt("t", number, "a", 1, AttemptState.OFFERED, 0) for number in range(2)]
    for attempt in attempts:
        attempt.resources = (("gpu", 0.0000001),)
        resources.take(agent, attempt)
    for attempt in attempts:
        resources.give_back(agent, attempt)
        assert agent.resources_used == {}


@pytest.mark.parametrize(("counted", "is_wrong"), [(1.0, False), (1.000001, False), (1.0000018, True), (None, True)])
def test_what_is_counted_as_used_is_what_was_taken(counted: float | None, is_wrong: bool) -> None:
    """To what rounding can do to each attempt, and no further; not to be counted at all is wrong too."""
    agent = Agent("a", "m")
    attempt = agent.attempts["t", 1] = Attempt("t", 1, "a", 1, AttemptState.OFFERED, 0)
    attempt.resources = (("gpu", 1.0),)
    agent.resources_used = {} if counted is None else {"gpu": counted}
    if is_wrong:
        with pytest.raises(AssertionError, match="agent a: gpu taken by live attempts is 1"):
            resources.check(agent)
    else:
        resources.check(agent)


# --- slots -----------------------------------------------------------------------------------------------------------


def parked(world: World, agent: ModelAgent, count: int, parked_max: int) -> list[str]:
    """So many tasks that wait, as many of them parked as the agent may."""
    world.state.agents[agent.id].parked_max = parked_max
    tasks = []
    for _ in range(count):
        (task,) = world.submit()
        ref = world.ref(agent, task)
        world.start(agent, ref)
        world.block(agent, ref, "k")
        tasks.append(task)
    return tasks


def test_room_to_park_is_for_one_of_those_that_stand() -> None:
    """One goes, one is parked in its place, however many are parked beside it; the next keeps its slot."""
    world = World()
    agent = world.connect("a", 9)
    tasks = parked(world, agent, 5, parked_max=3)
    known = world.state.agents["a"]
    assert (known.parked, known.slots_used) == (3, 2)
    world.fail(agent, world.ref(agent, tasks[0]))
    assert (known.parked, known.slots_used) == (3, 1)
    assert [attempt_of(world, task).holds_slot for task in tasks[1:]] == [False, False, False, True]


def full(slots_used: int) -> tuple[World, Agent, list[Attempt]]:
    """An agent with one slot and attempts that were sent ahead, of which so many hold slots already."""
    world = World()
    world.connect("a", 1)
    agent = world.state.agents["a"]
    found = []
    for number in range(4):
        task = Task(f"x{number}", "default", Spec(b"", "m:f", True), 900 + number, 0, TaskState.RUNNING)
        attempt = Attempt(task.id, 1, "a", 900 + number, AttemptState.STARTED, 0, prefetched=True)
        world.state.tasks[task.id], task.attempt = task, attempt
        agent.attempts[attempt.key] = attempt
        found.append(attempt)
    for place, attempt in enumerate(found):
        attempt.holds_slot = place < slots_used
    agent.slots_used, world.state.fleet.lines["a"] = slots_used, agent
    return world, agent, found


def test_a_slot_that_is_given_back_beyond_those_there_are_is_nobodys() -> None:
    """Neither one that was answered nor one in line has it; the next one that is given back they have."""
    for is_resuming in (True, False):
        world, agent, (first, second, third, _) = full(2)
        if is_resuming:
            agent.resuming[third.key], agent.parked = third, 1
        else:
            agent.ahead[third.key] = third
        slots.give_back(world.state, Effects(), agent, first)
        assert (agent.slots_used, third.holds_slot) == (1, False)
        slots.give_back(world.state, Effects(), agent, second)
        assert (agent.slots_used, third.holds_slot) == (1, True)


def test_one_that_stood_in_line_and_started_holds_a_slot() -> None:
    """Whatever we thought of its turn."""
    world, agent, (_, second, *_) = full(1)
    agent.ahead[second.key] = second
    slots.started(world.state, agent, second)
    assert (agent.ahead, agent.slots_used, second.holds_slot) == ({}, 2, True)


def test_one_that_was_sent_ahead_and_waits_now_stands_in_no_line() -> None:
    """It is parked as others are, whoever is in line, and its end frees no slot."""
    world = World()
    world.state.durations_us["m:f"] = 1000.0
    agent = world.connect("a", 1, prefetch_credit=9)
    first, second, third = world.submit(3)
    begin_only = world.ref(agent, first)
    world.start(agent, begin_only)
    world.complete(agent, begin_only)
    ref = world.ref(agent, second)
    assert attempt_of(world, second).prefetched
    world.start(agent, ref)
    world.block(agent, ref, "k")
    known = world.state.agents["a"]
    assert (known.parked, known.slots_used, list(known.ahead)) == (1, 1, [])
    world.submit()
    world.fail(agent, ref)
    assert (known.parked, known.slots_used, len(known.ahead)) == (0, 1, 1)
    assert attempt_of(world, third).holds_slot


def test_the_end_of_one_that_runs_leaves_the_line_as_it_is() -> None:
    """But for the first of it, which has the slot."""
    world, agent, (first, second, third, _) = full(1)
    agent.ahead = {second.key: second, third.key: third}
    slots.release(world.state, Effects(), agent, first)
    assert (list(agent.ahead), agent.slots_used) == ([third.key], 1)


# --- victims ---------------------------------------------------------------------------------------------------------


def crowded(slots_there: int = 1, settings: CoreSettings | None = None, **spec: Any) -> tuple[World, ModelAgent]:
    """An agent full of tasks that may be stopped."""
    world = World(settings)
    agent = world.connect("a", slots_there, resources={"gpu": 3.0})
    world.submit(slots_there, **{"preemptible": True, "priority": 1, **spec})
    begin(world, agent)
    return world, agent


def urgent(world: World, order: int = 99, **spec: Any) -> Task:
    """A CRITICAL task that stands in the queue and was not looked at yet."""
    task = Task(f"u{order}", "default", Spec(b"", "m:f", True, priority=10, **spec), order, 0, TaskState.QUEUED)
    world.state.add_task(task)
    world.state.queue.push(task)
    return task


def test_tasks_of_the_least_priority_are_victims_too_until_they_end() -> None:
    """Priority 0 is one like others."""
    world, agent = crowded(priority=0)
    assert [len(of_priority) for of_priority in world.state.fleet.victims] == [1] + [0] * 10
    world.submit(priority=10)
    assert len(agent.cancelled) == 1
    world.fail(agent, agent.cancelled[0], agent.reasons[agent.cancelled[0]])
    assert not any(world.state.fleet.victims)


def test_systems_that_are_up_and_caps_with_room_keep_nobody_from_making_room() -> None:
    """Only what holds the urgent task up does."""
    world, agent = crowded(settings=CoreSettings(running_max=9))
    world.state.systems["ci"] = System(Breaker(system="ci", state=BreakerState.OPEN))
    world.submit(priority=10, kind="m:other")
    assert len(agent.cancelled) == 1


def test_nobody_is_stopped_on_an_agent_that_is_not_trusted_with_the_work() -> None:
    """Nor for amounts that would still be in use without the victim."""
    world, agent = crowded(2, kind="m:other")
    world.state.agents["a"].type_breakers["m:f"] = Breaker("a", "m:f", state=BreakerState.OPEN)
    world.submit(priority=10)
    assert agent.cancelled == []
    world.submit(priority=10, kind="m:g")
    assert len(agent.cancelled) == 1


def test_what_others_use_is_not_what_the_victim_gives() -> None:
    """Two of three are in use by one that may not be stopped: stopping another one frees one at most."""
    for victims, wanted, expected in ((0.0, 2.0, 0), (1.0, 2.0, 0), (1.0, 1.0, 1), (0.0, 1.0, 1)):
        world = World()
        agent = world.connect("a", 2, resources={"gpu": 3.0})
        world.submit(demands=Demands(resources=(("gpu", 2.0),)))
        gives = Demands(resources=(("gpu", victims),)) if victims else NO_DEMANDS
        world.submit(preemptible=True, priority=1, demands=gives)
        begin(world, agent)
        world.submit(priority=10, demands=Demands(resources=(("gpu", wanted),)))
        assert len(agent.cancelled) == expected, (victims, wanted)


def test_so_many_victims_are_looked_at_over_all_priorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the lowest are, and so none of the next."""
    monkeypatch.setattr(preemption, "LOOKED_AT_MAX", 2)
    world, agent = crowded(4)
    for ref in list(agent.held)[:2]:
        attempt_of(world, ref.task_id).victim_priority = 1
    victims = world.state.fleet.victims
    for ref in list(agent.held)[2:]:
        key = ref[:2]
        victims[2][key] = victims[1].pop(key)
        attempt_of(world, ref.task_id).victim_priority = 2
    for ref in list(agent.held)[:2]:
        attempt_of(world, ref.task_id).state = AttemptState.BLOCKED
    task = urgent(world)
    matching.place(world.state, Effects(), units=9)
    assert task.victim_key is None


def test_who_has_to_wait_anyway_does_not_keep_the_next_from_making_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one step looks at so many needy tasks, no matter how many there are."""
    world, agent = crowded(2)
    world.state.limits.pool(("default", "x")).hold(("other", 1), Claim("x"))
    first, second, third = (
        urgent(world, 97, demands=Demands(claims=(Claim("x"),))),
        urgent(world, 98),
        urgent(world, 99),
    )
    monkeypatch.setattr(preemption, "NEEDY_MAX", 2)
    matching.place(world.state, Effects(), units=9)
    assert (first.victim_key, second.victim_key is None, third.victim_key) == (None, False, None)
    assert agent.slots == 2


def test_nobody_is_stopped_for_a_task_that_was_not_looked_at() -> None:
    """There may be a free slot for it: a pass that ends before it leaves it to the next."""
    world = World(CoreSettings(preemption=Preemption.LOWER))
    agent = world.connect("a", 2)
    world.submit(priority=1)
    begin(world, agent)
    task = urgent(world)
    matching.place(world.state, Effects(), units=0)
    assert task.victim_key is None
    matching.place(world.state, Effects(), units=9)
    assert task.state is TaskState.ASSIGNED


# --- who is drawn, and who is named ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [Strategy.RANDOM, Strategy.TWO_CHOICES, Strategy.LEAST_LOADED])
def test_where_nobody_is_trusted_with_a_kind_it_waits(strategy: Strategy) -> None:
    """However agents are chosen."""
    world = World()
    for name in "ab":
        world.connect(name, 2)
        agent = world.state.agents[name]
        agent.type_breakers["m:f"] = Breaker(name, "m:f", state=BreakerState.OPEN)
    (task,) = world.submit(demands=Demands(strategy=strategy))
    assert world.state_of(task) is TaskState.QUEUED


def test_an_agent_that_is_named_must_have_room_for_the_amounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wish does not put two tasks on one processor; with room it is heard beyond the first candidates."""
    monkeypatch.setattr(wishes, "CANDIDATES", 1)
    world = World()
    agents = {name: world.connect(name, 4, resources={"gpu": 1.0}) for name in "abc"}
    likes_c = Demands(resources=(("gpu", 1.0),), affinities=(("c", 90),))
    (first,), (second,) = world.submit(demands=likes_c), world.submit(demands=likes_c)
    assert (held(world, agents["c"]), held(world, agents["a"])) == ([first], [second])


def test_a_reach_counts_the_needs_that_use_it_once_each() -> None:
    """However often they are looked at: what nobody uses can be forgotten."""
    world = World()
    world.connect("a", 2)
    gpu = Demands(runner="r")
    for kind in ("m:f", "m:g"):
        for _ in range(3):
            world.submit(kind=kind, demands=gpu)
    (reach,) = (reach for hard, reach in world.state.fleet.reaches.items() if hard.runner)
    assert reach.needs == 2
    world.connect("b", 2, runners=("r",))
    assert reach.needs == 2


def test_a_line_is_as_long_as_what_stands_in_it_and_what_runs_beyond_the_slots() -> None:
    """Both together."""
    agent = Agent("a", "m", connectivity=Connectivity.ONLINE, slots=2, slots_used=3, prefetch_credit=9)
    agent.ahead["t", 1] = Attempt("t", 1, "a", 1, AttemptState.OFFERED, 0)
    assert strategies.line_key(agent) == (1.0, "a")


def test_what_an_attempt_holds_is_given_back_also_when_its_agent_is_gone() -> None:
    """A limit that it held is free, though there is no slot to give back any more."""
    world = World()
    world.connect("a")
    (task,) = world.submit(demands=Demands(claims=(Claim("db"),)))
    assert list(world.state.limits.pools) == [("default", "db")]
    slots.release(world.state, Effects(), None, attempt_of(world, task))
    assert world.state.limits.pools == {}
