"""Named limits in the core: what is held back, in which order it goes, and what comes back when."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.effects import Refused
from outrider_coordinator.core.events import CancelRequested, Ref
from outrider_coordinator.core.limits import holdings, lines
from outrider_coordinator.core.limits.book import Pool
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Claim, Demands
from outrider_coordinator.core.states import AttemptState, Reason, TaskState
from outrider_coordinator.core.step import new_state
from support.core_world import World
from support.limit_world import RATE, SEMAPHORE, define, finish, held, submit


def test_a_name_that_nobody_defined_is_a_lock() -> None:
    """Two tasks that claim the same name run one after the other; others run beside them."""
    world = World()
    agent = world.connect("a", 8)
    first, second = submit(world, "file:a", count=2)
    other = submit(world, "file:b")[0]
    assert held(world, agent) == sorted([first, other])
    finish(world, agent, first)
    assert held(world, agent) == sorted([second, other])


def test_shared_claims_hold_a_lock_together() -> None:
    """Readers run at once, a writer waits for all of them, and readers after it wait for the writer."""
    world = World()
    agent = world.connect("a", 8)
    readers = submit(world, Claim("f", shared=True), count=2)
    writer = submit(world, "f")[0]
    late = submit(world, Claim("f", shared=True))[0]
    assert held(world, agent) == sorted(readers)
    finish(world, agent, readers[0])
    finish(world, agent, readers[1])
    assert held(world, agent) == [writer]
    finish(world, agent, writer)
    assert held(world, agent) == [late]


def test_a_semaphore_counts_units() -> None:
    """Claims hold a semaphore together until its capacity is used up."""
    world = World()
    agent = world.connect("a", 8)
    define(world, "db", SEMAPHORE, 5)
    big = submit(world, Claim("db", units=4))[0]
    small = submit(world, "db", count=3)
    assert held(world, agent) == sorted([big, small[0]])
    finish(world, agent, big)
    assert held(world, agent) == sorted(small)


def test_all_or_nothing() -> None:
    """A task that cannot have all of its limits takes none of them: who sorts before it may use them."""
    world = World()
    agent = world.connect("a", 8)
    holder = submit(world, "x")[0]
    both = submit(world, "x", "y")[0]
    urgent = submit(world, "y", priority=9)[0]
    assert held(world, agent) == sorted([holder, urgent])
    finish(world, agent, holder)
    finish(world, agent, urgent)
    assert held(world, agent) == [both]


def test_nobody_overtakes_for_ever() -> None:
    """What the first waiting task needs is kept for it: later claimants of a part of it wait."""
    world = World()
    agent = world.connect("a", 8)
    define(world, "db", SEMAPHORE, 3)
    holder = submit(world, "x")[0]
    both = submit(world, "x", Claim("db", units=2))[0]
    one, two = submit(world, "db", count=2)
    assert held(world, agent) == sorted([holder, one])
    finish(world, agent, holder)
    assert held(world, agent) == sorted([both, one])
    finish(world, agent, both)
    assert held(world, agent) == sorted([one, two])


def test_a_line_for_one_limit_does_not_lock_up_another() -> None:
    """Only the first in line for a limit has its other limits kept: those behind it leave theirs to others."""
    world = World()
    agent = world.connect("a", 8)
    define(world, "api", SEMAPHORE, 3)
    submit(world, "x")
    submit(world, "x", "api", count=5)
    free = submit(world, "api", count=2)
    assert set(free) <= set(held(world, agent))


def test_what_cannot_be_placed_keeps_nothing() -> None:
    """A task for which there is no agent does not keep its limits from those that could run."""
    world = World()
    agent = world.connect("a", 8)
    constraint = (limits_constraint(),)
    world.submit(demands=Demands(constraint, claims=(Claim("x"),)), priority=9)
    task = submit(world, "x")[0]
    assert held(world, agent) == [task]


def limits_constraint() -> Any:
    """A label that nobody has."""
    from outrider_coordinator.core.spec import Constraint, Operator

    return Constraint("gpu", Operator.EXISTS)


@pytest.mark.parametrize("end", ["complete", "fail", "cancel", "disconnect"])
def test_limits_come_back_however_an_attempt_ends(end: str) -> None:
    """Success, failure, cancel and the loss of an agent past the grace all free what was held, once."""
    world = World()
    agent, spare = world.connect("a", 1), None
    first = submit(world, "f", disconnect_grace_us=1_000_000, max_attempts=1)[0]
    world.start(agent, world.ref(agent, first))
    second = submit(world, "f")[0]
    ref = world.ref(agent, first)
    if end == "complete":
        world.complete(agent, ref)
    elif end == "fail":
        world.fail(agent, ref)
    elif end == "cancel":
        world.do(CancelRequested([first], "", world.replies.append))
        assert world.state_of(second) is TaskState.QUEUED
        world.fail(agent, ref, Reason.CANCEL_REQUESTED, False)
    else:
        world.disconnect(agent)
        spare = world.connect("b", 1)
        assert held(world, spare) == []
        world.wait(2)
    assert second in held(world, spare or agent)


def test_a_stray_comes_back_only_to_limits_that_are_free() -> None:
    """An attempt whose agent returns goes on when its limits are free, and is fenced when another task has them."""
    for is_taken in (False, True):
        world = World()
        agent = world.connect("a", 1)
        task = submit(world, "f", disconnect_grace_us=1_000_000, max_attempts=3)[0]
        world.start(agent, world.ref(agent, task))
        world.disconnect(agent)
        if is_taken:
            submit(world, "f", priority=9)
        world.wait(2)
        assert world.state_of(task) is TaskState.QUEUED
        if is_taken:
            world.connect("b", 1)
        world.connect("a", 1)
        assert [ref.attempt for ref in agent.held if ref.task_id == task] == ([] if is_taken else [1])


def test_a_rate_lets_so_many_start_and_no_more() -> None:
    """Units of a rate come back with time, not with the end of a task, and a timer starts the next one."""
    world = World()
    agent = world.connect("a", 20)
    define(world, "api", RATE, 10, 2)
    tasks = submit(world, "api", count=5)
    assert held(world, agent) == tasks[:2]
    finish(world, agent, tasks[0])
    assert held(world, agent) == tasks[1:2]
    world.wait(0.1)
    assert held(world, agent) == tasks[1:3]
    world.wait(0.2)
    assert held(world, agent) == tasks[1:5]


def test_a_restart_gives_out_nothing_for_the_time_it_took() -> None:
    """A rate that was used up is used up after a restart too, however long that took and whatever the clock says."""
    world = World()
    world.connect("a", 20)
    define(world, "api", RATE, 1, 3)
    submit(world, "api", count=5)
    before = world.state.limits.pools["default", "api"]
    assert before.available(world.now_us) == 0
    for gone_us in (-3_600_000_000, 0, 3_600_000_000):
        now_us = world.now_us + gone_us
        state = new_state(CoreSettings(), coordinator_epoch=2, now_us=now_us)
        pool = Pool(before.definition, is_defined=True, full_us=before.full_us, taken_us=before.taken_us)
        holdings.restore(state, [(("default", "api"), pool)])
        found = state.limits.pools["default", "api"]
        assert found.available(now_us) == 0
        assert found.available(now_us + 2_000_000) == 2


def test_a_capacity_that_shrinks_lets_holders_finish() -> None:
    """Who holds more than a new definition allows keeps it; nothing is given out until there is room again."""
    world = World()
    agent = world.connect("a", 8)
    define(world, "db", SEMAPHORE, 3)
    tasks = submit(world, "db", count=4)
    define(world, "db", SEMAPHORE, 1)
    for task in tasks[:2]:
        finish(world, agent, task)
        assert tasks[3] not in held(world, agent)
    finish(world, agent, tasks[2])
    assert held(world, agent) == [tasks[3]]


def test_a_forgotten_limit_is_a_lock_again() -> None:
    """Forgetting a definition frees nobody; forgetting what nobody defined is refused."""
    world = World()
    agent = world.connect("a", 8)
    define(world, "db", SEMAPHORE, 2)
    tasks = submit(world, "db", count=3)
    assert define(world, "db", None) is True
    finish(world, agent, tasks[0])
    assert held(world, agent) == [tasks[1]]
    finish(world, agent, tasks[1])
    assert held(world, agent) == [tasks[2]]
    refused = define(world, "db", None)
    assert isinstance(refused, Refused)
    assert refused.reason == "NOT_FOUND"


def test_a_claim_that_can_never_be_met_says_so_and_blocks_nobody() -> None:
    """More units than a semaphore has: the task waits, explains itself, and others take what there is."""
    world = World()
    agent = world.connect("a", 8)
    define(world, "db", SEMAPHORE, 2)
    never = submit(world, Claim("db", units=3), priority=9)[0]
    task = submit(world, "db")[0]
    assert held(world, agent) == [task]
    (rule,) = lines.obstacles(world.state, world.state.tasks[never])
    assert "never has more than 2" in rule.text


def test_overlapping_write_scopes_run_one_after_the_other() -> None:
    """Two tasks that may write a common path are never live at once; the rule names both scopes."""
    world = World()
    agent = world.connect("a", 8)
    (first,) = world.submit(demands=Demands(scopes=("src/**/*.py",)))
    (second,) = world.submit(demands=Demands(scopes=("src/app/ma?n.py",)))
    (other,) = world.submit(demands=Demands(scopes=("docs/**",)))
    assert held(world, agent) == sorted([first, other])
    (rule,) = lines.obstacles(world.state, world.state.tasks[second])
    assert rule.name == "WRITE_SCOPE"
    assert "src/app/ma?n.py" in rule.text
    assert "src/**/*.py" in rule.text
    finish(world, agent, first)
    assert held(world, agent) == sorted([second, other])


def test_what_holds_limits_does_not_wait_in_a_line() -> None:
    """A short function that claims a limit is not sent ahead of a free slot: it would hold the limit for nothing."""
    world = World()
    agent = world.connect("a", 1, prefetch_credit=8)
    for _ in range(2):
        (task,) = world.submit()
        world.start(agent, world.ref(agent, task))
        finish(world, agent, task)
    plain = world.submit(2)
    claimed = submit(world, "f")[0]
    assert held(world, agent) == sorted(plain)
    assert claimed not in held(world, agent)


def test_a_rejected_offer_gives_back_what_it_took() -> None:
    """An attempt that never started frees its limits."""
    from outrider_coordinator.core.events import AttemptsReturned

    world = World()
    agent = world.connect("a", 1)
    task = submit(world, "f")[0]
    ref: Ref = world.ref(agent, task)
    assert agent.held.pop(ref) is AttemptState.OFFERED
    world.do(AttemptsReturned("a", agent.epoch, [ref], revoked=False))
    assert [other.attempt for other in agent.held] == [2]
