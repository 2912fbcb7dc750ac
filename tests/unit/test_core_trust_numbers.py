"""The numbers of trust and of progress, worked out by hand: when breakers open, who stands out, how far a run is."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.model import Attempt, Breaker, System
from outrider_coordinator.core.runs import progress
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Demands, Spec
from outrider_coordinator.core.state import TimerKind
from outrider_coordinator.core.states import AttemptState, BreakerState, EventType, Reason
from outrider_coordinator.core.trust import blame, breaker, systems
from outrider_coordinator.core.trust.samples import Tally, Window
from support.core_world import World, member
from support.telling import begin

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
SETTINGS = CoreSettings(breaker_failures=3, breaker_samples_min=6, breaker_window_us=800)


def attempt(number: int = 1, fence: int = 7) -> Attempt:
    """A try of task t1."""
    return Attempt("t1", number, "a", fence, AttemptState.STARTED, 0)


def alone(settings: CoreSettings = SETTINGS) -> tuple[World, Breaker]:
    """An agent and its breaker."""
    world = World(settings)
    world.connect("a")
    return world, world.state.agents["a"].breaker


def timers(world: World, kind: TimerKind) -> list[tuple[int, str, str]]:
    """When timers of a kind are due, and what for."""
    return sorted((timer[0], timer[3], timer[4]) for timer in world.state.timers if timer[2] is kind)


# --- breakers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("opened_count", "wait_s"), [(0, 30), (1, 60), (2, 120), (4, 480), (5, 600), (99, 600)])
def test_a_breaker_opens_for_longer_each_time(opened_count: int, wait_s: int) -> None:
    """Twice as long as before, up to ten minutes; what was offered from now on is news."""
    world, known = alone(CoreSettings())
    known.opened_count, effects = opened_count, Effects()
    breaker.trip(world.state, effects, known, Reason.AGENT_LOST, culprit="t9")
    assert known.reset_us == world.now_us + wait_s * SECOND_US
    assert (known.state, known.opened_count, known.culprit) == (OPEN, opened_count + 1, "t9")
    assert known.opened_fence == world.state.fence_next
    assert timers(world, TimerKind.BREAKER) == [(known.reset_us, "a", "")]
    (event,) = effects.events
    assert (event.type, event.agent_id, event.reason, event.text) == (
        EventType.AGENT_BREAKER,
        "a",
        Reason.AGENT_LOST,
        "OPEN",
    )


@pytest.mark.parametrize(
    ("made", "timer", "text"),
    [
        (Breaker("a", "m:f"), ("a", "m:f"), "m:f: OPEN"),
        (Breaker(system="ci"), ("", "ci"), "ci: OPEN"),
    ],
)
def test_breakers_of_kinds_and_systems_are_told_apart(made: Breaker, timer: tuple[str, str], text: str) -> None:
    """By the timer that resets them and by the event."""
    world, _ = alone()
    effects = Effects()
    breaker.trip(world.state, effects, made, Reason.TASK_ERROR)
    assert [due[1:] for due in timers(world, TimerKind.BREAKER)] == [timer]
    assert [(event.text, event.agent_id) for event in effects.events] == [(text, made.agent_id)]
    assert list(effects.breakers) == [made.key]


def test_failures_in_a_row_open_a_breaker() -> None:
    """As many as the setting says; a success between begins anew."""
    world, known = alone()
    for _ in range(2):
        breaker.failed(world.state, Effects(), known, Reason.TASK_ERROR)
    breaker.passed(world.state, Effects(), known, attempt())
    assert known.failures == 0
    for _ in range(2):
        breaker.failed(world.state, Effects(), known, Reason.TASK_ERROR)
    assert known.state is CLOSED
    breaker.failed(world.state, Effects(), known, Reason.TASK_ERROR)
    assert known.state is OPEN


@pytest.mark.parametrize(("passes", "state"), [(3, OPEN), (4, CLOSED), (2, CLOSED)])
def test_the_rate_of_failures_opens_a_breaker(passes: int, state: BreakerState) -> None:
    """Half of at least six in the window."""
    world, known = alone(CoreSettings(breaker_failures=9, breaker_samples_min=6))
    breaker.failed(world.state, Effects(), known, Reason.TASK_ERROR)
    for _ in range(passes):
        breaker.passed(world.state, Effects(), known, attempt())
    for _ in range(2):
        breaker.failed(world.state, Effects(), known, Reason.TASK_ERROR)
    assert known.state is state


def test_a_breaker_forgets_once_nothing_failed_in_its_window() -> None:
    """A success after the window has slid past the last failure."""
    world, known = alone()
    breaker.failed(world.state, Effects(), known, Reason.TASK_ERROR)
    world.state.now_us += 700
    breaker.passed(world.state, Effects(), known, attempt())
    assert known.window is not None
    world.state.now_us += 200
    breaker.passed(world.state, Effects(), known, attempt())
    assert known.window is None
    assert breaker.is_quiet(known)


def test_only_news_counts_on_trial() -> None:
    """What was offered before it opened says nothing, save the last probe; two that pass close it."""
    world, known = alone()
    breaker.trip(world.state, Effects(), known, Reason.TASK_ERROR)
    known.state, known.opened_fence = HALF_OPEN, 10
    breaker.passed(world.state, Effects(), known, attempt(fence=9))
    breaker.failed(world.state, Effects(), known, Reason.TASK_ERROR)
    assert (known.state, known.successes) == (HALF_OPEN, 0)
    breaker.passed(world.state, Effects(), known, attempt(fence=10))
    assert (known.state, known.successes, world.state.placement_is_due) == (HALF_OPEN, 1, True)
    known.tested = ("t1", 3)
    breaker.passed(world.state, Effects(), known, attempt(3, fence=1))
    assert (known.state, known.opened_count, known.reset_us, known.window) == (CLOSED, 0, 0, None)
    breaker.trip(world.state, Effects(), known, Reason.TASK_ERROR)
    known.state = HALF_OPEN
    breaker.failed(world.state, Effects(), known, Reason.TASK_ERROR, news=True, culprit="t5")
    assert (known.state, known.culprit, known.opened_count) == (OPEN, "t5", 2)


def test_a_reset_comes_at_its_time_and_not_before() -> None:
    """A timer of an earlier opening means nothing; a system is looked at again in case nobody becomes its probe."""
    world, known = alone()
    world.state.systems["ci"] = System(Breaker(system="ci"), is_down=True)
    for one, name, key in ((known, "a", ""), (world.state.systems["ci"].breaker, "", "ci")):
        breaker.trip(world.state, Effects(), one, Reason.TASK_ERROR)
        world.state.now_us = one.reset_us - 1
        breaker.reset_time_came(world.state, Effects(), name, key)
        assert one.state is OPEN
        world.state.now_us = one.reset_us
        breaker.reset_time_came(world.state, Effects(), name, key)
        assert one.state is HALF_OPEN
    assert (world.state.now_us + world.state.settings.probe_time_us, "", "ci") in timers(world, TimerKind.BREAKER)
    breaker.reset_time_came(world.state, Effects(), "nobody", "")
    breaker.reset_time_came(world.state, Effects(), "", "mail")
    assert breaker.find(world.state, "a", "m:f") is None


def test_kinds_share_one_breaker_once_too_many_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CLOSED one makes room, the one that was used least recently; without any the agent's own stands for it."""
    monkeypatch.setattr(breaker, "TYPES_MAX", 2)
    world, own = alone()
    agent = world.state.agents["a"]
    first, second = breaker.of_type(agent, "x"), breaker.of_type(agent, "y")
    assert breaker.of_type(agent, "x") is first
    assert breaker.of_type(agent, "z") is not own
    assert list(agent.type_breakers) == ["x", "z"]
    assert second.kind == "y"
    for known in agent.type_breakers.values():
        known.state = OPEN
    assert breaker.of_type(agent, "w") is own
    assert breaker.of_type(agent, "z") is agent.type_breakers["z"]


# --- blame -----------------------------------------------------------------------------------------------------------


def tallied(own: tuple[int, int], others: tuple[int, int], least: int = 10) -> World:
    """Successes and failures of agent a, and of all others, for one kind of work."""
    world = World(CoreSettings(breaker_samples_min=least))
    world.connect("a")
    tally = Tally(0, Window(10**9), {"a": Window(10**9)})
    for window, counts in ((tally.agents["a"], own), (tally.fleet, own), (tally.fleet, others)):
        for failed, count in enumerate(counts):
            for _ in range(count):
                window.add(world.now_us, failed=bool(failed))
    world.state.tallies["m:f"] = tally
    return world


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        ((0, 10), (50, 0), True),
        ((0, 9), (50, 0), False),
        ((0, 10), (9, 0), False),
        ((0, 10), (10, 0), True),
        ((0, 10), (5, 5), False),
        ((5, 5), (50, 0), True),
        ((10, 2), (50, 0), False),
        ((0, 20), (0, 50), False),
    ],
)
def test_who_stands_out(own: tuple[int, int], others: tuple[int, int], expected: bool) -> None:
    """Far above all others together, with enough samples on both sides."""
    world = tallied(own, others)
    assert blame._stands_out(world.state, world.state.agents["a"], "m:f") is expected


def test_tallies_are_begun_by_a_failure_and_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first failure only begins one; beyond the bound the one that failed least recently goes."""
    monkeypatch.setattr(blame, "COUNTS_MAX", 2)
    world, _ = alone()
    agent = world.state.agents["a"]
    assert not blame._counted_failure(world.state, agent, "x")
    assert world.state.tallies["x"].fleet.totals(world.now_us) == (0, 0)
    assert blame._counted_failure(world.state, agent, "x")
    assert world.state.tallies["x"].agents["a"].totals(world.now_us) == (0, 1)
    assert not blame._counted_failure(world.state, agent, "y")
    assert blame._counted_failure(world.state, agent, "x")
    assert not blame._counted_failure(world.state, agent, "z")
    assert list(world.state.tallies) == ["x", "z"]
    blame._count_success(world.state, agent, "x")
    assert world.state.tallies["x"].fleet.totals(world.now_us) == (1, 2)
    blame._count_success(world.state, agent, "new")
    assert list(world.state.tallies) == ["x", "z"]


def test_a_tally_ends_once_nothing_fails_any_more() -> None:
    """A window after it began, with a success and no failure left in it."""
    world, _ = alone()
    agent = world.state.agents["a"]
    blame._counted_failure(world.state, agent, "x")
    world.state.now_us += 800
    blame._count_success(world.state, agent, "x")
    assert "x" in world.state.tallies
    world.state.now_us += 1
    blame._count_success(world.state, agent, "x")
    assert "x" not in world.state.tallies


# --- outside systems -------------------------------------------------------------------------------------------------


def complaints(*found: tuple[str, str]) -> tuple[World, System | None]:
    """Tasks that failed on a system, each on an agent."""
    world = World(CoreSettings(system_failures=3))
    for name in ("a", "b", "c"):
        world.connect(name)
    made = {name: world.submit(demands=Demands(systems=("ci",)))[0] for name in sorted({task for task, _ in found})}
    for name, agent_id in found:
        record = world.state.tasks[made[name]]
        known = world.state.agents[agent_id]
        systems.failed(world.state, Effects(), known, record, attempt(), Reason.TASK_ERROR)
    return world, world.state.systems.get("ci")


@pytest.mark.parametrize(
    ("found", "is_down"),
    [
        ([("x", "a"), ("y", "a")], False),
        ([("x", "a"), ("y", "a"), ("z", "a")], True),
        ([("x", "a"), ("y", "b")], False),
        ([("x", "a"), ("x", "b"), ("y", "c")], True),
        ([("x", "a"), ("x", "b"), ("x", "c")], False),
        ([("x", "a"), ("y", "a"), ("y", "a")], False),
    ],
)
def test_a_system_is_down_when_enough_complain(found: list[tuple[str, str]], is_down: bool) -> None:
    """Three tasks, or two from three agents; one task alone may be at fault itself."""
    _, system = complaints(*found)
    assert system is not None
    assert (system.is_down, system.breaker.state is OPEN) == (is_down, is_down)
    assert bool(system.failing) is not is_down


def test_other_reasons_do_not_accuse_a_system() -> None:
    """Nobody complains of a system whose own result was too large."""
    world, _ = complaints(("x", "a"))
    record = next(iter(world.state.tasks.values()))
    for reason in (Reason.RESULT_TOO_LARGE, Reason.WORKER_DIED):
        before = dict(world.state.systems["ci"].failing)
        assert not systems.failed(world.state, Effects(), world.state.agents["b"], record, attempt(), reason)
        assert world.state.systems["ci"].failing == before


def test_complaints_are_few_and_young(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of before the window are forgotten, and the oldest of too many."""
    world, system = complaints(("x", "a"), ("y", "b"))
    assert system is not None
    window_us = world.state.settings.breaker_window_us
    world.state.now_us += window_us
    systems._forget_old(world.state, system)
    assert len(system.failing) == 2
    monkeypatch.setattr(systems, "COMPLAINTS_MAX", 1)
    systems._forget_old(world.state, system)
    assert [agent_id for _, agent_id in system.failing] == ["b"]
    world.state.now_us += 1
    systems._forget_old(world.state, system)
    assert not system.failing


def test_a_system_says_how_long_it_stays_down() -> None:
    """Until one task tries again, and which one does."""
    world = World()
    known = Breaker(system="ci", state=OPEN, reset_us=world.state.now_us + 12 * SECOND_US)
    text = "system 'ci' is down: its circuit breaker is OPEN, one task tries again in 12 s"
    assert systems._describe(world.state, known) == text
    world.state.now_us += 20 * SECOND_US
    assert systems._describe(world.state, known).endswith("in 0 s")
    known.probe = ("t1", 2)
    assert systems._describe(world.state, known) == "system 'ci' was down; task t1 is seeing whether it works again"


# --- progress --------------------------------------------------------------------------------------------------------


def look(world: World, run_id: str = "run") -> progress.Sight:
    """What is seen of a run."""
    run, sight = world.state.runs[run_id], progress.Sight()
    progress.look(world.state, run, [*run.members.values(), "gone"], world.now_us, sight)
    return sight


def test_what_is_left_of_a_run_is_seen_task_by_task() -> None:
    """What its kind takes less what it has run; what is said of it; unknown where nothing is known."""
    world = World()
    agent = world.connect("a", 2)
    world.state.durations_us["m:f"] = 10.0 * SECOND_US
    guess = Spec(b"", "m:g", True, estimated_us=4 * SECOND_US, weight=3.0)
    members = [
        member("a"),
        member("b", "a"),
        member("c", phase=1)._replace(spec=guess),
        member("d")._replace(spec=Spec(b"", "m:unknown", True)),
    ]
    ids = world.submit_members(*members)
    begin(world, agent)
    start_us = world.now_us
    world.now_us = world.state.now_us = start_us + 3 * SECOND_US
    world.state.tasks[ids["a"]].progress = b"half"
    sight = look(world)
    left = {one.id: (one.phase, one.left_us) for one in sight.open}
    assert left == {
        "r-a": (0, 7 * SECOND_US),
        "r-b": (0, 10 * SECOND_US),
        "r-c": (1, 4 * SECOND_US),
        "r-d": (0, progress._UNKNOWN_US),
    }
    assert [one.waiting_for for one in sight.open if one.id == "r-b"] == [("r-a",)]
    assert (sight.lanes, sight.agents, sight.reports) == (2, {"a"}, [(1.0, b"half")])
    assert (sight.busy_us, sight.first_start_us) == (6 * SECOND_US, start_us)
    world.now_us = world.state.now_us = start_us + 60 * SECOND_US
    assert next(one.left_us for one in look(world).open if one.id == "r-a") == 0


@pytest.mark.parametrize(
    ("max_parallel", "busy", "expected"), [(0, 0, 3), (2, 0, 2), (0, 2, 2), (1, 2, 1), (9, 0, 3), (0, 9, 3)]
)
def test_lanes_are_what_runs_or_else_what_could(max_parallel: int, busy: int, expected: int) -> None:
    """Live attempts, else the slots of those that are there; within the run's own bound and its open tasks."""
    world = World()
    world.connect("a", 4)
    world.connect("b", 8)
    world.disconnect(world.agents["b"])
    world.submit_members(member("x"), max_parallel=max_parallel)
    sight = progress.Sight(lanes=busy, agents={"a"} if busy else set())
    sight.open = [progress.OpenTask(str(number), 0, 1, ()) for number in range(3)]
    assert progress.lanes(world.state, world.state.runs["run"], sight) == expected
    sight.open = []
    assert progress.lanes(world.state, world.state.runs["run"], sight) == 1


def estimate(*tasks: tuple[str, int, int, tuple[str, ...]], lanes: int = 2) -> int | None:
    """The estimate for (id, phase, what is left, what it waits for)."""
    sight = progress.Sight()
    sight.open = [progress.OpenTask(*one) for one in tasks]
    return progress.estimate_us(sight, lanes)


def test_an_estimate_is_the_longest_way_or_the_work_over_the_lanes() -> None:
    """Phase by phase; what is unknown counts as the mean of what is known; without any there is none."""
    none: tuple[str, ...] = ()
    assert estimate(("a", 0, 10, none), ("b", 0, 20, ("a",)), ("c", 0, 5, ("a",))) == 30
    assert estimate(("a", 0, 10, none), ("b", 0, 10, none), ("c", 0, 10, none), ("d", 0, 11, none)) == 20
    assert estimate(("a", 0, 10, none), ("b", 1, 7, none), ("c", 1, 8, none)) == 18
    assert estimate(("a", 0, 10, none), ("b", 0, -1, ("a",)), ("c", 0, 20, none)) == 25
    assert estimate(("a", 0, 10, ("elsewhere",)), lanes=1) == 10
    assert estimate(("a", 0, 4, none), ("b", 0, 6, none), ("c", 0, 5, ("a", "b")), ("d", 0, 1, ("c",)), lanes=9) == 12
    assert estimate(("a", 0, -1, none)) is None
    assert estimate() is None


def test_what_has_not_started_has_not_run() -> None:
    """An attempt that was only offered is a lane and no work yet."""
    world = World()
    world.connect("a", 2)
    world.submit_members(member("x"))
    world.now_us += SECOND_US
    sight: Any = look(world)
    assert (sight.lanes, sight.busy_us, sight.first_start_us) == (1, 0, 0)
