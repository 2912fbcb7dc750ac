"""Running attempts that wait for a limit, and what becomes of those that wait for each other."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.events import CancelRequested
from outrider_coordinator.core.limits.survey import survey
from outrider_coordinator.core.records import InsertEvent
from outrider_coordinator.core.spec import Claim, Demands
from outrider_coordinator.core.states import EventType, Reason, TaskState
from support.core_world import World
from support.limit_world import RATE, SEMAPHORE, define, finish, got, held, start, submit, want, want_task


def deadlocks(world: World) -> list[InsertEvent]:
    """Every deadlock that was found."""
    return [event for event in world.log if event.type == EventType.TASK_DEADLOCK]


def test_a_running_attempt_waits_for_a_limit_and_holds_it() -> None:
    """It is parked until the holder ends, then has the limit to its own end."""
    world = World()
    agent = world.connect("a", 8)
    holder, waiter = start(world, agent, "f"), start(world, agent)
    want(world, agent, waiter, "f")
    assert world.state_of(waiter) is TaskState.BLOCKED
    assert got(agent, waiter) == []
    finish(world, agent, holder)
    assert got(agent, waiter) == ["limit-f"]
    world.unblock(agent, world.ref(agent, waiter), "limit-f")
    (queued,) = submit(world, "f")
    assert queued not in held(world, agent)
    finish(world, agent, waiter)
    assert queued in held(world, agent)


def test_a_free_limit_is_had_at_once() -> None:
    """Nobody holds it: the wait is resolved in the step that opened it, and asking again changes nothing."""
    world = World()
    agent = world.connect("a", 8)
    task = start(world, agent)
    for _ in range(2):
        want(world, agent, task, Claim("f", shared=True))
        world.unblock(agent, world.ref(agent, task), "limit-f")
    assert got(agent, task) == ["limit-f", "limit-f"]
    finish(world, agent, task)
    assert world.state.limits.pools == {}


@pytest.mark.parametrize("is_older", [True, False])
def test_waits_and_queued_tasks_stand_in_one_line(is_older: bool) -> None:
    """Who was submitted first gets a limit first, whether it waits in the queue or while it runs."""
    world = World()
    agent = world.connect("a", 8)
    holder = start(world, agent, "f")
    if is_older:
        waiter, (queued,) = start(world, agent), submit(world, "f")
    else:
        (queued,), waiter = submit(world, "f"), start(world, agent)
    want(world, agent, waiter, "f")
    finish(world, agent, holder)
    assert bool(got(agent, waiter)) is is_older
    assert (queued in held(world, agent)) is not is_older


def test_everybody_who_waits_is_shown_in_order() -> None:
    """Holders and waiters of a limit, those that run and wait beside those that are queued, as they will get it."""
    world = World()
    agent = world.connect("a", 8)
    holder = start(world, agent, "f")
    (first,), waiter, (last,) = submit(world, "f"), start(world, agent), submit(world, "f")
    want(world, agent, waiter, Claim("f", shared=True))
    (found,) = survey(world.state, "default")
    assert [(party.task_id, party.attempt) for party in found.holders] == [(holder, 1)]
    assert [(party.task_id, party.attempt) for party in found.waiters] == [(first, 0), (waiter, 1), (last, 0)]
    assert survey(world.state, "other") == survey(world.state, "default", "g") == []


def test_what_an_attempt_has_already_it_gets_at_once() -> None:
    """A holder that asks for its lock again has it; a reader that wants to write waits for the other readers only."""
    world = World()
    agent = world.connect("a", 8)
    writer = start(world, agent, "f")
    want(world, agent, writer, "f")
    assert got(agent, writer) == ["limit-f"]
    finish(world, agent, writer)
    readers = [start(world, agent, Claim("g", shared=True)) for _ in range(2)]
    want(world, agent, readers[0], "g")
    assert got(agent, readers[0]) == []
    finish(world, agent, readers[1])
    assert got(agent, readers[0]) == ["limit-g"]


def test_units_are_added_up() -> None:
    """An attempt that waits for more units of a semaphore holds the sum."""
    world = World()
    agent = world.connect("a", 8)
    define(world, "db", SEMAPHORE, 3)
    task = start(world, agent, Claim("db", units=2))
    want(world, agent, task, "db")
    (other,) = submit(world, "db")
    assert other not in held(world, agent)
    assert world.state.limits.pools["default", "db"].held.units == 3
    finish(world, agent, task)
    assert other in held(world, agent)


def test_a_wait_for_a_rate_ends_with_time() -> None:
    """A running attempt that waits for units of a rate gets them when they come."""
    world = World()
    agent = world.connect("a", 8)
    define(world, "api", RATE, 2, 1)
    task = start(world, agent, "api")
    want(world, agent, task, "api")
    assert got(agent, task) == []
    world.wait(0.6)
    assert got(agent, task) == ["limit-api"]


def test_a_wait_that_ends_with_its_attempt_takes_nothing() -> None:
    """An attempt that is cancelled or fails while it waits leaves the line."""
    world = World()
    agent = world.connect("a", 8)
    holder, waiter, failing = start(world, agent, "f"), start(world, agent), start(world, agent)
    for task in (waiter, failing):
        want(world, agent, task, "f")
    world.do(CancelRequested([waiter], "", world.replies.append))
    world.fail(agent, world.ref(agent, failing))
    finish(world, agent, holder)
    assert got(agent, waiter) == got(agent, failing) == []
    world.fail(agent, world.ref(agent, waiter), Reason.CANCEL_REQUESTED, False)
    assert world.state.limits.waits == {}
    assert world.state.limits.pools == {}


def test_two_locks_in_two_orders() -> None:
    """Two attempts that hold a lock each and want the other's: the one that asked last is told, with the cycle."""
    world = World()
    agent = world.connect("a", 8)
    one, two = start(world, agent, "x"), start(world, agent, "y")
    want(world, agent, one, "y")
    assert deadlocks(world) == []
    want(world, agent, two, "x")
    (event,) = deadlocks(world)
    assert event.task_id == two
    assert f"{two} waits for x held by {one} -> {one} waits for y held by {two}" in event.text
    assert got(agent, two) == ["limit-x"]
    assert got(agent, one) == []
    finish(world, agent, two)
    assert got(agent, one) == ["limit-y"]


def test_a_wait_for_a_task_that_needs_our_lock() -> None:
    """An attempt that holds a lock and waits for a task queued behind that lock is told."""
    world = World()
    agent = world.connect("a", 8)
    holder = start(world, agent, "db:main")
    (queued,) = submit(world, "db:main")
    want_task(world, agent, holder, queued)
    (event,) = deadlocks(world)
    assert f"{holder} waits for {queued} (task) -> {queued} waits for db:main held by {holder}" in event.text


def test_a_cycle_through_dependencies_and_scopes() -> None:
    """Also dependencies that have not started and write scopes close a cycle."""
    world = World()
    agent = world.connect("a", 8)
    (holder,) = world.submit(demands=Demands(scopes=("src/**",)))
    world.start(agent, world.ref(agent, holder))
    (queued,) = world.submit(demands=Demands(scopes=("src/a.py",)))
    (pending,) = world.submit(after=(queued,))
    want_task(world, agent, holder, pending)
    (event,) = deadlocks(world)
    assert f"{pending} waits for {queued} (dependency) -> {queued} waits for write scope src/**" in event.text


def test_tasks_that_wait_for_each_other() -> None:
    """Two running attempts that wait for each other's end need no limit to be stuck."""
    world = World()
    agent = world.connect("a", 8)
    one, two = start(world, agent), start(world, agent)
    want_task(world, agent, one, two)
    want_task(world, agent, two, one)
    assert [event.task_id for event in deadlocks(world)] == [two]


def test_what_can_still_end_is_no_deadlock() -> None:
    """A cycle through one holder of a semaphore is none while another holder runs, and is one once that waits too."""
    world = World()
    agent = world.connect("a", 8)
    define(world, "s", SEMAPHORE, 2)
    one, two = start(world, agent, "s"), start(world, agent, "s")
    waiter = start(world, agent, "x")
    want(world, agent, waiter, "s")
    want(world, agent, one, "x")
    assert deadlocks(world) == []
    want_task(world, agent, two, waiter)
    (event,) = deadlocks(world)
    assert event.task_id in (one, waiter)
    finish(world, agent, event.task_id)
    assert got(agent, one if event.task_id == waiter else waiter) != []


def test_a_claim_that_can_never_be_met_is_no_deadlock() -> None:
    """Somebody who waits for a task that can never start is not told of a cycle: there is none."""
    world = World()
    agent = world.connect("a", 8)
    define(world, "s", SEMAPHORE, 1)
    holder = start(world, agent, "s")
    (never,) = submit(world, Claim("s", units=2))
    want_task(world, agent, holder, never)
    assert deadlocks(world) == []


def test_who_holds_what_it_waits_for_is_told() -> None:
    """A task that holds all of a semaphore and waits for more of it waits for itself; less of it only has to wait."""
    world = World()
    agent = world.connect("a", 8)
    define(world, "s", SEMAPHORE, 2)
    holder, other = start(world, agent, "s"), start(world, agent, "s")
    want(world, agent, holder, "s")
    assert deadlocks(world) == []
    define(world, "s", SEMAPHORE, 1)
    world.wait(4)
    (event,) = deadlocks(world)
    assert event.task_id == holder
    assert "held by itself" in event.text
    finish(world, agent, other)
    finish(world, agent, holder)
    assert not world.state.limits.pools["default", "s"].holders


def test_a_cycle_that_closes_later_is_found() -> None:
    """Somebody gets a limit while it waits for something else: the cycle this closes is found within seconds."""
    world = World()
    agent = world.connect("a", 8)
    holder, one, two = start(world, agent, "x"), start(world, agent), start(world, agent, "y")
    want(world, agent, one, "x")
    want(world, agent, one, "y")
    want(world, agent, two, "x")
    assert deadlocks(world) == []
    finish(world, agent, holder)
    world.wait(4)
    (event,) = deadlocks(world)
    assert event.task_id == two


def test_a_blocked_holder_sets_nothing_aside() -> None:
    """While a limit is held by an attempt that waits for a person, those behind its first waiter use the rest."""
    world = World()
    agent = world.connect("a", 8)
    holder = start(world, agent, "x")
    world.block(agent, world.ref(agent, holder), "question")
    (both,) = submit(world, "x", "y")
    (later,) = submit(world, "y")
    assert held(world, agent) == sorted([holder, later])
    assert both not in held(world, agent)


def test_what_was_waited_for_is_held_after_a_loss_and_return() -> None:
    """An attempt that comes back from a short break still holds what it waited for; one replaced does not."""
    world = World()
    agent = world.connect("a", 8)
    task = start(world, agent, disconnect_grace_us=1_000_000, max_attempts=3)
    want(world, agent, task, "f")
    world.unblock(agent, world.ref(agent, task), "limit-f")
    world.disconnect(agent)
    world.wait(2)
    assert world.state.limits.pools == {}
    agent = world.connect("a", 8)
    assert world.state.limits.pools["default", "f"].held.exclusive == 1
    finish(world, agent, task)
    assert world.state.limits.pools == {}
