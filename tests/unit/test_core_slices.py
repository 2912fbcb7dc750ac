"""Very large runs in the core: taken in, decided and cancelled in slices, whole or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.effects import Accepted, Effects, Refused, rows
from outrider_coordinator.core.events import CancelRequested, RunCancelRequested, RunSubmitted, Ticked
from outrider_coordinator.core.records import InsertRunPart, InsertTask
from outrider_coordinator.core.runs import lifecycle, slices
from outrider_coordinator.core.runs.errands import Admission, RunStop
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.states import AttemptState, EventType, Reason, TaskState
from support.core_world import World, member


def fan(count: int) -> list[Any]:
    """One task, and many that come after it."""
    return [member("root"), *(member(f"k{at}", "root") for at in range(count))]


def test_a_large_run_enters_whole_in_one_step() -> None:
    """Nothing of it is there before, everything with its reply, and only then anything of it is offered."""
    world = World()
    world.connect("a", 4)
    made = [one._replace(task_id=f"r-{one.key}") for one in fan(1000)]
    effects = world.do(RunSubmitted("run", "default", "", "", made, world.replies.append))
    steps = 0
    while not world.replies or not isinstance(world.replies[-1], Accepted):
        assert not rows(effects)
        assert not world.state.tasks
        effects = world.do(Ticked())
        steps += 1
    assert steps > 5
    written = rows(effects)
    assert sum(isinstance(row, InsertTask) for row in written) == 1001
    assert sum(isinstance(row, InsertRunPart) for row in written) == 1
    submitted = [event for event in effects.events if event.type == EventType.TASK_SUBMITTED]
    assert [event.task_id for event in submitted] == [one.task_id for one in made]
    assert [event.cursor for event in world.log] == list(range(1, len(world.log) + 1))


def test_a_task_after_thousands_is_read_in_slices() -> None:
    """The edges of one task are too many for a step as well; what it waits for is complete when it enters."""
    world = World()
    keys = [f"k{at}" for at in range(5000)]
    made = [*(member(key) for key in keys), member("last", *keys)]
    made = [one._replace(task_id=f"r-{one.key}") for one in made]
    world.do(RunSubmitted("run", "default", "", "", made, world.replies.append))
    (errand,) = world.state.errands
    assert isinstance(errand, Admission)
    while errand.position < len(keys):
        world.do(Ticked())
    read = len(errand.edges.keys)
    world.do(Ticked())
    assert read < len(errand.edges.keys) < len(keys)
    world.settle()
    last = world.state.tasks["r-last"]
    assert (last.dependency_keys, last.dependency_ids) == (tuple(keys), tuple(f"r-{key}" for key in keys))
    assert list(last.waiting_for or ()) == list(last.dependency_ids)
    assert {world.state.dependents[task_id][0] for task_id in last.dependency_ids} == {"r-last"}


def test_an_unknown_key_among_thousands_refuses_the_run() -> None:
    """However late it is read, nothing of the run is left."""
    world = World()
    keys = [f"k{at}" for at in range(3000)]
    made = [*(member(key) for key in keys), member("last", *keys, "nobody")]
    made = [one._replace(task_id=f"r-{one.key}") for one in made]
    world.do(RunSubmitted("run", "default", "", "", made, world.replies.append))
    world.settle()
    assert [(answer.reason, answer.field) for answer in world.replies] == [
        ("INVALID_REQUEST", "tasks[3000].after_keys")
    ]
    assert (world.state.tasks, world.state.runs, world.state.dependents) == ({}, {}, {})


def test_a_large_run_that_does_not_fit_any_more_leaves_nothing() -> None:
    """What fills the queue meanwhile goes first; the run is refused whole."""
    world = World(CoreSettings(queue_depth_max=1010))
    made = [one._replace(task_id=f"r-{one.key}") for one in fan(1000)]
    world.do(RunSubmitted("run", "default", "", "", made, world.replies.append))
    world.submit(10)
    world.settle()
    assert isinstance(world.replies[-1], Refused)
    assert len(world.state.tasks) == 10
    assert not world.state.runs


def test_the_same_large_run_twice_at_once_is_one_run() -> None:
    """The second of two submits under one request id finds the first."""
    world = World()
    for run_id in ("one", "two"):
        made = [one._replace(task_id=f"{run_id}-{one.key}") for one in fan(500)]
        world.do(RunSubmitted(run_id, "default", "", "", made, world.replies.append, "request", b"digest"))
    world.settle()
    assert world.replies == [Accepted("one"), Accepted("one", created=False)]
    assert len(world.state.tasks) == 501


@pytest.mark.parametrize("fails", [False, True])
def test_many_dependents_are_decided_in_slices(fails: bool) -> None:
    """However many wait for one task, no step decides more than a few hundred, and each is decided once."""
    world = World()
    agent = world.connect("a", 1)
    ids = world.submit_members(*fan(1000))
    ref = world.ref(agent, ids["root"])
    world.start(agent, ref)
    before = len(world.log)
    world.fail(agent, ref, recoverable=False) if fails else world.complete(agent, ref)
    assert len(world.log) - before < 400
    world.settle()
    wanted = EventType.TASK_SKIPPED if fails else EventType.TASK_QUEUED
    told = [event.task_id for event in world.of(wanted) if event.task_id != ids["root"]]
    assert sorted(told) == sorted(ids[key] for key in ids if key != "root")


def test_a_large_run_is_cancelled_in_slices_with_one_reply() -> None:
    """The reply comes when all is decided; what ends by itself meanwhile makes nothing ready."""
    world = World()
    agent = world.connect("a", 2)
    ids = world.submit_members(member("other"), *fan(1000))
    world.do(RunCancelRequested("run", "", world.replies.append))
    assert not isinstance(world.replies[-1], int)
    held = [ref for ref in agent.held if agent.held[ref] is AttemptState.OFFERED]
    for ref in held:
        world.complete(agent, ref)
    world.settle()
    for ref in list(agent.held):
        world.fail(agent, ref, Reason.CANCEL_REQUESTED)
    assert isinstance(world.replies[-1], int)
    assert TaskState.SKIPPED not in {world.state_of(task_id) for task_id in ids.values()}
    assert not world.state.runs


def test_small_work_does_not_wait_for_large() -> None:
    """Errands take turns: a small run enters while a large one is still on its way."""
    world = World()
    world.connect("a", 1)
    made = [one._replace(task_id=f"big-{one.key}") for one in fan(2000)]
    world.do(RunSubmitted("big", "default", "", "", made, lambda _: None))
    small = [one._replace(task_id=f"s-{one.key}") for one in fan(3)]
    world.do(RunSubmitted("small", "default", "", "", small, world.replies.append))
    assert world.replies[-1] == Accepted("small")
    world.do(Ticked())
    assert [send.task_id for send in world.assigned] == ["s-root"]
    assert "big" not in world.state.runs


def test_a_cancelled_task_that_was_to_be_decided_stays_cancelled() -> None:
    """A cancel between two slices wins over the skip that was on its way."""
    world = World()
    agent = world.connect("a", 1)
    ids = world.submit_members(*fan(1000))
    ref = world.ref(agent, ids["root"])
    world.start(agent, ref)
    world.fail(agent, ref, recoverable=False)
    last = ids["k999"]
    assert world.state_of(last) is TaskState.PENDING
    world.do(CancelRequested([last], "", world.replies.append))
    world.settle()
    assert world.state_of(last) is TaskState.CANCELLED


def units_used(world: World, units: int) -> int:
    """Do so much of what is left over, outside of any step."""
    effects = Effects()
    used = slices.work(world.state, effects, units)
    world.take(effects)
    return used


def test_a_turn_takes_what_it_is_given_and_no_more() -> None:
    """One unit is one task: seven of a run that is cancelled take two, two, two and one, and then there are none."""
    world = World()
    world.submit_members(*(member(f"k{at}") for at in range(7)))
    lifecycle.stop(world.state, Effects(), world.state.runs["run"], Reason.CANCEL_REQUESTED, "enough")
    assert [units_used(world, 2) for _ in range(5)] == [2, 2, 2, 1, 0]
    assert [event.type for event in world.log].count(EventType.TASK_CANCELLED) == 7


def test_short_work_takes_its_own_length() -> None:
    """Three errands of one task each are three units, and one unit is enough for one."""
    world = World()
    ids = world.submit_members(*(member(f"k{at}") for at in range(3)), is_sequential=True)
    run = world.state.runs["run"]
    for task_id in ids.values():
        stop = RunStop(run, [task_id], Reason.CANCEL_REQUESTED, "enough")
        world.state.errands.append(stop)
    run.stop_reason = Reason.CANCEL_REQUESTED
    assert [units_used(world, 1), units_used(world, 10)] == [1, 2]
