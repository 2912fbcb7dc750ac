"""How far a run is and when it may end, as the core reads it."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.events import CancelRequested
from outrider_coordinator.core.runs import progress
from outrider_coordinator.core.runs.progress import OpenTask, Sight, estimate_us
from support.core_world import World, member


def sight(*tasks: OpenTask) -> Sight:
    """What was seen of a run with these open tasks."""
    return Sight(open=list(tasks))


@pytest.mark.parametrize(
    ("tasks", "lanes", "wanted"),
    [
        ([OpenTask("a", 0, 10, ()), OpenTask("b", 0, 10, ())], 1, 20),
        ([OpenTask("a", 0, 10, ()), OpenTask("b", 0, 10, ())], 2, 10),
        ([OpenTask("a", 0, 10, ()), OpenTask("b", 0, 10, ("a",))], 2, 20),
        ([OpenTask("c", 0, 5, ("a", "b")), OpenTask("a", 0, 1, ()), OpenTask("b", 0, 30, ())], 3, 35),
        ([OpenTask("a", 0, 10, ()), OpenTask("b", 1, 10, ())], 2, 20),
        ([OpenTask("a", 0, 10, ()), OpenTask("b", 0, -1, ()), OpenTask("c", 0, 20, ())], 1, 45),
        ([OpenTask("a", 0, 10, ("gone",))], 1, 10),
        ([OpenTask("a", 0, -1, ())], 1, None),
        ([OpenTask("a", 0, 0, ())], 1, 0),
        ([], 1, None),
    ],
)
def test_the_estimate_is_the_longest_way_or_the_work_over_the_lanes(
    tasks: list[OpenTask], lanes: int, wanted: int | None
) -> None:
    """Within a phase whichever is more, phases added up, unknown tasks as long as the known ones on average."""
    assert estimate_us(sight(*tasks), lanes) == wanted


def test_what_is_seen_of_a_run() -> None:
    """Live attempts, the agents that have them, how long they have run, and what their kind has taken."""
    world = World()
    agent = world.connect("a", 2)
    ids = world.submit_members(member("a"), member("b"), member("c", "a"), max_parallel=5)
    world.state.durations_us["m:f"] = 10_000_000.0
    world.start(agent, world.ref(agent, ids["a"]))
    run = world.state.runs["run"]
    seen = Sight()
    progress.look(world.state, run, run.members.values(), world.now_us + 4_000_000, seen)
    assert (seen.lanes, seen.agents, seen.busy_us) == (2, {"a"}, 4_000_000)
    assert [task.left_us for task in seen.open] == [6_000_000, 10_000_000, 10_000_000]
    assert progress.lanes(world.state, run, seen) == 2
    assert estimate_us(seen, 2) == 16_000_000


def test_what_has_just_started_has_all_of_its_time_left() -> None:
    """One that begins now has run for no time; one that is cancelled before it began never ran."""
    world = World()
    agent = world.connect("a", 2)
    ids = world.submit_members(member("a"), member("b"))
    world.state.durations_us["m:f"] = 10_000_000.0
    world.start(agent, world.ref(agent, ids["a"]))
    world.do(CancelRequested([ids["b"]], "", world.replies.append))
    run = world.state.runs["run"]
    seen = Sight()
    progress.look(world.state, run, run.members.values(), world.now_us, seen)
    assert [task.left_us for task in seen.open] == [10_000_000, 10_000_000]
    assert (seen.busy_us, seen.first_start_us) == (0, world.now_us)


def test_the_weight_that_is_done_adds_up() -> None:
    """Each task that ends adds its own."""
    world = World()
    agent = world.connect("a", 3)
    ids = world.submit_members(member("a", weight=2.0), member("b", weight=3.0), member("c"))
    for key in "ab":
        world.complete(agent, world.ref(agent, ids[key]))
    run = world.state.runs["run"]
    assert (run.weight_done, run.weight_total) == (5.0, 6.0)


def test_before_anything_runs_all_slots_count() -> None:
    """The lanes are the slots of agents that are online, within the run's own bound and its open tasks."""
    world = World()
    world.submit_members(*(member(f"k{at}") for at in range(10)), max_parallel=3)
    run = world.state.runs["run"]
    seen = Sight()
    progress.look(world.state, run, run.members.values(), world.now_us, seen)
    assert progress.lanes(world.state, run, seen) == 1
    world.connect("a", 0)
    world.state.agents["a"].slots = 8
    assert progress.lanes(world.state, run, seen) == 3
