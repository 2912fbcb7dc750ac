"""How much one step does: facts by their size, timers and offers by their number, what is left by the next steps."""

from __future__ import annotations

from outrider_coordinator.core import pacing
from outrider_coordinator.core.events import (
    Ref,
    Report,
    ReportKind,
    ReportsReceived,
    RunSubmitted,
    SessionEnded,
    Submission,
    TasksSubmitted,
    Ticked,
)
from outrider_coordinator.core.spec import SECOND_US, Spec
from outrider_coordinator.core.state import TimerKind
from outrider_coordinator.core.states import EventType, TaskState
from outrider_coordinator.core.step import next_due_us
from support.core_world import World, member


def reports(count: int) -> ReportsReceived:
    """A frame of so many reports."""
    return ReportsReceived("a", 1, "box", 1, [Report(Ref("t", 1, 1), 1, 1, ReportKind.LOG, False, b"")] * count)


def submits(count: int) -> TasksSubmitted:
    """So many tasks at once."""
    return TasksSubmitted([Submission("t", "d", Spec(b"", "m:f", True), "", b"")] * count, lambda value: None)


def test_a_step_is_given_facts_by_what_they_are_about() -> None:
    """Small facts go together up to the bound, in order; a large one goes with none beyond it, and never not at all."""
    assert pacing.fitting([]) == 0
    assert pacing.fitting([submits(10_000)]) == 1
    assert pacing.fitting([submits(10_000), Ticked()]) == 1
    assert pacing.fitting([Ticked(), submits(10_000)]) == 1
    assert pacing.fitting([reports(128), submits(128), Ticked()]) == 2
    assert pacing.fitting([SessionEnded("a", 1, False)] * 1000) == 64


def test_timers_that_are_due_at_once_have_several_steps() -> None:
    """A thousand at one time: some in each step, in order, and the next step is due until none is left."""
    world = World()
    ids = world.submit(1000, not_before_us=world.now_us + SECOND_US)
    world.now_us += SECOND_US
    world.do(Ticked())
    queued = [task_id for task_id in ids if world.state_of(task_id) is TaskState.QUEUED]
    assert queued == ids[: pacing.TIMERS_MAX]
    assert next_due_us(world.state) == world.now_us
    world.settle()
    assert {world.state_of(task_id) for task_id in ids} == {TaskState.QUEUED}


def test_offers_that_are_in_doubt_at_once_have_several_steps() -> None:
    """A machine that took a hundred offers and answered none is asked for some of them in each step."""
    world = World()
    agent = world.connect("a", 100)
    agent.silent = True
    world.submit(100)
    world.settle()
    assert len(world.state.offers) == 100
    world.now_us = world.state.offers[0][0] + 1
    world.do(Ticked())
    assert sum(due_us <= world.now_us for due_us, _ in world.state.offers) == 100 - pacing.TIMERS_MAX
    assert next_due_us(world.state) is not None
    world.settle()
    assert not any(due_us <= world.now_us for due_us, _ in world.state.offers)


def test_a_free_slot_does_not_wait_for_a_long_errand() -> None:
    """While a large run is taken in, and timers come, ready tasks are offered in every step."""
    world = World()
    members = [one._replace(task_id=f"r-{one.key}") for one in (member(f"k{at}") for at in range(2000))]
    world.do(RunSubmitted("run", "default", "", "", members, world.replies.append))
    for at in range(500):
        world.state.set_timer(world.now_us, TimerKind.READY, f"nothing{at}")
    agent = world.connect("a", 1)
    (task,) = world.submit(1)
    assert world.state.errands
    assert [ref.task_id for ref in agent.held] == [task]
    world.settle()
    assert len([event for event in world.log if event.type == EventType.TASK_SUBMITTED]) == 2001
