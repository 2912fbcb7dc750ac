"""The queue of ready tasks by itself, without a world around it: whose turn it is, what sleeps, what is forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.model import Task
from outrider_coordinator.core.placement import queue
from outrider_coordinator.core.placement.fleet import Hard, Reach
from outrider_coordinator.core.placement.order import Strand
from outrider_coordinator.core.placement.queue import ReadyQueue
from outrider_coordinator.core.spec import Constraint, Demands, Operator, Spec
from outrider_coordinator.core.states import TaskState

AGING_US = 1000


class Queued:
    """A queue, and the tasks that were put into it, named in order."""

    def __init__(self, **shares: float) -> None:
        self.queue = ReadyQueue(AGING_US, {name.replace("_", "/"): share for name, share in shares.items()})
        self.made = 0

    def put(self, submitter: str = "s", *, namespace: str = "n", **spec: Any) -> Task:
        """A new task at its place."""
        self.made += 1
        fields = {"body": b"", "kind": "m:f", "is_function": True, **spec}
        task = Task(f"t{self.made}", namespace, Spec(**fields), self.made, 0, TaskState.QUEUED, submitter=submitter)
        self.queue.push(task)
        return task

    def next(self) -> Task | None:
        """Whose turn it is."""
        strand = self.queue.next()
        return None if strand is None else first(strand)

    def start(self) -> Task:
        """The next task leaves the queue and starts."""
        strand = self.queue.next()
        assert strand is not None
        task = first(strand)
        self.queue.remove(task)
        self.queue.started(strand, task.spec.priority)
        return task


def first(strand: Strand) -> Task:
    """The task that a strand stands for."""
    assert strand.known is not None
    return strand.known[2]


def group_of(task: Task) -> Any:
    """The class that a task waits in."""
    assert task.strand is not None
    return task.strand.group


# --- whose turn it is ------------------------------------------------------------------------------------------------


def test_the_clock_runs_only_while_somebody_is_passed_over() -> None:
    """From the start of a higher priority until one of the lowest that waits has its turn, and not before the first."""
    queued = Queued()
    queued.put(priority=1)
    queued.put(priority=9)
    queued.queue.begin(70)
    assert queued.start().spec.priority == 9
    queued.queue.begin(100)
    queued.queue.begin(125)
    assert queued.queue.clock_us == 55
    assert queued.start().spec.priority == 1
    queued.queue.begin(900)
    assert queued.queue.clock_us == 55


def test_between_equal_ranks_the_higher_priority_goes_first() -> None:
    """One that was passed over for exactly what the difference is worth has not passed it yet."""
    queued = Queued()
    old = queued.put(priority=3)
    queued.queue.clock_us = 2 * AGING_US
    urgent = queued.put(priority=5)
    assert old.rank_us == urgent.rank_us
    assert queued.next() is urgent
    queued.queue.clock_us += 1
    queued.queue.remove(urgent)
    queued.put(priority=5)
    assert queued.next() is old


def test_of_several_priorities_the_least_rank_goes_first_wherever_it_stands() -> None:
    """Not the first nor the last that is looked at."""
    queued = Queued()
    aged = queued.put(priority=4)
    queued.queue.clock_us = 5 * AGING_US
    for priority in (2, 6, 8):
        queued.put(priority=priority)
    assert queued.next() is aged
    assert queued.queue.lowest == 2


def test_between_equal_shares_who_was_served_longest_ago_goes_next() -> None:
    """One with twice the weight starts twice as often, and after each round the other one is first."""
    queued = Queued(n_b=2.0)
    for _ in range(6):
        queued.put("b")
        queued.put("c")
    assert [queued.start().submitter for _ in range(9)] == list("bcbcbbcbb")


def test_namespaces_take_turns_by_their_weight() -> None:
    """Whatever their submitters are called, and however many they have."""
    queued = Queued(m=3.0)
    for _ in range(4):
        for submitter in "xy":
            queued.put(submitter, namespace="m")
            queued.put(submitter, namespace="n")
    assert [queued.start().namespace for _ in range(8)].count("m") == 6


def test_a_lane_whose_tag_moved_takes_its_new_place() -> None:
    """One that has had its turn while it stood first is not first any more, and is looked at under its new tag."""
    queued = Queued()
    for submitter in ("x", "x", "y"):
        queued.put(submitter)
    assert [queued.start().submitter for _ in range(3)] == ["x", "y", "x"]
    assert queued.next() is None


def test_inside_a_submitter_deadlines_go_before_what_was_accepted_first() -> None:
    """Whatever kind of work it is: each looked at under the entry that stands first now, and under no earlier one."""
    queued = Queued()
    queued.put(deadline_us=500)
    queued.put(deadline_us=900)
    queued.put(deadline_us=300)
    queued.put(deadline_us=700, kind="m:other")
    queued.put(deadline_us=200, kind="m:other")
    found = [queued.start().spec.deadline_us for _ in range(5)]
    assert found == [200, 300, 500, 700, 900]


# --- what sleeps and is held -----------------------------------------------------------------------------------------


def test_what_comes_earlier_goes_first_also_after_it_was_let_go() -> None:
    """A strand that was held up and is listed again has its first task looked at, and one that comes before that."""
    queued = Queued()
    task = queued.put(deadline_us=500)
    queued.queue.hold(group_of(task), 5)
    assert queued.next() is None
    early = queued.put(deadline_us=300)
    assert queued.next() is None
    assert len(group_of(task).parked) == 1, "once, whatever came to it"
    queued.queue.ask_again()
    queued.queue.let_go(9)
    assert queued.next() is early
    earliest = queued.put(deadline_us=100)
    assert queued.next() is earliest
    assert [queued.start() for _ in range(3)] == [earliest, early, task]


def test_needs_that_sleep_are_not_looked_at() -> None:
    """They count again once they are awake; tasks that come to a sleeping one change nothing."""
    queued = Queued()
    other = queued.put(demands=Demands((Constraint("x", Operator.EXISTS),)))
    task = queued.put()
    need = group_of(task).need
    assert queued.queue.active == 2
    queued.queue.sleep(need)
    assert queued.queue.active == 1
    queued.put()
    assert (queued.queue.active, queued.next()) == (1, other)
    queued.queue.remove(other)
    assert (queued.queue.active, queued.next()) == (0, None)
    queued.queue.wake(need)
    assert (queued.queue.active, queued.next()) == (1, task)


def test_a_need_that_lost_its_tasks_while_it_slept_wakes_to_nothing() -> None:
    """And counts again with the first that comes."""
    queued = Queued()
    task = queued.put()
    need = group_of(task).need
    queued.queue.sleep(need)
    queued.queue.remove(task)
    queued.queue.wake(need)
    assert (queued.queue.active, queued.next()) == (0, None)
    again = queued.put()
    assert (queued.queue.active, queued.next()) == (1, again)


# --- what is forgotten -----------------------------------------------------------------------------------------------


def entries(queued: Queued) -> int:
    """How many entries there are, of tasks that wait and of others."""
    groups = queued.queue.classes.values()
    return sum(len(strand.line) for group in groups for strand in group.strands.values())


def test_entries_of_what_is_gone_are_dropped_beyond_twice_what_waits_and_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that memory follows what waits, and tasks that leave while they sleep cost little."""
    monkeypatch.setattr(queue, "GONE_KEPT", 2)
    queued = Queued()
    tasks = [queued.put() for _ in range(23)]
    for task in tasks[2:18]:
        queued.queue.remove(task)
    assert (len(queued.queue), entries(queued)) == (7, 23), "sixteen are gone, twice seven and two are kept"
    queued.queue.remove(tasks[18])
    assert (len(queued.queue), entries(queued), queued.queue.removed) == (6, 6, 0)
    assert queued.start() is tasks[0]
    assert queued.start() is tasks[1]


def test_so_many_empty_classes_are_kept_and_then_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond that one goes when it comes up empty, with its lane's count, its need, and what the need's reach knew."""
    monkeypatch.setattr(queue, "CLASSES_KEPT", 2)
    queued = Queued()
    first = [queued.put(kind=kind) for kind in ("m:a", "m:b")]
    lane = queued.queue.levels[5].lanes["n"].lanes["s"]
    for _ in first:
        queued.start()
    assert queued.next() is None
    assert (len(queued.queue.classes), lane.strands) == (2, 2), "as many as are kept"
    third = queued.put(kind="m:c")
    need = group_of(third).need
    reach = need.reach = Reach(Hard(), needs=3)
    for group in list(queued.queue.classes.values()):
        reach.asleep[group.need] = None
    queued.start()
    assert queued.next() is None
    assert [key.kind for key in queued.queue.classes] == ["m:a", "m:b"]
    assert (lane.strands, reach.needs, need in reach.asleep, len(reach.asleep)) == (2, 2, False, 2)
    assert [name[1] for name in queued.queue.needs] == ["m:a", "m:b"]


def test_so_many_empty_strands_of_a_class_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of submitters that came once and never again; the class stays as long as it has others."""
    monkeypatch.setattr(queue, "LANES_KEPT", 2)
    queued = Queued()
    for submitter in "xyz":
        queued.put(submitter)
        queued.start()
    (group,) = queued.queue.classes.values()
    assert queued.next() is None
    assert [place[2] for place in group.strands] == ["y", "z"]
    assert len(queued.queue.classes) == 1
    space = queued.queue.levels[5].lanes["n"]
    assert {name: lane.strands for name, lane in space.lanes.items()} == {"y": 1, "z": 1}


def test_a_class_without_tasks_is_forgotten_when_it_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while its need sleeps: nobody wakes what is not there any more."""
    monkeypatch.setattr(queue, "CLASSES_KEPT", 0)
    queued = Queued()
    task = queued.put(demands=Demands(systems=("ci",)))
    group = group_of(task)
    need = group.need
    need.reach = Reach(Hard(), needs=1)
    queued.queue.hold(group, 5)
    assert queued.next() is None
    queued.queue.sleep(need)
    need.reach.asleep[need] = None
    queued.queue.remove(task)
    queued.queue.ask_again()
    queued.queue.let_go(1)
    assert not queued.queue.classes
    assert not queued.queue.needs
    assert not queued.queue.held
    assert not queued.queue.to_ask
    assert (need.reach.needs, need.reach.asleep) == (0, {})
