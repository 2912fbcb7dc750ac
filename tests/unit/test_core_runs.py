"""Graphs in the core: conditions, phases, policies, milestones, additions, and long work in slices."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.effects import Accepted, NeedTasks, Refused
from outrider_coordinator.core.events import RunCancelRequested, TasksAdded
from outrider_coordinator.core.runs import graph
from outrider_coordinator.core.spec import Condition
from outrider_coordinator.core.states import EventType, Reason, TaskState
from support.core_world import ModelAgent, World, member

S, F, A = Condition.SUCCESS, Condition.FAILURE, Condition.ALWAYS


def run(world: World, agent: ModelAgent, task_id: str, *, fails: bool = False) -> None:
    """Let the task that the agent holds end."""
    ref = world.ref(agent, task_id)
    world.start(agent, ref)
    world.fail(agent, ref, recoverable=False) if fails else world.complete(agent, ref)


def reason_of(world: World, task_id: str) -> Reason:
    """The reason of a task's last event."""
    return Reason([event.reason for event in world.log if event.task_id == task_id][-1])


@pytest.mark.parametrize(
    ("condition", "fails", "state", "reason"),
    [
        (S, False, TaskState.ASSIGNED, Reason.NONE),
        (S, True, TaskState.SKIPPED, Reason.UPSTREAM_FAILED),
        (F, False, TaskState.SKIPPED, Reason.CONDITION_NOT_MET),
        (F, True, TaskState.ASSIGNED, Reason.NONE),
        (A, False, TaskState.ASSIGNED, Reason.NONE),
        (A, True, TaskState.ASSIGNED, Reason.NONE),
    ],
)
def test_a_condition_decides_how_a_dependency_must_end(
    condition: Condition, fails: bool, state: TaskState, reason: Reason
) -> None:
    """SUCCESS asks for a success, FAILURE for anything else, ALWAYS for an end; else it is skipped, with the reason."""
    world = World()
    agent = world.connect("a")
    ids = world.submit_members(member("a"), member("b", "a", conditions=(condition,)))
    run(world, agent, ids["a"], fails=fails)
    assert world.state_of(ids["b"]) is state
    assert reason_of(world, ids["b"]) is reason


@pytest.mark.parametrize("condition", [S, F, A])
@pytest.mark.parametrize("fails", [False, True])
def test_a_condition_on_an_ended_task_is_decided_at_submit(condition: Condition, fails: bool) -> None:
    """A task submitted after its dependency ended starts or is skipped as if it had waited."""
    world = World()
    agent = world.connect("a")
    (first,) = world.submit()
    run(world, agent, first, fails=fails)
    (second,) = world.submit(after=(first,), conditions=(condition,))
    met = condition is A or (condition is F) == fails
    assert world.state_of(second) is (TaskState.ASSIGNED if met else TaskState.SKIPPED)


def test_what_was_not_needed_fails_nothing() -> None:
    """A skip because a condition was not met is passed on as that: nobody failed."""
    world = World()
    agent = world.connect("a")
    edges = member("b", "a", conditions=(F,)), member("c", "b"), member("d", "b", conditions=(F,))
    ids = world.submit_members(member("a"), *edges)
    run(world, agent, ids["a"])
    assert [world.state_of(ids[key]) for key in "bc"] == [TaskState.SKIPPED] * 2
    assert [reason_of(world, ids[key]) for key in "bc"] == [Reason.CONDITION_NOT_MET] * 2
    assert world.state_of(ids["d"]) is TaskState.ASSIGNED


def test_inputs_have_their_keys() -> None:
    """A task gets every dependency under its key, whatever the condition; the shell attaches what results there are."""
    world = World()
    agent = world.connect("a", 2)
    (outer,) = world.submit()
    run(world, agent, outer)
    last = member("c", "a", "b", conditions=(A, A))
    ids = world.submit_members(member("a"), member("b"), last)
    run(world, agent, ids["a"])
    effects_before = len(world.log)
    run(world, agent, ids["b"], fails=True)
    assert len(world.log) > effects_before
    assert world.assigned[-1].inputs == (("a", ids["a"]), ("b", ids["b"]))


def test_a_phase_begins_when_all_lower_ones_are_over() -> None:
    """Tasks of a later phase wait for every task of the lower ones, however these end."""
    world = World()
    agent = world.connect("a", 4)
    ids = world.submit_members(
        member("a"), member("b"), member("c", phase=2), member("d", phase=7), member("e", "a", phase=2)
    )
    assert sorted(ref.task_id for ref in agent.held) == [ids["a"], ids["b"]]
    run(world, agent, ids["a"])
    assert world.state_of(ids["c"]) is TaskState.PENDING
    run(world, agent, ids["b"], fails=True)
    assert sorted(ref.task_id for ref in agent.held) == [ids["c"], ids["e"]]
    run(world, agent, ids["c"], fails=True)
    assert world.state_of(ids["d"]) is TaskState.PENDING
    run(world, agent, ids["e"])
    run(world, agent, ids["d"])
    assert world.log[-1].type == EventType.RUN_ENDED


def test_a_phase_that_is_skipped_whole_opens_the_next() -> None:
    """Phases whose tasks all end early hold nothing up."""
    world = World()
    agent = world.connect("a", 4)
    ids = world.submit_members(member("a"), member("b", "a", phase=1), member("c", phase=2))
    run(world, agent, ids["a"], fails=True)
    assert world.state_of(ids["b"]) is TaskState.SKIPPED
    run(world, agent, ids["c"])
    assert not world.state.runs


@pytest.mark.parametrize("is_phased", [False, True])
def test_failing_fast_cancels_what_has_not_ended(is_phased: bool) -> None:
    """The first failure cancels what waits, and stops what runs; a success that comes first still counts."""
    world = World()
    agent = world.connect("a", 3)
    ids = world.submit_members(
        *(member(key) for key in "abc"), member("d"), member("e", "a", phase=int(is_phased)), fails_fast=True
    )
    for key in "bc":
        world.start(agent, world.ref(agent, ids[key]))
    run(world, agent, ids["a"], fails=True)
    assert [world.state_of(ids[key]) for key in "de"] == [TaskState.CANCELLED] * 2
    assert [reason_of(world, ids[key]) for key in "de"] == [Reason.RUN_FAILED] * 2
    assert {agent.reasons[ref] for ref in agent.cancelled} == {Reason.RUN_FAILED}
    world.complete(agent, world.ref(agent, ids["b"]))
    world.fail(agent, world.ref(agent, ids["c"]), Reason.RUN_FAILED)
    assert world.state_of(ids["b"]) is TaskState.SUCCEEDED
    assert (world.state_of(ids["c"]), reason_of(world, ids["c"])) == (TaskState.CANCELLED, Reason.RUN_FAILED)
    assert not world.state.runs


def test_a_task_that_fails_by_itself_is_not_tried_again_in_a_failed_run() -> None:
    """A retry that comes up after the run has failed is cancelled instead."""
    world = World()
    agent = world.connect("a", 2)
    ids = world.submit_members(member("a"), member("b", max_attempts=5), fails_fast=True)
    world.start(agent, world.ref(agent, ids["b"]))
    run(world, agent, ids["a"], fails=True)
    world.fail(agent, world.ref(agent, ids["b"]), Reason.TASK_ERROR)
    assert (world.state_of(ids["b"]), reason_of(world, ids["b"])) == (TaskState.CANCELLED, Reason.RUN_FAILED)


def test_a_run_that_goes_on_does_all_it_can() -> None:
    """Without failing fast a failure skips what comes after it and nothing else."""
    world = World()
    agent = world.connect("a", 3)
    ids = world.submit_members(member("a"), member("b"), member("c", "a"), member("d", "b"))
    run(world, agent, ids["a"], fails=True)
    run(world, agent, ids["b"])
    run(world, agent, ids["d"])
    assert [world.state_of(ids[key]).name for key in "abcd"] == ["FAILED", "SUCCEEDED", "SKIPPED", "SUCCEEDED"]


def test_a_sequential_run_goes_one_by_one() -> None:
    """Each task waits for the one before it, whatever its end; those added later come last."""
    world = World()
    agent = world.connect("a", 4)
    ids = world.submit_members(member("a"), member("b"), member("c"), is_sequential=True)
    run(world, agent, ids["a"], fails=True)
    assert [ref.task_id for ref in agent.held] == [ids["b"]]
    world.add(member("d"), member("e"))
    for key in "bcd":
        run(world, agent, f"r-{key}")
    assert [ref.task_id for ref in agent.held] == ["r-e"]


def test_a_run_bounds_its_own_parallelism() -> None:
    """No more of its tasks than max_parallel are under way at once; others pass them by."""
    world = World()
    agent = world.connect("a", 4)
    ids = world.submit_members(*(member(key) for key in "abcd"), max_parallel=2)
    (other,) = world.submit()
    assert sorted(ref.task_id for ref in agent.held) == sorted([ids["a"], ids["b"], other])
    run(world, agent, ids["a"])
    assert ids["c"] in {ref.task_id for ref in agent.held}
    world.add(member("e"))
    run(world, agent, other)
    assert len(agent.held) == 2


def test_a_milestone_is_reached_once_all_of_it_succeeded() -> None:
    """RUN_MILESTONE names it, once; a failure among its tasks means it never comes."""
    world = World()
    agent = world.connect("a", 4)
    ids = world.submit_members(
        member("a", milestone="built"), member("b", milestone="built"), member("c", milestone="tried"), member("d")
    )
    run(world, agent, ids["a"])
    assert not world.of(EventType.RUN_MILESTONE)
    run(world, agent, ids["b"])
    run(world, agent, ids["c"], fails=True)
    assert [event.text for event in world.of(EventType.RUN_MILESTONE)] == ["built"]


def test_a_running_task_adds_tasks_to_its_run() -> None:
    """Additions may come after tasks that run, wait or have ended; the run is over when they are."""
    world = World()
    agent = world.connect("a", 4)
    ids = world.submit_members(member("a"), member("b"))
    run(world, agent, ids["a"])
    answer = world.add(member("c", "a", "b"), member("d", "c"), parent_task_id=ids["b"], request_id="more")
    assert answer == Accepted("run/1")
    (extended,) = world.of(EventType.RUN_EXTENDED)
    assert (extended.task_id, extended.text) == (ids["b"], "2 tasks")
    assert world.add(member("c", "a", "b"), member("d", "c"), request_id="more") == Accepted("run/1", created=False)
    for key in "bcd":
        run(world, agent, f"r-{key}")
    assert not world.state.runs


def test_an_addition_is_refused_with_the_reason() -> None:
    """A used key, an unknown key, a stranger as parent, too many tasks, a run that is over or being cancelled."""
    world = World()
    agent = world.connect("a", 1)
    ids = world.submit_members(member("a"), member("b", phase=1))

    def refusal(*members: Any, **facts: Any) -> tuple[str, str]:
        answer = world.add(*members, **facts)
        assert isinstance(answer, Refused)
        return answer.reason, answer.field

    assert refusal(member("x"), member("a")) == ("INVALID_REQUEST", "tasks[1].key")
    assert refusal(member("x", "nobody")) == ("INVALID_REQUEST", "tasks[0].after_keys")
    assert refusal(member("x"), parent_task_id=ids["b"]) == ("ILLEGAL_TRANSITION", "parent_task_id")
    assert refusal(member("x", "b")) == ("INVALID_REQUEST", "tasks")
    assert refusal(*(member(f"k{at}") for at in range(9_999)))[0] == "TOO_LARGE"
    world.start(agent, world.ref(agent, ids["a"]))
    world.do(RunCancelRequested("run", "", world.replies.append))
    assert refusal(member("x"))[0] == "ILLEGAL_TRANSITION"
    world.fail(agent, world.ref(agent, ids["a"]), Reason.CANCEL_REQUESTED)
    assert refusal(member("x"))[0] == "ILLEGAL_TRANSITION"
    assert len(world.state.tasks) == 0


def test_an_addition_to_a_phase_that_is_over_joins_the_one_that_is_on() -> None:
    """A phase never opens again."""
    world = World()
    agent = world.connect("a", 4)
    ids = world.submit_members(member("a"), member("b", phase=1), member("c", phase=2))
    run(world, agent, ids["a"])
    world.add(member("d"), member("e", phase=2))
    assert sorted(ref.task_id for ref in agent.held) == ["r-b", "r-d"]
    run(world, agent, "r-b")
    assert world.state_of("r-c") is TaskState.PENDING
    run(world, agent, "r-d")
    assert sorted(ref.task_id for ref in agent.held) == ["r-c", "r-e"]


def test_a_first_phase_may_come_late() -> None:
    """A run without phases gets a second one by an addition, which waits for all that is open."""
    world = World()
    agent = world.connect("a", 4)
    world.submit_members(member("a"), member("b"))
    world.add(member("c", phase=1))
    run(world, agent, "r-a")
    assert world.state_of("r-c") is TaskState.PENDING
    run(world, agent, "r-b")
    run(world, agent, "r-c")
    assert not world.state.runs


def test_an_end_that_memory_has_forgotten_is_asked_for() -> None:
    """An edge to a task that ended before is decided by what the store says of it."""
    world = World()
    agent = world.connect("a", 2)
    ids = world.submit_members(member("a"), member("b"))
    run(world, agent, ids["a"], fails=True)
    added = member("c", "a")._replace(task_id="r-c")
    world.do(TasksAdded("run", "default", [added], world.replies.append))
    assert world.replies[-1] == NeedTasks((ids["a"],))
    assert "r-c" not in world.state.tasks
    world.add(member("c", "a"))
    assert world.state_of("r-c") is TaskState.SKIPPED


def test_cancelling_a_run_counts_what_it_decides() -> None:
    """Every open task is cancelled, none is skipped; a second cancel and one of an ended run decide nothing new."""
    world = World()
    agent = world.connect("a", 1)
    ids = world.submit_members(member("a"), member("b", "a"), member("c", phase=1))
    world.start(agent, world.ref(agent, ids["a"]))
    world.do(RunCancelRequested("run", "enough", world.replies.append))
    assert world.replies[-1] == 3
    assert [world.state_of(ids[key]).name for key in "abc"] == ["CANCELLING", "CANCELLED", "CANCELLED"]
    world.fail(agent, world.ref(agent, ids["a"]), Reason.CANCEL_REQUESTED)
    world.do(RunCancelRequested("run", "", world.replies.append))
    assert world.replies[-1] == 0


# --- the shape of a graph ----------------------------------------------------------------------------------------


def named(*members: Any) -> list[Any]:
    """Members with ids."""
    return [one._replace(task_id=one.key) for one in members]


def test_a_graph_that_could_never_run_is_refused_with_its_cycle() -> None:
    """Edges, the order of a sequential run and phases together must leave a way through."""
    check = graph.check
    assert check(named(member("a"), member("b", "a"))) is None
    circle = check(named(member("a", "b"), member("b", "a")))
    assert circle is not None
    assert "a -> b -> a" in circle.message
    against_order = check(named(member("a", "b"), member("b")), is_sequential=True)
    assert against_order is not None
    assert against_order.reason == "CYCLE"
    backwards = check(named(member("a", phase=1), member("b", "a")))
    assert backwards is not None
    assert backwards.field == "run.tasks[1].phase"
    unknown = check(named(member("a", "x")))
    assert unknown is not None
    assert unknown.field == "run.tasks[0].after_keys"
    assert check(named(member("a", "x")), is_whole=False) is None
