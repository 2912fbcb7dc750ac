"""What the core remembers between steps, by itself: numbers that rise, whole events, caps, what wakes who waits."""

from __future__ import annotations

from outrider_coordinator.core.agents.epochs import first_number
from outrider_coordinator.core.events import CancelRequested, End, OutcomesLoaded
from outrider_coordinator.core.model import Cap
from outrider_coordinator.core.records import InsertEvent
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Claim, Demands
from outrider_coordinator.core.states import EventType, TaskState
from support.core_world import World
from support.limit_world import SEMAPHORE, define, start, submit
from support.restart import restart


def test_fences_and_sessions_are_counted_from_the_first_number_of_a_start() -> None:
    """One by one, whatever they are for: no two starts ever give one twice."""
    world = World()
    world.connect("a", 3)
    world.connect("b", 0)
    world.submit(3)
    first = first_number(1)
    assert [told.fence for told in world.assigned] == [first, first + 1, first + 2]
    assert [world.agents[name].epoch for name in "ab"] == [first, first + 1]


def test_cursors_are_counted_one_by_one() -> None:
    """Over events of tasks, runs and agents alike: a watcher sees when it missed one."""
    world = World()
    agent = world.connect("a", 3)
    world.submit(2)
    world.submit_run(("x", ()))
    world.disconnect(agent)
    assert {"AGENT", "TASK", "RUN"} <= {EventType(event.type).name.partition("_")[0] for event in world.log}
    assert [event.cursor for event in world.log] == list(range(1, len(world.log) + 1))


def test_an_event_of_a_task_says_nothing_that_is_not_so() -> None:
    """What it does not speak of is empty."""
    world = World()
    (task,) = world.submit()
    (told,) = world.of(EventType.TASK_SUBMITTED)
    assert told == InsertEvent(1, int(EventType.TASK_SUBMITTED), SECOND_US, "default", task)


def test_an_event_of_a_run_has_its_time() -> None:
    """That of the step in which it happened."""
    world = World()
    world.now_us += 7
    world.submit_run(("x", ()))
    (told,) = world.of(EventType.RUN_SUBMITTED)
    assert (told.time_us, told.run_id, told.namespace, told.task_id, told.text) == (
        SECOND_US + 7,
        "run",
        "default",
        "",
        "",
    )


def test_what_a_run_may_run_at_once_outlasts_a_restart() -> None:
    """Its tasks count against its cap again, and tasks of no run against none."""
    world = World()
    ids = world.submit_run(("x", ()), ("y", ()), max_parallel=1)
    (plain,) = world.submit()
    restart(world)
    caps = {task.id: task.caps for task in world.state.tasks.values()}
    assert caps == {ids["x"]: (Cap("run", "run", 1),), ids["y"]: (Cap("run", "run", 1),), plain: ()}
    agent = world.connect("a", 9)
    assert len(agent.held) == 2


def test_what_comes_before_those_for_whom_a_limit_is_kept_goes_at_once() -> None:
    """Also where a task of lower priority that asks for the same waits behind them."""
    world = World()
    agent = world.connect("a", 9)
    define(world, "db", SEMAPHORE, 2)
    start(world, agent, "db")
    (large,) = submit(world, Claim("db", units=2), priority=7)
    (small,) = submit(world, "db", priority=5)
    assert [world.state_of(task) for task in (large, small)] == [TaskState.QUEUED] * 2
    (equal,) = submit(world, "db", priority=5)
    assert world.state_of(equal) is TaskState.QUEUED
    (urgent,) = submit(world, "db", priority=9)
    assert world.state_of(urgent) is TaskState.ASSIGNED
    assert [world.state_of(task) for task in (large, small, equal)] == [TaskState.QUEUED] * 3


def test_what_was_kept_for_a_task_is_free_when_it_leaves_the_queue() -> None:
    """Its limits and its write scopes, at once: nobody waits for the next thing to happen."""
    for kept, behind in (
        (Demands(claims=(Claim("db", units=2),)), Demands(claims=(Claim("db"),))),
        (Demands(scopes=("src/*", "doc/*")), Demands(scopes=("doc/x",))),
    ):
        world = World(CoreSettings())
        agent = world.connect("a", 9)
        define(world, "db", SEMAPHORE, 2)
        start(world, agent, "db")
        world.submit(demands=Demands(scopes=("src/x",)))
        (first,) = world.submit(demands=kept)
        (second,) = world.submit(demands=behind)
        assert [world.state_of(task) for task in (first, second)] == [TaskState.QUEUED] * 2
        world.do(CancelRequested([first], "", world.replies.append))
        assert world.state_of(second) is TaskState.ASSIGNED


def test_only_ends_are_brought_back_from_the_store() -> None:
    """How tasks ended and whose they are; None for what is not there, and nothing of what goes on."""
    states = {"over": int(TaskState.FAILED), "open": int(TaskState.RUNNING), "unknown": None}
    loaded = OutcomesLoaded.of(states, {"over": "here", "open": "here"})
    assert loaded.ends == {"over": End(TaskState.FAILED, "here"), "unknown": None}
