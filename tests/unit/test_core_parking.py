"""Blocked attempts of an agent that parks as many as it may: they wait in their slots."""

from __future__ import annotations

from outrider_coordinator.core.events import Answered
from outrider_coordinator.core.states import TaskState
from support.core_world import ModelAgent, World


def answer(world: World, task: str) -> None:
    """Somebody answers the only wait of a task."""
    world.do(Answered(task, "", b"\x0a\x03yes", world.replies.append))


def one_parked() -> tuple[World, ModelAgent, list[str]]:
    """Three tasks for one slot of an agent that parks one: the first is parked, the second waits in the slot."""
    world = World()
    agent = world.connect("a", 1)
    world.state.agents["a"].parked_max = 1
    tasks = world.submit(3)
    for task in tasks[:2]:
        world.start(agent, world.ref(agent, task))
        world.block(agent, world.ref(agent, task), "k")
    return world, agent, tasks


def test_who_was_answered_changes_places_with_who_waits_in_a_slot() -> None:
    """An agent that parks as many as it may: one waits in its slot, makes way for an answer, and for new work later."""
    world, agent, (first, second, third) = one_parked()
    held = [world.state.tasks[task].attempt.holds_slot for task in (first, second)]
    assert held == [False, True]
    answer(world, first)
    held = [world.state.tasks[task].attempt.holds_slot for task in (first, second)]
    assert held == [True, False]
    world.unblock(agent, world.ref(agent, first), "k")
    world.complete(agent, world.ref(agent, first))
    assert world.state_of(third) is TaskState.ASSIGNED


def test_who_waits_in_a_slot_is_parked_once_there_is_room() -> None:
    """A parked attempt ends in whatever way: the slot of the next one that waits is for new work."""
    world, agent, (first, second, third) = one_parked()
    world.fail(agent, world.ref(agent, first))
    assert not world.state.tasks[second].attempt.holds_slot
    assert world.state_of(third) is TaskState.ASSIGNED
