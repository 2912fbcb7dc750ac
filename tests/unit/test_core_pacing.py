"""How much one step does: facts by their size, timers and offers by their number, what is left by the next steps."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core import pacing
from outrider_coordinator.core.events import (
    HeartbeatReceived,
    Held,
    Ref,
    Report,
    ReportKind,
    ReportsReceived,
    RunSubmitted,
    SessionEnded,
    SessionOpened,
    Submission,
    TasksSubmitted,
    Ticked,
)
from outrider_coordinator.core.model import HostFacts
from outrider_coordinator.core.schedules import firing
from outrider_coordinator.core.spec import SECOND_US, Spec
from outrider_coordinator.core.state import TimerKind
from outrider_coordinator.core.states import AttemptState, EventType, TaskState
from outrider_coordinator.core.step import next_due_us
from support.clockwork import Clockwork
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


def hello(held: int) -> SessionOpened:
    """An agent that comes with so many attempts."""
    known = [Held(Ref("t", 1, 1), AttemptState.STARTED)] * held
    return SessionOpened("a", "m", "i", 1, "1", "h", {}, 1, 0, 8, known, [], lambda value: None)


def test_two_small_facts_go_together() -> None:
    """And one alone always goes."""
    assert pacing.fitting([Ticked()]) == 1
    assert pacing.fitting([Ticked(), Ticked()]) == 2
    assert pacing.fitting([reports(200), reports(200), Ticked()]) == 1


def test_a_session_counts_by_what_its_agent_holds() -> None:
    """It is as much as two other facts, and one more for each attempt: a fleet that comes back has several steps."""
    assert pacing.fitting([hello(24)] * 20) == 8
    assert pacing.fitting([hello(0)] * 99) == 32


def offered(world: World, *events: Any) -> int:
    """How many offers one step makes."""
    before = world.state.retries.dispatched
    world.do(*events)
    return world.state.retries.dispatched - before


def ready(count: int) -> World:
    """So many tasks that wait, and an agent that has just got room for all of them."""
    world = World()
    world.connect("a", 0)
    world.submit(count)
    return world


def make_room(world: World, count: int = 99) -> None:
    """The agent has so many slots more."""
    known = world.state.agents["a"]
    known.slots += count
    world.state.fleet.changed(known)
    world.state.placement_is_due = True


def bounds(monkeypatch: pytest.MonkeyPatch, units: int, errands: int = 1, offers: int = 2) -> None:
    """Other bounds of a step."""
    monkeypatch.setattr(pacing, "UNITS", units)
    monkeypatch.setattr(pacing, "ERRANDS_MIN", errands)
    monkeypatch.setattr(pacing, "OFFERS_MIN", offers)


def test_a_timer_is_a_unit_that_offers_do_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of ten are used up; those that are left go to offers, and never none."""
    for timers, expected in ((0, 10), (4, 6), (9, 2)):
        world = ready(20)
        bounds(monkeypatch, 10)
        for number in range(timers):
            world.state.set_timer(world.now_us, TimerKind.READY, f"nothing{number}")
        make_room(world)
        assert offered(world) == expected


def test_an_offer_in_doubt_is_a_unit_that_offers_do_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a timer is."""
    world = ready(20)
    make_room(world, 4)
    world.settle()
    bounds(monkeypatch, 10)
    world.now_us = world.state.offers[0][0]
    make_room(world)
    assert offered(world, HeartbeatReceived("a", world.agents["a"].epoch, HostFacts())) == 6


def test_an_errand_uses_units_that_offers_do_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has all but those that are kept for offers, of which there are more than none."""
    world = ready(20)
    bounds(monkeypatch, 10)
    members = [one._replace(task_id=f"r-{one.key}") for one in (member(f"k{at}") for at in range(50))]
    make_room(world)
    assert offered(world, RunSubmitted("run", "default", "", "", members, world.replies.append)) == 2
    world = ready(20)
    small = [one._replace(task_id=f"r-{one.key}") for one in (member("k"),)]
    make_room(world)
    used = 10 - offered(world, RunSubmitted("run", "default", "", "", small, world.replies.append))
    assert 1 <= used < 8


def test_a_schedule_uses_units_that_offers_do_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the time that fires and the one that is next, beside the one timer that there is for all of them."""
    for count in (1, 2):
        clockwork = Clockwork()
        world = clockwork.world
        for number in range(count):
            clockwork.every(10, name=f"s{number}")
        world.now_us += 9 * SECOND_US
        world.connect("a", 0)
        world.submit(200)
        world.now_us += SECOND_US
        with monkeypatch.context() as patched:
            bounds(patched, 100)
            make_room(world, 199)
            assert offered(world, Ticked()) == 99 - count * 2 * firing.UNITS_PER_TIME


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
