"""Explain at its edges: what left while it was asked, exact bounds, equal ranks, what adds up over several classes."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from outrider_coordinator.core.explain import foresight, position, reasons, whatif
from outrider_coordinator.core.explain.position import Ahead, Place
from outrider_coordinator.core.explain.reasons import explain_task, explained
from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.placement.order import Lane, Line, Strand, entry_of
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Claim, Constraint, Demands, Operator, Spec
from outrider_coordinator.core.states import Admin, AttemptState, TaskState
from support.core_world import World
from support.explaining import why, why_not
from support.telling import begin


def zone(*names: str, resources: tuple[tuple[str, float], ...] = ()) -> Demands:
    """Only where the label says one of these."""
    return Demands((Constraint("zone", Operator.IN, names),), resources)


def busy(slots: int = 1, **fields: Any) -> World:
    """Agent ``a`` with all slots taken by tasks of kind m:f, which take ten seconds."""
    world = World(**fields)
    agent = world.connect("a", slots)
    world.state.durations_us["m:f"] = 10.0 * SECOND_US
    world.submit(slots)
    begin(world, agent)
    return world


# --- agents ----------------------------------------------------------------------------------------------------------


def test_the_change_that_helps_most_tasks_comes_first() -> None:
    """Not the one whose words come first; classes that need the same change are counted together."""
    world = World()
    world.connect("a")
    world.submit(7, demands=Demands(runner="r"))
    world.submit(2, demands=zone("x"))
    world.submit(3, demands=zone("x", "y"))
    assert why_not(world, "a").suggestions == [
        "runner r on agent a: 7 waiting tasks could go to it",
        "label zone=x on agent a: 5 waiting tasks could go to it",
    ]


def test_what_could_go_to_an_agent_is_counted_over_all_classes() -> None:
    """Of every kind that waits."""
    world = World()
    for kind, count in (("m:f", 2), ("m:g", 3)):
        world.submit(count, kind=kind)
    world.connect("a", 0)
    world.state.agents["a"].slots = 1
    assert why_not(world, "a").summary == "open to work; 5 waiting tasks could go to it now"


def test_a_limit_is_nothing_to_change_of_an_agent() -> None:
    """What waits for one is counted, and nothing of the agent is suggested for it."""
    world = World()
    agent = world.connect("a", 2)
    for _ in range(2):
        world.submit(demands=Demands(claims=(Claim("db"),)))
    begin(world, agent)
    told = why_not(world, "a")
    assert [(group.rule, group.tasks) for group in told.groups] == [("LIMIT", 1)]
    assert told.suggestions == []


# --- what left meanwhile ---------------------------------------------------------------------------------------------


def all_paused() -> tuple[World, str]:
    """Three agents that an operator paused, and a task."""
    world = World()
    for name in "abc":
        world.connect(name)
        world.state.agents[name].admin = Admin.PAUSED
        world.state.agents[name].settle()
    (task,) = world.submit()
    return world, task


def test_an_agent_that_is_removed_while_a_task_is_explained_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are told all the same, with what would change them."""
    monkeypatch.setattr(reasons, "_SLICE", 1)
    world, task = all_paused()
    explaining = explain_task(world.state, task, world.now_us)
    next(explaining)
    del world.state.agents["b"]
    found = explained(explaining)
    assert found is not None
    assert [agent_id for agent_id, *_ in found.agents] == ["a", "c"]


def test_an_agent_that_is_removed_while_changes_are_tried_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is suggested for what is not there."""
    monkeypatch.setattr(whatif, "_SLICE", 1)
    world, task = all_paused()
    changing = whatif.agent_changes(world.state, world.state.tasks[task])
    next(changing)
    del world.state.agents["b"]
    assert explained(changing) == ["outrider agent resume a, c"]


def test_an_attempt_of_a_task_that_is_over_says_nothing_of_its_slot() -> None:
    """An agent that was removed meanwhile still lists it."""
    world = World()
    gone = Agent("a", "m", slots=1, slots_used=1)
    gone.attempts["t", 1] = Attempt("t", 1, "a", 1, AttemptState.STARTED, 0, holds_slot=True)
    assert foresight._free_us(world.state, gone) == []


def test_a_strand_whose_tasks_all_left_does_not_say_how_long_they_take() -> None:
    """Nor does it go before anything of another priority."""
    strand = Strand(None, (5, "n", "s"), Lane("s", None))
    strand.line.push(entry_of(queued(1, 5, estimated_us=9)))
    assert position._estimate_us(strand) == 0
    assert position._count(strand, place(queued(2, 1)), 0) == 0


# --- place in the queue ----------------------------------------------------------------------------------------------


def queued(order: int, priority: int, rank_us: int = 0, **spec: Any) -> Task:
    """A queued task with this rank."""
    task = Task(f"t{order}", "n", Spec(b"", "m:f", True, priority=priority, **spec), order, 0, TaskState.QUEUED)
    task.rank_us = rank_us
    return task


def place(task: Task) -> Place:
    """Where it stands."""
    assert task.rank_us is not None
    return Place(task.spec.priority, task.namespace, "other", task.rank_us, entry_of(task))


def strand_of(task: Task) -> Strand:
    """A strand with nothing but this task."""
    strand = Strand(None, (task.spec.priority, "n", "s"), Lane("s", None), Line(deque([entry_of(task)])))
    task.strand = strand
    return strand


@pytest.mark.parametrize(
    ("other", "own", "before"),
    [
        ((9, 0), (5, 0), 1),
        ((5, 0), (9, 0), 0),
        ((9, 1), (5, 0), 0),
        ((1, -1), (5, 0), 1),
        ((3, 0), (0, 0), 1),
        ((0, 0), (3, 0), 0),
    ],
)
def test_priorities_compare_by_rank_and_the_higher_goes_first_of_equals(
    other: tuple[int, int], own: tuple[int, int], before: int
) -> None:
    """As the queue does it: (priority, rank) of the one that may go before, and of the one that is asked about."""
    assert position._count(strand_of(queued(1, *other)), place(queued(2, *own)), 0) == before


def test_a_rank_is_kept_from_when_the_task_was_first_queued() -> None:
    """Time in which it was passed over does not move its own place."""
    world = World(CoreSettings(aging_us=1000))
    (task,) = world.submit(priority=4)
    record = world.state.tasks[task]
    world.state.queue.clock_us += 7000
    assert position.place_of(world.state, record).rank_us == record.rank_us == -4000


# --- when it starts --------------------------------------------------------------------------------------------------


def start_in_us(world: World, *names: str, before: int = 0) -> int | None:
    """Microseconds until a start behind so many tasks that take ten seconds."""
    agents = [world.state.agents[name] for name in names]
    return explained(foresight.start_in_us(world.state, agents, [Ahead("m:f", before)] if before else []))


def test_beyond_so_many_slots_no_agent_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were read stand for all, with their share of what goes before."""
    world = busy(2)
    world.connect("b", 2)
    assert start_in_us(world, "a", "b") == 0
    monkeypatch.setattr(foresight, "SLOTS_MAX", 2)
    assert start_in_us(world, "a", "b") == 10 * SECOND_US


def test_more_running_than_slots_are_no_more_than_all_of_them() -> None:
    """What stopped waiting by itself runs beside the others: one task before is not two."""
    world = busy(2)
    world.state.agents["a"].slots = 1
    assert start_in_us(world, "a", before=1) == pytest.approx(10 * SECOND_US, abs=2000)


@pytest.mark.parametrize(
    ("left_s", "text"),
    [(0.4, "one more agent"), (1.0, "one more agent: would start about 1 s earlier"), (0.99, "one more agent")],
)
def test_one_more_agent_is_said_to_help_from_a_second_on(left_s: float, text: str) -> None:
    """Less is not worth the words."""
    world = busy()
    world.state.durations_us["m:f"] = left_s * SECOND_US
    (task,) = world.submit(kind="m:f")
    assert why(world, task).suggestions[0] == text


@pytest.mark.parametrize(("seconds", "text"), [(7200, "120 min"), (36_000, "600 min")])
def test_long_spans_are_told_in_minutes(seconds: int, text: str) -> None:
    """Sixty seconds are one."""
    assert reasons._span(seconds * SECOND_US) == text


# --- what would change it --------------------------------------------------------------------------------------------


def test_the_least_of_the_priorities_that_help_as_much_is_named() -> None:
    """Where one of the highest priority stays before it whatever it does."""
    world = busy()
    for priority in (10, 5, 5):
        world.submit(priority=priority)
    (task,) = world.submit(priority=5)
    assert why(world, task).suggestions[-1] == "priority 6: 1 instead of 3 tasks before it"


def test_no_priority_is_suggested_for_what_is_held_back() -> None:
    """It would not start any sooner, whoever stands before it."""
    world = World()
    agent = world.connect("a", 1)
    world.submit(demands=Demands(claims=(Claim("db"),)))
    begin(world, agent)
    world.submit(3)
    (task,) = world.submit(demands=Demands(claims=(Claim("db"),)))
    told = why(world, task)
    assert (told.ahead > 0, bool(told.held_back)) == (True, True)
    assert told.suggestions == ["the end of task t1, which holds db"]
