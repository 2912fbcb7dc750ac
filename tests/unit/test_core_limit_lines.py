"""Lines for limits step by step: who is passed over, what stays set aside and for how long, what no circle is."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.events import CancelRequested
from outrider_coordinator.core.limits import caps, holdings, lines
from outrider_coordinator.core.model import Agent, Cap
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Claim, Constraint, Demands, Operator
from outrider_coordinator.core.states import Connectivity, EventType, TaskState
from support.core_world import World
from support.limit_world import SEMAPHORE, define, finish, got, held, start, submit, want, want_task
from support.telling import begin


def deadlocks(world: World) -> list[str]:
    """What was told of every deadlock that was found."""
    return [event.text for event in world.of(EventType.TASK_DEADLOCK)]


# --- caps ------------------------------------------------------------------------------------------------------------


def test_a_cap_that_holds_a_task_up_is_named() -> None:
    """By what it is about and how many it allows."""
    world = World(CoreSettings(type_running_max={"m:f": 1}, runner_running_max={"r": 2}))
    world.connect("a", 9, runners=("r",))
    world.submit()
    (typed,) = world.submit()
    world.submit(2, kind="m:g", demands=Demands(runner="r"))
    (runner,) = world.submit(kind="m:g", demands=Demands(runner="r"))
    rules = [caps.held_back(world.state, world.state.tasks[task]) for task in (typed, runner)]
    assert [rule and rule.text for rule in rules] == [
        "1 tasks of type m:f run, as many as coordinator.type_running_max allows",
        "2 tasks with runner r run, as many as coordinator.runner_running_max allows",
    ]


def test_an_attempt_counts_once_against_its_caps_and_not_while_it_is_blocked() -> None:
    """However often it is said that it runs."""
    cap = Cap("fleet", "", 9)
    world = World(CoreSettings(running_max=9))
    agent = world.connect("a", 2)
    (task,) = world.submit()
    record = world.state.tasks[task]
    attempt = record.attempt
    assert attempt is not None
    caps.take(world.state, record, attempt)
    assert world.state.capped == {cap: 1}
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, "k")
    assert world.state.capped == {}
    caps.take(world.state, record, attempt)
    assert world.state.capped == {}


# --- the line --------------------------------------------------------------------------------------------------------


def test_a_place_is_by_rank_then_by_order() -> None:
    """One that has no rank stands where it would stand if it came now."""
    world = World(CoreSettings(aging_us=1000))
    (task,) = world.submit(priority=4)
    record = world.state.tasks[task]
    world.state.queue.clock_us = 50_000
    assert lines.place_of(world.state, record) == (-4000, record.order, task)
    record.rank_us = None
    assert lines.place_of(world.state, record) == (46_000, record.order, task)


@pytest.mark.parametrize("what", ["gone", "without a wait", "cancelled", "lost", "resolved", "away", "removed"])
def test_who_cannot_have_it_now_is_passed_over(what: str) -> None:
    """Whatever became of it since the line was made, or out of contact: the next gets what there is."""
    world = World()
    agent = world.connect("a", 9)
    holder, first, last = (start(world, agent, *claims) for claims in (("f",), (), ()))
    want(world, agent, first, "f")
    want(world, agent, last, "f")
    state, key = world.state, "limit-f"
    task = state.tasks[first]
    attempt, running, wait = task.attempt, state.tasks[holder].attempt, task.wait(key)
    assert attempt is not None
    assert running is not None
    assert wait is not None
    state.limits.line = [((1, 0, last), key), ((0, 0, first), key)]
    if what == "gone":
        del state.tasks[first]
    elif what == "without a wait":
        task.waits = ()
    elif what == "cancelled":
        task.state = TaskState.CANCELLING
    elif what == "lost":
        task.attempt = None
    elif what == "resolved":
        wait.resolution = b"was given already"
    else:
        state.agents["b"] = Agent("b", "m", connectivity=Connectivity.SUSPECT)
        attempt.agent_id = {"away": "b", "removed": "nobody"}[what]
    state.limits.reserved.clear()
    holdings.release(state, running)
    lines._serve_waits(state, Effects())
    assert state.limits.line == []
    assert (wait.held_by, state.limits.pools["default", "f"].holders) == (0, {(last, 1): Claim("f")})


def test_what_is_kept_for_one_before_is_not_given_to_one_that_runs() -> None:
    """A unit that is free waits for the task that needs two, also against an attempt that waits for one."""
    world = World()
    agent = world.connect("a", 9)
    define(world, "db", SEMAPHORE, 2)
    holder, running = start(world, agent, "db"), start(world, agent)
    (large,) = submit(world, Claim("db", units=2), priority=7)
    want(world, agent, running, "db")
    assert got(agent, running) == []
    finish(world, agent, holder)
    assert large in held(world, agent)
    finish(world, agent, large)
    assert got(agent, running) == ["limit-db"]


def test_what_one_needs_that_holds_some_already_is_kept_for_it() -> None:
    """It waits, and so does not stand in its own way: a unit that is free is not given to those behind it."""
    world = World()
    agent = world.connect("a", 9)
    define(world, "db", SEMAPHORE, 3)
    first, second = start(world, agent, "db"), start(world, agent, "db")
    want(world, agent, first, Claim("db", units=2))
    (behind,) = submit(world, "db")
    assert behind not in held(world, agent)
    finish(world, agent, second)
    assert got(agent, first) == ["limit-db"]


@pytest.mark.parametrize(
    ("holds", "keeps", "wants"),
    [
        (Demands(claims=(Claim("db"),)), Demands(claims=(Claim("db", units=2),)), Demands(claims=(Claim("db"),))),
        (Demands(scopes=("src/x",)), Demands(scopes=("src/*", "doc/*")), Demands(scopes=("doc/x",))),
    ],
)
def test_what_is_kept_for_one_without_an_agent_is_soon_given_to_others(
    holds: Demands, keeps: Demands, wants: Demands
) -> None:
    """Its agent went away after it was kept: nobody waits behind it for more than five seconds."""
    world = World()
    agent, other = world.connect("a", 9), world.connect("b", 1, labels={"x": "y"})
    define(world, "db", SEMAPHORE, 2)
    world.submit(demands=holds)
    begin(world, agent)
    (first,) = world.submit(demands=keeps._replace(constraints=(Constraint("x", Operator.EXISTS),)))
    (behind,) = world.submit(demands=wants)
    assert [world.state_of(task) for task in (first, behind)] == [TaskState.QUEUED] * 2
    world.disconnect(other)
    world.wait(6)
    assert world.state_of(behind) is TaskState.ASSIGNED


def test_who_is_asked_in_a_later_step_still_comes_before_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A running attempt gets what is left when all classes were asked, in however many steps, and not before."""
    monkeypatch.setattr(lines, "ASKED_MAX", 1)
    world = World()
    agent = world.connect("a", 9)
    holder, running = start(world, agent, "f"), start(world, agent)
    define(world, "g", SEMAPHORE, 0)
    submit(world, "f", Claim("g"), priority=9)
    (second,) = submit(world, "f", priority=9)
    want(world, agent, running, "f")
    finish(world, agent, holder)
    world.settle()
    assert (second in held(world, agent), got(agent, running)) == (True, [])


def test_what_changes_while_all_are_asked_is_asked_about_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was asked in an earlier step gets what was given back since, at once."""
    monkeypatch.setattr(lines, "ASKED_MAX", 1)
    world = World()
    agent = world.connect("a", 9)
    tasks = [start(world, agent, name) for name in "xy"]
    (first,), (second,) = submit(world, "x"), submit(world, "y")
    other = start(world, agent, "z")
    finish(world, agent, other)
    assert world.state.limits.is_asking
    finish(world, agent, tasks[0])
    world.settle()
    assert world.state_of(first) is TaskState.ASSIGNED
    assert world.state_of(second) is TaskState.QUEUED


# --- circles ---------------------------------------------------------------------------------------------------------


def test_what_is_being_stopped_is_no_part_of_a_circle() -> None:
    """Its end is coming, and with it what it holds."""
    world = World()
    agent = world.connect("a", 9)
    first, second = start(world, agent, "x"), start(world, agent, "y")
    want(world, agent, second, "x")
    world.do(CancelRequested([second], "", world.replies.append))
    want(world, agent, first, "y")
    world.wait(5)
    assert deadlocks(world) == []


def test_a_circle_names_who_holds_what_and_not_the_one_that_waits() -> None:
    """Also where that one has some units itself: what it needs is with the other."""
    world = World()
    agent = world.connect("a", 9)
    define(world, "db", SEMAPHORE, 4)
    first, second = (start(world, agent, Claim("db", units=2)) for _ in range(2))
    want(world, agent, first, Claim("db", units=1))
    want(world, agent, second, Claim("db", units=1))
    assert deadlocks(world) == [
        f"deadlock: {second} waits for db held by {first} -> {first} waits for db held by {second}"
    ]


def test_a_circle_behind_a_task_that_waits_for_several_is_found() -> None:
    """Whichever of them it is behind."""
    for number in range(2):
        world = World()
        agent = world.connect("a", 9)
        define(world, "unused", SEMAPHORE, 1)
        first, second, third, running = (start(world, agent) for _ in range(4))
        for required in ((third, running), (running, third))[number]:
            want_task(world, agent, second, required)
        want_task(world, agent, third, first)
        assert deadlocks(world) == []
        want_task(world, agent, first, second)
        assert len(deadlocks(world)) == 1


def test_who_waits_for_what_goes_on_itself_is_not_stuck() -> None:
    """Judged before what it waits for, it is judged again."""
    for number in range(2):
        world = World()
        agent = world.connect("a", 9)
        first, second, third, running = (start(world, agent) for _ in range(4))
        want_task(world, agent, third, running)
        want_task(world, agent, second, third)
        for required in ((third, second), (second, third))[number]:
            want_task(world, agent, first, required)
        world.wait(3)
        assert deadlocks(world) == []


def test_books_that_do_not_know_what_is_held_are_found() -> None:
    """A limit that a live attempt must hold and that is in no book is a fault, told as one."""
    world = World()
    agent = world.connect("a")
    start(world, agent, "f")
    world.state.limits.pools.clear()
    with pytest.raises(AssertionError, match=r"I21: limit \('default', 'f'\) is held by"):
        holdings.check(world.state)
