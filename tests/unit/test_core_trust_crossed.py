"""Trust in the rarer cases: verdicts that are taken back, kinds nobody counted, agents that are gone; and schedules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.events import AgentOrder, AgentOrdered, BreakerReset, Ticked
from outrider_coordinator.core.model import Agent, Breaker
from outrider_coordinator.core.placement import queue
from outrider_coordinator.core.schedules.book import Overlap
from outrider_coordinator.core.schedules.events import ScheduleOrder
from outrider_coordinator.core.schedules.firing import restore
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Claim, Demands, Strategy
from outrider_coordinator.core.states import Admin, BreakerState, Reason
from outrider_coordinator.core.transitions import move_admin, move_breaker
from outrider_coordinator.core.trust import blame, breaker, systems
from outrider_coordinator.core.trust.samples import Window, rate_bounds
from support.clockwork import Clockwork
from support.core_world import World, member
from support.limit_world import held
from support.trust_world import CLOSED, HALF_OPEN, OPEN, breaker_of, fleet


def tripped(world: World, name: str, kind: str = "m:f", culprit: str = "") -> Breaker:
    """The breaker of an agent for a kind, opened."""
    known = breaker.of_type(world.state.agents[name], kind)
    breaker.trip(world.state, Effects(), known, Reason.TASK_ERROR, culprit=culprit)
    return known


def test_breakers_for_kinds_are_listed_by_kind() -> None:
    """Those that are not CLOSED, in order."""
    world, _ = fleet("a")
    agent = world.state.agents["a"]
    for kind in ("m:z", "m:a"):
        tripped(world, "a", kind)
    breaker.of_type(agent, "m:closed")
    assert [known.kind for known in blame.type_breakers(agent)] == ["m:a", "m:z"]


def test_a_kind_that_nobody_counts_is_trusted_again_too() -> None:
    """An operator's reset does not need a tally."""
    world, _ = fleet("a")
    tripped(world, "a")
    world.do(BreakerReset("a", "m:f", "", world.replies.append))
    assert world.replies[-1] is True
    assert breaker_of(world, "a", "m:f") is None
    assert breaker_of(world, "a").state is CLOSED  # type: ignore[union-attr]  # an agent has one


def test_breakers_are_named_for_people() -> None:
    """By agent, by agent and kind, by system."""
    names = [Breaker("a").name, Breaker("a", "m:f").name, Breaker(system="ci").name]
    assert names == ["the breaker of agent 'a'", "the breaker of agent 'a' for 'm:f'", "the breaker of system 'ci'"]


@pytest.mark.parametrize("opened_count", [1, 2])
def test_a_verdict_that_was_wrong_is_taken_back(opened_count: int) -> None:
    """It is CLOSED again, or on trial again where it was not trusted before; the agent has one failure less."""
    world, _ = fleet("a")
    agent = world.state.agents["a"]
    known = tripped(world, "a", culprit="t1")
    known.opened_count = opened_count
    breaker.failed(world.state, Effects(), agent.breaker, Reason.TASK_ERROR)
    breaker.withdraw(world.state, Effects(), known, "another")
    assert known.state is OPEN
    breaker.withdraw(world.state, Effects(), known, "t1")
    is_whole = opened_count == 1
    assert known.state is (CLOSED if is_whole else HALF_OPEN)
    assert known.opened_count == (0 if is_whole else 1)
    assert agent.breaker.failures == (0 if is_whole else 1)
    assert agent.breaker.window is not None
    assert agent.breaker.window.totals(world.now_us) == (0, 0 if is_whole else 1)


@pytest.mark.parametrize("is_open", [True, False])
def test_what_the_agent_itself_has_done_since_stays(is_open: bool) -> None:
    """Nothing is taken back of a breaker that is open for other reasons, or that has forgotten."""
    world, _ = fleet("a")
    agent = world.state.agents["a"]
    known = tripped(world, "a", culprit="t1")
    if is_open:
        breaker.failed(world.state, Effects(), agent.breaker, Reason.TASK_ERROR)
        breaker.trip(world.state, Effects(), agent.breaker, Reason.AGENT_LOST)
    before = replace(agent.breaker)
    breaker.withdraw(world.state, Effects(), known, "t1")
    assert known.state is CLOSED
    assert (agent.breaker.failures, agent.breaker.state) == (before.failures, before.state)


def test_a_window_takes_back_its_latest_failure_only() -> None:
    """A failure less in the latest eighth that has one; where there is none, nothing."""
    window = Window(8 * SECOND_US)
    window.take_back_failure()
    assert window.buckets == []
    for second, failed in ((0, True), (0, True), (1, True), (2, False)):
        window.add(second * SECOND_US, failed=failed)
    for expected in (2, 1, 0, 0):
        window.take_back_failure()
        assert window.totals(2 * SECOND_US) == (1, expected)


def test_a_window_counts_in_eighths() -> None:
    """What is a whole span old is forgotten, what is younger by an eighth is not."""
    window = Window(80)
    window.add(5, failed=True)
    window.add(9, failed=False)
    window.add(10, failed=True)
    assert list(window.buckets) == [[0, 1, 1], [1, 0, 1]]
    assert window.totals(79) == (1, 2)
    assert window.totals(80) == (0, 1)
    assert window.totals(89) == (0, 1)
    assert window.totals(90) == (0, 0)


def test_bounds_of_a_rate_stay_within_reason() -> None:
    """From 0 to 1, around the rate, and closer with more samples."""
    assert 0.0 <= rate_bounds(0, 10)[0] < 1e-12
    assert 1 - 1e-12 < rate_bounds(10, 10)[1] <= 1.0
    low, high = rate_bounds(5, 10)
    assert (low, high) == (pytest.approx(0.1842, abs=1e-4), pytest.approx(0.8158, abs=1e-4))
    assert rate_bounds(50, 100)[0] > low


def test_a_system_that_nobody_knows_holds_nobody_back() -> None:
    """Neither one that nothing is known of, nor one that works."""
    world = World()
    assert systems.held_count(world.state, "ci") == 0


def test_a_breaker_that_opens_with_the_agents_end_is_forgotten_with_it() -> None:
    """The row of an agent that is removed is not written again by its breaker in the same step."""
    world, (agent,) = fleet("a", settings=CoreSettings(breaker_failures=1))
    (task,) = world.submit()
    world.start(agent, world.ref(agent, task))
    world.do(AgentOrdered("a", AgentOrder.REMOVE, world.replies.append, force=True))
    assert not [row for row in world.written if type(row).__name__ == "PutBreaker"]


def test_performance_counts_what_fails_here_and_passes_there() -> None:
    """A kind that is measured: a failure that speaks against an agent makes it dearer."""
    world, (here, there) = fleet("a", "b")
    demands = Demands(strategy=Strategy.PERFORMANCE)
    (task,) = world.submit(max_attempts=3, demands=demands)
    (first,) = [agent for agent in (here, there) if agent.held]
    second = there if first is here else here
    world.start(first, world.ref(first, task))
    world.fail(first, world.ref(first, task))
    world.do(AgentOrdered(first.id, AgentOrder.PAUSE, world.replies.append))
    world.wait(3)
    world.complete(second, world.ref(second, task))
    rates = {name: world.state.agents[name].measured["m:f"].failure_rate for name in "ab"}
    assert rates == {first.id: pytest.approx(0.2), second.id: 0.0}


def test_tasks_of_one_run_are_spread() -> None:
    """They keep apart from each other, and not from others of their type."""
    world = World()
    for name in "ab":
        world.connect(name, 4)
    world.submit(1)
    (crowded,) = [agent for agent in world.agents.values() if agent.held]
    spread = Demands(spread=True)
    made = [member(key)._replace(task_id=f"r-{key}") for key in "xyz"]
    made = [one._replace(spec=replace(one.spec, demands=spread)) for one in made]
    world.submit_members(*made)
    counts = sorted(sum(ref.task_id.startswith("r-") for ref in agent.held) for agent in world.agents.values())
    assert counts == [1, 2]
    assert len(crowded.held) >= 2


def test_a_class_is_forgotten_with_its_last_strand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that share a need, and strands that share a class, go one by one."""
    monkeypatch.setattr(queue, "CLASSES_KEPT", 0)
    monkeypatch.setattr(queue, "LANES_KEPT", 0)
    world = World()
    demands = [Demands(claims=(Claim(name),)) for name in "xy"]
    for submitter in "pq":
        for one in demands:
            world.submit(2, demands=one, submitter=submitter)
    agent = world.connect("a", 9)
    assert len(world.state.queue.needs) == 1
    for _ in range(4):
        for task in held(world, agent):
            world.complete(agent, world.ref(agent, task))
            world.do(Ticked())
    assert len(world.ended) == 8
    assert len(world.state.queue.classes) <= 1
    assert len(world.state.queue.needs) == len(world.state.queue.classes)


# --- schedules -------------------------------------------------------------------------------------------------------


def test_an_order_that_holds_already_changes_no_schedule() -> None:
    """Resuming what runs and pausing what is paused: the answer is the schedule as it is."""
    clockwork = Clockwork()
    clockwork.every(10)
    before = len(clockwork.world.rows)
    assert clockwork.order(ScheduleOrder.RESUME).next_us == clockwork.schedule.next_us
    assert len(clockwork.world.rows) == before
    assert clockwork.order(ScheduleOrder.PAUSE).is_paused
    assert clockwork.order(ScheduleOrder.PAUSE).is_paused


def test_a_replacement_that_has_no_room_leaves_what_runs() -> None:
    """REPLACE cancels the earlier work only once the later one is in."""
    clockwork = Clockwork(CoreSettings(queue_depth_max=1))
    clockwork.world.connect("a")
    clockwork.every(10, overlap=Overlap.REPLACE)
    clockwork.tick(11)
    (task,) = clockwork.world.state.tasks
    clockwork.tick(10)
    assert list(clockwork.world.state.tasks) == [task]
    assert not clockwork.world.agents["a"].cancelled
    assert clockwork.counts() == (1, 0)


def test_a_time_that_waits_for_earlier_work_waits_after_a_start() -> None:
    """QUEUE: what was to come after the work of an earlier time comes after it."""
    clockwork = Clockwork(CoreSettings(suspect_after_us=10**12))
    world = clockwork.world
    agent = world.connect("a")
    clockwork.every(10, overlap=Overlap.QUEUE)
    clockwork.tick(21)
    schedule = clockwork.schedule
    assert schedule.queued_us
    world.state.schedules.waited_for.clear()
    restore(world.state, Effects(), [schedule])
    assert world.state.schedules.waited_for == {schedule.last_id: schedule.key}
    (ref,) = agent.held
    world.complete(agent, ref)
    clockwork.step(Ticked())
    assert clockwork.counts() == (2, 0)


def test_a_schedule_is_looked_at_once_for_one_time() -> None:
    """Waking it twice for the same moment is once."""
    clockwork = Clockwork()
    clockwork.every(10)
    book, schedule = clockwork.world.state.schedules, clockwork.schedule
    count = len(book.wakes)
    book.wake(schedule, schedule.wake_us)
    assert len(book.wakes) == count
    book.wake(schedule, schedule.wake_us + 1)
    assert len(book.wakes) == count + 1


def test_states_keep_what_they_are_moved_to() -> None:
    """A step to where something is already is no step, and no error."""
    agent = Agent("a", "m")
    move_admin(agent, Admin.ACTIVE)
    move_breaker(agent.breaker, BreakerState.CLOSED)
    assert (agent.admin, agent.breaker.state) == (Admin.ACTIVE, BreakerState.CLOSED)
