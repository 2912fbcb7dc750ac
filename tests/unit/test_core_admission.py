"""Runs and additions on their way in: what each keeps of its submit, and what may come in between."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from outrider_coordinator.core.effects import Accepted, Effects, Refused
from outrider_coordinator.core.events import (
    Report,
    ReportKind,
    ReportsReceived,
    RunMember,
    RunSubmitted,
    TasksAdded,
    Ticked,
)
from outrider_coordinator.core.model import Trace
from outrider_coordinator.core.records import InsertRunPart
from outrider_coordinator.core.runs import admission
from outrider_coordinator.core.runs.errands import Admission
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Condition, Spec
from outrider_coordinator.core.states import EventType, Reason, TaskState
from support.core_world import ModelAgent, World, member


def named(*members: RunMember) -> list[RunMember]:
    """Members with ids."""
    return [one._replace(task_id=f"r-{one.key}") for one in members]


def a_run(world: World, *members: RunMember, run_id: str = "run", **fields: Any) -> RunSubmitted:
    """A graph that arrives."""
    return RunSubmitted(run_id, "default", "", "", named(*members), world.replies.append, **fields)


def an_addition(world: World, *members: RunMember, **fields: Any) -> TasksAdded:
    """More tasks for the run."""
    return TasksAdded("run", "default", named(*members), world.replies.append, **fields)


def ending(world: World, agent: ModelAgent, task_id: str) -> ReportsReceived:
    """The report that the task has succeeded."""
    agent.seq += 1
    report = Report(world.ref(agent, task_id), 1, world.now_us, ReportKind.COMPLETED, True, b"done")
    return ReportsReceived(agent.id, agent.epoch, f"box-{agent.id}", agent.seq, [report])


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_run_is_what_was_submitted() -> None:
    """Title, description, trace and the run it repeats stand in its row; its tasks have its trace."""
    world, trace = World(), Trace("00-1", "x=y")
    event = RunSubmitted("run", "default", "title", "text", named(member("a")), world.replies.append, trace=trace)
    event.retry_of_run_id = "before"
    world.do(event)
    run, task = world.state.runs["run"], world.state.tasks["r-a"]
    assert (run.title, run.description, run.trace, run.retry_of_run_id) == ("title", "text", trace, "before")
    assert task.trace == trace


def test_a_task_of_a_run_keeps_its_first_time() -> None:
    """One that must not start before a time waits for it though all it comes after has ended."""
    world = World()
    agent = world.connect("a")
    late = Spec(b"", "m:f", True, not_before_us=world.now_us + 60 * SECOND_US)
    world.do(a_run(world, RunMember("", "a", late, ())))
    assert world.state_of("r-a") is TaskState.PENDING
    world.wait(61)
    assert [ref.task_id for ref in agent.held] == ["r-a"]


def test_an_addition_is_stored_with_its_request() -> None:
    """Its row has the request id and the digest, so that it is known again after a start; a submit has its own row."""
    world = World()
    world.do(a_run(world, member("a"), request_id="first", digest=b"1"))
    world.do(an_addition(world, member("b"), request_id="second", digest=b"2"))
    parts = [row for row in world.rows if isinstance(row, InsertRunPart)]
    assert [(part.request_id, part.digest) for part in parts] == [("", b""), ("second", b"2")]


def test_its_events_say_when_it_came() -> None:
    """One for the run and one for each task, all of the time of the step."""
    world = World()
    world.do(Ticked(), after_us=7 * SECOND_US)
    world.do(a_run(world, member("a"), member("b")))
    kinds = (EventType.RUN_SUBMITTED, EventType.TASK_SUBMITTED)
    assert [event.time_us for event in world.log if event.type in kinds] == [world.now_us] * 3


def test_a_run_may_begin_with_any_phase() -> None:
    """Its lowest phase is on from the start, whatever its number."""
    world = World()
    agent = world.connect("a", 2)
    world.do(a_run(world, member("a", phase=3), member("b", phase=5)))
    assert [ref.task_id for ref in agent.held] == ["r-a"]


def test_members_of_an_addition_count_for_their_milestone() -> None:
    """A milestone that an addition names is reached once the tasks of the addition have succeeded too."""
    world = World()
    agent = world.connect("a", 2)
    world.do(a_run(world, member("a", milestone="built"), member("last")))
    world.do(an_addition(world, member("b", milestone="built")))
    world.complete(agent, world.ref(agent, "r-a"))
    assert not world.of(EventType.RUN_MILESTONE)
    world.complete(agent, world.ref(agent, "r-last"))
    world.complete(agent, world.ref(agent, "r-b"))
    assert [event.text for event in world.of(EventType.RUN_MILESTONE)] == ["built"]


# --- edges to tasks of before ----------------------------------------------------------------------------------------


def test_a_task_named_by_its_id_is_none_of_the_run() -> None:
    """What its result is called may be the key of a member: the edge still goes to the task that the id names."""
    world = World()
    agent = world.connect("a", 3)
    (outside,) = world.submit()
    (waiting,) = world.submit(after=(outside,))
    world.do(a_run(world, member("a"), RunMember("", "b", Spec(b"", "m:f", True), ("a",), after_ids=(outside,))))
    assert world.state.tasks["r-b"].dependency_ids == (outside,)
    world.complete(agent, world.ref(agent, outside))
    assert {ref.task_id for ref in agent.held} == {"r-a", "r-b", waiting}


def test_what_ends_in_the_same_step_is_decided_by_its_end() -> None:
    """A task of a run comes after one that has just ended and one that is open: it waits for the open one only."""
    world = World()
    agent = world.connect("a", 2)
    ends, open_one = world.submit(2)
    made = RunMember("", "k", Spec(b"", "m:f", True), ("x", "y"), after_ids=(ends, open_one))
    world.do(ending(world, agent, ends), a_run(world, made))
    assert world.replies[-1] == Accepted("run")
    assert world.state.tasks["r-k"].waiting_for == {open_one: Condition.SUCCESS}


def test_an_edge_that_holds_already_does_not_hide_the_next_task() -> None:
    """Of two tasks after ended ones the second is decided like the first."""
    world = World()
    world.connect("a")
    ended = {"old": (TaskState.SUCCEEDED, Reason.NONE), "bad": (TaskState.FAILED, Reason.TASK_ERROR)}
    spec = Spec(b"", "m:f", True)
    first = RunMember("", "k", spec, ("x",), after_ids=("old",))
    second = RunMember("", "l", spec, ("y",), after_ids=("bad",))
    world.do(a_run(world, first, second, ended=ended))
    assert (world.state_of("r-k"), world.state_of("r-l")) == (TaskState.ASSIGNED, TaskState.SKIPPED)


# --- what comes in between -------------------------------------------------------------------------------------------


def test_of_two_runs_in_one_step_the_second_finds_the_first() -> None:
    """There is room for one only, or both have one request id: what was taken in first counts."""
    for fields, answer in (({}, "QUEUE_FULL"), ({"request_id": "same", "digest": b"d"}, None)):
        world = World(CoreSettings(queue_depth_max=1))
        both = [a_run(world, member(run_id), run_id=run_id, **fields) for run_id in ("one", "two")]
        world.do(*both)
        first, second = world.replies
        assert first == Accepted("one")
        assert second == Accepted("one", created=False) if answer is None else second.reason == answer
        assert list(world.state.tasks) == ["r-one"]


def test_of_two_additions_in_one_step_the_second_finds_the_first() -> None:
    """A key that the first one took is used by then."""
    world = World()
    world.do(a_run(world, member("a")))
    world.do(an_addition(world, member("b")), an_addition(world, member("b")))
    assert world.replies[1] == Accepted("run/1")
    assert isinstance(world.replies[2], Refused)
    assert world.replies[2].message == "the run has a task 'b' already"


def test_a_run_that_is_known_is_answered_before_any_of_it_is_made() -> None:
    """However large it is: a retried submit costs a look and no slices."""
    world = World()
    world.do(a_run(world, member("a"), request_id="r", digest=b"d"))
    large = [member(f"k{at}") for at in range(300)]
    world.do(a_run(world, *large, run_id="again", request_id="r", digest=b"d"))
    assert world.replies[-1] == Accepted("run", created=False)
    assert not world.state.errands


def test_what_is_given_up_is_that_run_only() -> None:
    """Others on their way go on; whether one is on its way is asked by its id."""
    world = World()
    large = [member(f"k{at}") for at in range(300)]
    world.do(*(a_run(world, *large, run_id=run_id) for run_id in ("one", "two")))
    assert [admission.is_under_way(world.state, run_id) for run_id in ("one", "two", "three")] == [True, True, False]
    admission.abandon(world.state, "one")
    assert [admission.is_under_way(world.state, run_id) for run_id in ("one", "two")] == [False, True]


def test_a_run_is_not_on_its_way_behind_other_work() -> None:
    """Consequences that wait for their turn are no run that enters, and are not given up with one."""
    world = World()
    agent = world.connect("a")
    world.do(a_run(world, member("root"), *(member(f"k{at}", "root") for at in range(300))))
    world.settle()
    world.complete(agent, world.ref(agent, "r-root"))
    assert world.state.errands
    assert not admission.is_under_way(world.state, "run")
    admission.abandon(world.state, "run")
    assert world.state.errands


# --- slices ----------------------------------------------------------------------------------------------------------


def admitted_in_slices(members: list[RunMember], units: int) -> tuple[list[int], list[int]]:
    """Take a run in, so much at once: units used and edges read in each slice but that which enters it."""
    world = World()
    admission.run_submitted(world.state, Effects(), a_run(world, *members))
    (errand,) = world.state.errands
    assert isinstance(errand, Admission)
    used, read = [], [0]
    while errand.position < len(members):
        used.append(admission.advance(world.state, Effects(), errand, units))
        read.append(sum(len(task.dependency_ids) for task in errand.tasks.values()) + len(errand.edges.keys))
    while errand.position == len(members):
        admission.advance(world.state, Effects(), errand, units)
    assert all(task.waiting_for is not None or not task.dependency_ids for task in world.state.tasks.values())
    assert len(world.state.tasks) == len(members)
    return used, [after - before for before, after in pairwise(read)]


def test_a_slice_takes_one_unit_for_a_task() -> None:
    """Five tasks in units of two are two, two and one."""
    assert admitted_in_slices([member(f"k{at}") for at in range(5)], 2)[0] == [2, 2, 1]


def test_edges_take_their_part_of_a_slice() -> None:
    """In slices of 5 or 20 units eight edges cost as much as a task, and one of 5 does not read a task's 60 edges."""
    keys = [f"k{at}" for at in range(60)]
    members = [*(member(key) for key in keys), *(member(f"l{at}", *keys) for at in range(12))]
    costs = []
    for units in (5, 20):
        used, read = admitted_in_slices(members, units)
        assert all(0 < one <= units + 1 for one in used)
        assert max(read) < 60 or units > 5
        costs.append(sum(used))
    small, large = costs
    assert len(members) + 12 * 60 // 10 < large <= len(members) + 12 * 60 // 8
    assert large <= small <= 2 * large


def test_a_small_run_with_many_edges_enters_whole() -> None:
    """Edges alone may fill several slices; nothing enters before its last task is made."""
    keys = [f"k{at}" for at in range(40)]
    members = [member(key, *keys[:at]) for at, key in enumerate(keys)]
    world = World()
    world.do(a_run(world, *members))
    world.settle()
    assert world.replies == [Accepted("run")]
    assert [len(world.state.tasks[f"r-{key}"].waiting_for or ()) for key in keys] == list(range(40))
