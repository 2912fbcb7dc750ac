"""The order of the queue: fair shares in every window, priorities that age, and nothing that holds up others."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider_coordinator.core.model import Task
from outrider_coordinator.core.placement.queue import ReadyQueue
from outrider_coordinator.core.spec import SECOND_US, Constraint, Demands, Operator, Spec
from outrider_coordinator.core.states import TaskState

AGING_US = 60 * SECOND_US


class Waiting:
    """A queue with a task each time somebody asks for one, and a clock of its own."""

    def __init__(self, **shares: float) -> None:
        self.queue = ReadyQueue(AGING_US, {name.replace("__", "/"): weight for name, weight in shares.items()})
        self.orders = itertools.count(1)
        self.now_us = SECOND_US

    def push(self, count: int = 1, *, namespace: str = "n", submitter: str = "", **spec: object) -> list[Task]:
        """Queue tasks of one submitter."""
        made = []
        for _ in range(count):
            order = next(self.orders)
            task = Task(
                f"t{order}",
                namespace,
                Spec(b"", "m:f", True, **spec),  # type: ignore[arg-type]  # fields as given
                order,
                self.now_us,
                TaskState.QUEUED,
                submitter=submitter,
            )
            self.queue.push(task)
            made.append(task)
        return made

    def take(self) -> Task | None:
        """Start the task whose turn it is."""
        self.queue.begin(self.now_us)
        strand = self.queue.next()
        if strand is None:
            return None
        assert strand.known is not None
        task = strand.known[2]
        self.queue.remove(task)
        self.queue.started(strand, task.spec.priority)
        return task


@given(
    weights=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    late=st.integers(0, 20),
    by=st.sampled_from(["namespace", "submitter"]),
)
@settings(max_examples=60, deadline=None)
def test_shares_are_kept_in_every_window(weights: tuple[int, int], late: int, by: str) -> None:
    """Of two that always have tasks each gets its weight's part of every window of starts, give or take one."""
    one, other = weights
    shares = {"a": one, "b": other} if by == "namespace" else {"n__a": one, "n__b": other}
    waiting = Waiting(**shares)
    waiting.push(200, **{by: "a"})
    for _ in range(late):
        waiting.take()
    waiting.push(200, **{by: "b"})
    window = one + other
    starts = [getattr(waiting.take(), by) for _ in range(12 * window)]
    for first in range(len(starts) - window):
        counted = Counter(starts[first : first + window])
        assert abs(counted["a"] - one) <= 1, (first, starts)


def test_a_flood_does_not_hold_up_a_neighbour() -> None:
    """Ten thousand waiting tasks of one submitter let the first task of another go next, however old they are."""
    waiting = Waiting()
    waiting.push(10_000, submitter="bulk")
    for _ in range(50):
        waiting.now_us += 3600 * SECOND_US
        waiting.take()
    (mine,) = waiting.push(submitter="me")
    assert mine in (waiting.take(), waiting.take())


def test_a_fresh_critical_goes_before_any_backlog_that_nobody_passed() -> None:
    """Waiting alone raises no priority: after a day of a NORMAL backlog a CRITICAL is next."""
    waiting = Waiting()
    waiting.push(1000)
    waiting.take()
    waiting.now_us += 24 * 3600 * SECOND_US
    (urgent,) = waiting.push(priority=10)
    assert waiting.take() is urgent


@given(low=st.integers(0, 9), gap_s=st.integers(1, 30), data=st.data())
@settings(max_examples=60, deadline=None)
def test_priority_ages_within_its_bound(low: int, gap_s: int, data: st.DataObject) -> None:
    """Under an endless stream of a higher priority a task starts once it was passed over for its bound."""
    high = data.draw(st.integers(low + 1, 10))
    waiting = Waiting()
    (patient,) = waiting.push(priority=low)
    began_us = waiting.now_us
    for _ in range(10_000):
        waiting.push(priority=high)
        if waiting.take() is patient:
            break
        waiting.now_us += gap_s * SECOND_US
    waited_us = waiting.now_us - began_us
    assert waited_us <= (high - low) * AGING_US + 2 * gap_s * SECOND_US
    assert waited_us >= (high - low - 1) * AGING_US


def test_deadlines_go_first_and_do_not_starve_what_has_none() -> None:
    """The earliest deadline of a submitter is next; what has none counts as due after a day."""
    waiting = Waiting()
    (plain,) = waiting.push()
    (late,) = waiting.push(deadline_us=3600 * SECOND_US)
    (soon,) = waiting.push(deadline_us=60 * SECOND_US)
    assert [waiting.take(), waiting.take(), waiting.take()] == [soon, late, plain]
    (plain,) = waiting.push()
    waiting.now_us += 25 * 3600 * SECOND_US
    waiting.push(deadline_us=60 * SECOND_US)
    assert waiting.take() is plain


def test_what_is_queued_again_has_its_old_place() -> None:
    """A task that came back unstarted goes before everything of its submitter that came after it."""
    waiting = Waiting()
    first, second = waiting.push(2)
    assert waiting.take() is first
    waiting.push(5)
    waiting.queue.push(first)
    assert [waiting.take(), waiting.take()] == [first, second]


def test_what_sleeps_costs_nothing_and_holds_up_nothing() -> None:
    """A thousand classes that nobody can run are looked at once; what can run goes on behind them."""
    waiting = Waiting()
    for number in range(1000):
        wanted = Demands((Constraint(f"label-{number}", Operator.EXISTS),))
        waiting.push(3, priority=10, demands=wanted)
    plain = waiting.push(100)
    looked_at = 0
    started: list[Task] = []
    while waiting.queue.active:
        strand = waiting.queue.next()
        if strand is None:
            break
        looked_at += 1
        need = strand.group.need
        if need.demands.constraints:
            waiting.queue.sleep(need)
        else:
            started.append(waiting.take())  # type: ignore[arg-type]  # there is one
    assert started == plain
    assert looked_at == 1000 + len(plain)
    waiting.push()
    assert waiting.take() is not None


def test_memory_of_the_queue_is_bounded_by_what_waits() -> None:
    """Classes, submitters and entries of tasks that are gone do not pile up."""
    waiting = Waiting()
    for number in range(3000):
        wanted = Demands((Constraint(f"label-{number}", Operator.EXISTS),))
        waiting.push(submitter=f"s{number}", demands=wanted)
        waiting.take()
    assert len(waiting.queue.classes) < 600
    assert len(waiting.queue.needs) < 600
    assert sum(len(space.lanes) for level in waiting.queue.levels for space in level.lanes.values()) < 1200
    for _ in range(3):
        for task in waiting.push(20_000):
            waiting.queue.remove(task)
    entries = sum(len(strand.line) for group in waiting.queue.classes.values() for strand in group.strands.values())
    assert entries < 25_000


@pytest.mark.parametrize("seed", range(20))
def test_an_order_is_decided_by_the_tasks_alone(seed: int) -> None:
    """The same pushes give the same starts, whatever else was queued and cancelled in between."""
    outcomes = []
    for noise in (False, True):
        waiting = Waiting(a=2)
        for number in range(40):
            place = (number * (seed + 3)) % 7
            waiting.push(namespace="ab"[place % 2], submitter=f"s{place % 3}", priority=4 + place % 2)
            if noise:
                for task in waiting.push(namespace="ab"[place % 2], submitter=f"s{place % 3}", priority=4 + place % 2):
                    waiting.queue.remove(task)
        outcomes.append([(task.namespace, task.submitter, task.spec.priority) for task in iter(waiting.take, None)])
    assert outcomes[0] == outcomes[1]
