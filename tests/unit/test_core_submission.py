"""What is accepted and what is refused, in the core: tasks, batches, runs and what is added to them."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.effects import Accepted, Effects, NeedTasks, Refused, Reply
from outrider_coordinator.core.events import (
    CancelRequested,
    RunCancelRequested,
    RunMember,
    RunSubmitted,
    Submission,
    TasksAdded,
    TasksSubmitted,
    Ticked,
)
from outrider_coordinator.core.runs import admission, graph
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Condition, Spec
from outrider_coordinator.core.states import EventType, Reason, TaskState
from support.core_world import World, member
from support.restart import restart

FULL = Refused("QUEUE_FULL", "2 tasks are open; try again when some have ended")


def submission(task_id: str, request_id: str = "", digest: bytes = b"d", **fields: Any) -> Submission:
    """One function, as the edge hands it over."""
    return Submission(task_id, "default", Spec(b"", "m:f", True), request_id, digest, **fields)


def submit(world: World, *submissions: Submission, **fields: Any) -> Any:
    """The reply to a batch."""
    world.do(TasksSubmitted(list(submissions), world.replies.append, **fields))
    return world.replies[-1]


def full_for(submitter: str) -> Refused:
    """The refusal of one more of a submitter who may have two."""
    return Refused("QUEUE_FULL", f"{submitter!r} may have 2 open tasks; try again when some have ended")


def reused(request_id: str, first: str) -> Refused:
    """The refusal of other work under a known request id."""
    text = f"request id {request_id!r} was used for {first} with another body; use a new request id for new work"
    return Refused("REQUEST_ID_REUSED", text)


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_a_request_id_means_one_task_for_ever() -> None:
    """The same body under it is the same task, another body is refused."""
    world = World()
    assert submit(world, submission("t1", "r")) == [Accepted("t1")]
    assert submit(world, submission("t2", "r"), submission("t3", "r", b"other")) == [
        Accepted("t1", created=False),
        reused("r", "t1"),
    ]
    assert submit(world, submission("t4", "s"), submission("t5", "s")) == [Accepted("t4"), Accepted("t4", False)]
    assert list(world.state.tasks) == ["t1", "t4"]


def test_a_request_id_that_only_the_disk_knows_is_known() -> None:
    """What the store says of a request id counts as if it were in memory; without a request id nothing is known."""
    known = {("default", "r"): ("old", b"d")}
    world = World()
    assert submit(world, submission("t1", "r"), known_requests=known) == [Accepted("old", created=False)]
    assert submit(world, submission("t2", "r", b"x"), known_requests=known) == [reused("r", "old")]
    assert submit(world, submission("t3", ""), known_requests={("default", ""): ("old", b"d")}) == [Accepted("t3")]


def test_a_full_queue_takes_nothing_more() -> None:
    """Up to the bound and no further, each task for itself; what is known is no new one (I16)."""
    world = World(CoreSettings(queue_depth_max=2))
    batch = [submission("t1", "r"), submission("t2"), submission("t3")]
    assert submit(world, *batch) == [Accepted("t1"), Accepted("t2"), FULL]
    assert submit(world, submission("t4", "r")) == [Accepted("t1", created=False)]


def test_a_submitter_has_so_many_open_tasks_and_no_more() -> None:
    """One by one or all at once, in a run or added to it; others have room, and what ends makes room."""
    world = World(CoreSettings(submitter_open_max=2))
    ann, bob = ({"submitter": name} for name in ("ann", "bob"))
    agent = world.connect("a")
    assert submit(world, submission("t1", **ann), submission("t2", **bob)) == [Accepted("t1"), Accepted("t2")]
    batch = [submission("t3", **ann), submission("t4", **bob), submission("t5", **ann), submission("t6")]
    assert submit(world, *batch, atomic=True) == [None, None, full_for("ann"), None]
    assert submit(world, *batch) == [Accepted("t3"), Accepted("t4"), full_for("ann"), Accepted("t6")]
    assert run_of(world, member("a"), submitter="ann") == full_for("ann")
    world.complete(agent, world.ref(agent, "t1"))
    assert run_of(world, member("a"), submitter="ann") == Accepted("run")
    assert world.add(member("b")) == full_for("ann")
    restart(world)
    assert world.state.open_of == {"ann": 2, "bob": 2}


def test_a_submitter_is_told_whose_bound_was_reached() -> None:
    """Its own, also by the first that it submits; not when what it would add to is over."""
    world = World(CoreSettings(submitter_open_max=2))
    three = [member("a"), member("b"), member("c")]
    assert run_of(world, *three, submitter="ann") == full_for("ann")
    assert world.add(*three, run_id="gone").reason == "ILLEGAL_TRANSITION"


def test_a_whole_batch_of_several_submitters_shares_the_room() -> None:
    """Three tasks of three people are too many for two."""
    world = World(CoreSettings(queue_depth_max=2))
    batch = [submission(f"t{number}", submitter=name) for number, name in enumerate(("ann", "bob", "eve"))]
    assert submit(world, *batch, atomic=True) == [None, None, FULL]


def test_a_batch_is_taken_whole_or_not_at_all() -> None:
    """One that does not fit refuses all of them, and says which they are."""
    world = World(CoreSettings(queue_depth_max=2))
    three = [submission("t1"), submission("t2"), submission("t3")]
    assert submit(world, *three, atomic=True) == [None, None, FULL]
    assert not world.state.tasks
    assert submit(world, *three[:2], atomic=True) == [Accepted("t1"), Accepted("t2")]


def test_a_whole_batch_shares_the_room_with_what_is_there() -> None:
    """Tasks that are open count."""
    world = World(CoreSettings(queue_depth_max=2))
    submit(world, submission("t1"))
    assert submit(world, submission("t2"), submission("t3"), atomic=True) == [None, FULL]
    assert submit(world, submission("t2"), atomic=True) == [Accepted("t2")]


def test_a_whole_batch_knows_its_own_request_ids() -> None:
    """Known ones need no room, in memory, on disk or earlier in the batch; another body under one refuses all."""
    world = World(CoreSettings(queue_depth_max=2))
    submit(world, submission("t1", "r"))
    batch = [submission("t2", "r"), submission("t3", "s"), submission("t4", "s"), submission("t5", "u")]
    known = {("default", "u"): ("old", b"d")}
    assert submit(world, *batch, submission("t6", "s", b"x"), atomic=True, known_requests=known) == [
        None,
        None,
        None,
        None,
        reused("s", "t3"),
    ]
    answers = submit(world, *batch, atomic=True, known_requests=known)
    assert answers == [Accepted("t1", False), Accepted("t3"), Accepted("t3", False), Accepted("old", False)]


def test_dependencies_out_of_memory_are_asked_for_once_each() -> None:
    """The store is asked for what memory does not know; nothing is accepted before it has answered."""
    world = World()
    after = submission("t1", dependency_ids=("gone", "lost", "gone"))
    again = submission("t2", dependency_ids=("lost",))
    assert submit(world, after, again) == NeedTasks(("gone", "lost"))
    assert not world.state.tasks
    assert submit(world, again, ended={"lost": (TaskState.SUCCEEDED, Reason.NONE)}) == [Accepted("t2")]
    assert world.state_of("t2") is TaskState.QUEUED


def test_a_task_may_come_after_several_open_ones() -> None:
    """It waits for each of them."""
    world = World()
    submit(world, submission("t1"), submission("t2"))
    submit(world, submission("t3", dependency_ids=("t1", "t2")))
    assert world.state.tasks["t3"].waiting_for == {"t1": Condition.SUCCESS, "t2": Condition.SUCCESS}


# --- runs ------------------------------------------------------------------------------------------------------------


def run_of(world: World, *members: RunMember, **fields: Any) -> Any:
    """The reply to a run."""
    made = [one._replace(task_id=f"r-{one.key}") for one in members]
    world.do(RunSubmitted("run", "default", "", "", made, world.replies.append, **fields))
    world.settle()
    return world.replies[-1]


def test_a_run_that_is_known_or_has_no_room_is_answered_at_once() -> None:
    """Its request id says the same run again, another body under it or too many tasks are refused whole."""
    world = World(CoreSettings(queue_depth_max=2))
    assert run_of(world, member("a"), request_id="r", digest=b"d") == Accepted("run")
    assert run_of(world, member("a"), request_id="r", digest=b"d") == Accepted("run", created=False)
    assert run_of(world, member("a"), request_id="r", digest=b"x") == reused("r", "run")
    assert run_of(world, member("b"), member("c"), request_id="s") == FULL
    assert run_of(world, member("b"), known_request=("old", b"d"), request_id="t", digest=b"d") == Accepted(
        "old", False
    )
    assert not world.state.errands


def test_a_small_run_enters_within_the_step_that_submits_it() -> None:
    """What a schedule submits is in, or refused, when its step is over."""
    for depth, expected in ((2, Accepted("run")), (1, Refused("QUEUE_FULL", FULL.message.replace("2", "1")))):
        world, effects, replies = World(CoreSettings(queue_depth_max=depth)), Effects(), []
        members = [member("a")._replace(task_id="a"), member("b")._replace(task_id="b")]
        event = RunSubmitted("run", "default", "", "", members, replies.append)
        admission.submitted_at_once(world.state, effects, event)
        assert [send.value for send in effects.sends if isinstance(send, Reply)] == [expected]
        assert list(world.state.tasks) == (["a", "b"] if depth == 2 else [])


def test_members_keep_their_own_times() -> None:
    """Queue timeout and deadline of a run's task count from the submit."""
    world = World()
    for key, spec in {
        "late": Spec(b"", "m:f", True, queue_timeout_us=SECOND_US),
        "over": Spec(b"", "m:f", True, deadline_us=2 * SECOND_US),
        "any": Spec(b"", "m:f", True),
    }.items():
        made = [RunMember(f"t-{key}", key, spec, ())]
        world.do(RunSubmitted(f"run-{key}", "default", "", "", made, world.replies.append))
    world.wait(3)
    assert world.ended == {"t-late": TaskState.EXPIRED, "t-over": TaskState.EXPIRED}
    assert [event.reason for event in world.of(EventType.TASK_EXPIRED)] == [
        Reason.QUEUE_TIMEOUT,
        Reason.DEADLINE_EXCEEDED,
    ]


def test_a_queue_timeout_is_for_the_first_start_only() -> None:
    """A task that was offered once is not late any more."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(queue_timeout_us=SECOND_US)
    world.start(agent, world.ref(agent, task))
    world.wait(2)
    assert world.state_of(task) is TaskState.RUNNING


def test_a_run_and_an_addition_have_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """An addition that is too large, or would make the run so, is refused; one that fills it is not."""
    monkeypatch.setattr(admission, "MEMBERS_MAX", 4)
    monkeypatch.setattr(admission, "ADDED_MAX", 2)
    world = World()
    run_of(world, member("a"), member("b"), member("c"))
    refused = world.add(member("x"), member("y"))
    assert refused == Refused("TOO_LARGE", "run run has 3 tasks, and 4 are the most; submit another run")
    refused = world.add(member("x"), member("y"), member("z"))
    assert refused == Refused("TOO_LARGE", "3 tasks in one addition, at most 2; add them in parts")
    assert world.add(member("x")) == Accepted("run/1")


def test_additions_to_a_sequential_run_come_one_after_the_other() -> None:
    """Two that arrive at once are taken in turn: the tasks of the second come after those of the first."""
    world = World()
    run_of(world, member("a"), is_sequential=True)
    two = [
        TasksAdded("run", "default", [member(key)._replace(task_id=f"r-{key}")], world.replies.append) for key in "bc"
    ]
    world.do(*two)
    world.settle()
    assert world.replies[-2:] == [Accepted("run/1"), Accepted("run/2")]
    after = {key: set(world.state.tasks[f"r-{key}"].waiting_for or ()) for key in "abc"}
    assert after == {"a": set(), "b": {"r-a"}, "c": {"r-b"}}


def test_an_addition_may_come_after_tasks_of_its_own_phase_or_an_earlier_one() -> None:
    """After one of a later phase it could never start, and is refused."""
    world = World()
    run_of(world, member("a"), member("b", phase=1), member("c", phase=2))
    assert world.add(member("d", "b", phase=1)) == Accepted("run/1")
    assert world.add(member("e", "b", "a", phase=2)) == Accepted("run/2")
    refused = world.add(member("f", "a", "c", phase=1))
    assert refused == Refused("INVALID_REQUEST", "task 'f' comes after a task of phase 2, a later one", "tasks")


def test_an_addition_waits_for_what_is_outside_and_inside() -> None:
    """Its own tasks and those that were there before, together."""
    world = World()
    run_of(world, member("a"))
    world.add(member("b"), member("c", "a", "b"))
    assert set(world.state.tasks["r-c"].waiting_for or ()) == {"r-a", "r-b"}


@pytest.mark.parametrize("first", ["end", "cancel"])
def test_a_run_that_is_cancelled_starts_nothing_that_an_end_would_let_start(first: str) -> None:
    """What a task outside lets go in the very step of the cancel is cancelled with the rest."""
    world = World()
    agent = world.connect("a")
    (outside,) = world.submit()
    ref = world.ref(agent, outside)
    made = [member("k")._replace(task_id="r-k", after_keys=("x",), after_ids=(outside,))]
    world.do(RunSubmitted("run", "default", "", "", made, world.replies.append))
    world.settle()
    cancel = RunCancelRequested("run", "enough", world.replies.append)
    events = [CancelRequested([outside], "", world.replies.append), cancel]
    agent.held.pop(ref)
    world.do(*(events if first == "end" else reversed(events)))
    world.fail(agent, ref, Reason.CANCEL_REQUESTED)
    world.settle()
    assert world.ended == {outside: TaskState.CANCELLED, "r-k": TaskState.CANCELLED}


def test_a_run_is_cancelled_twice_with_the_first_reason() -> None:
    """A second cancel is answered too, and changes nothing of why."""
    world = World()
    agent = world.connect("a")
    run_of(world, member("a"))
    world.start(agent, world.ref(agent, "r-a"))
    for message in ("first", "second"):
        world.do(RunCancelRequested("run", message, world.replies.append))
    assert world.replies[-2:] == [1, 1]
    assert world.state.runs["run"].stop_message == "first"


# --- graphs ----------------------------------------------------------------------------------------------------------


def test_a_key_is_used_once() -> None:
    """The refusal names the key and where it came the second time."""
    refused = graph.check([member("a"), member("b"), member("a")])
    assert refused == Refused("INVALID_REQUEST", "key 'a' is used twice", "run.tasks[2].key")


def test_phases_in_their_order_are_no_fault() -> None:
    """A task may come after those of its own phase and of earlier ones."""
    ordered = [member("a"), member("b", "a", phase=1), member("c", "a", "b", phase=1)]
    assert graph.check(ordered) is None
    added = [member("d", "old"), member("e", phase=1)]
    assert graph.check(added, is_whole=False) is None


def test_only_a_sequential_run_has_an_order_of_its_own() -> None:
    """Elsewhere a task may come after one that stands behind it."""
    assert graph.check([member("a", "b"), member("b")]) is None


@pytest.mark.parametrize(("is_whole", "tasks"), [(True, "run.tasks"), (False, "tasks")])
def test_what_is_wrong_with_a_graph_is_said_where_it_stands(is_whole: bool, tasks: str) -> None:
    """The field is that of the request, a run's or an addition's; the message says what to change."""

    def said(*members: RunMember) -> Refused | None:
        return graph.check(list(members), is_whole=is_whole)

    assert said(member("a"), member("a")) == Refused("INVALID_REQUEST", "key 'a' is used twice", f"{tasks}[1].key")
    circle = "the tasks depend on each other in a circle: a -> b -> a"
    assert said(member("a", "b"), member("b", "a")) == Refused("CYCLE", circle, tasks)
    too_late = "task 'b' of phase 0 comes after 'a' of phase 1, which starts once its own phase is over"
    assert said(member("a", phase=1), member("b", "a")) == Refused("INVALID_REQUEST", too_late, f"{tasks}[1].phase")
    unknown = Refused(
        "INVALID_REQUEST", "task 'a' comes after 'x', which is no key of this run", f"{tasks}[0].after_keys"
    )
    assert said(member("a", "x")) == (unknown if is_whole else None)


def test_a_cycle_is_found_behind_a_branch() -> None:
    """The search comes back to a task with more than one way out of it and goes on with the next."""
    after = {"a": ("b", "c"), "b": (), "c": ("d",), "d": ("e", "a"), "e": ("b",)}
    assert graph.find_cycle(after) == ["a", "c", "d", "a"]
    assert graph.find_cycle({**after, "d": ("e", "b")}) == []


def test_a_step_with_nothing_to_do_does_nothing() -> None:
    """A tick that is early writes nothing and sends nothing."""
    world = World()
    effects = world.do(Ticked())
    assert (effects.sends, world.written) == ([], [])
