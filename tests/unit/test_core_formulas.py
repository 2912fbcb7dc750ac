"""The numbers of the core, each worked out by hand: budgets, leases, patience, alarms, predictions, chance."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.agents import epochs, lease, liveness
from outrider_coordinator.core.attempts import deadlines, retry, stopping
from outrider_coordinator.core.attempts.retry_budget import SAMPLE_US, WINDOW_US, RetryBudget
from outrider_coordinator.core.chance import Chance
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.explain import foresight, position
from outrider_coordinator.core.explain.position import Ahead
from outrider_coordinator.core.model import Agent
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Spec
from outrider_coordinator.core.states import Connectivity, EventType, Intent
from support.core_world import ModelAgent, World
from support.telling import begin

# --- retries ---------------------------------------------------------------------------------------------------------


def test_retries_are_a_tenth_of_the_window_and_a_floor() -> None:
    """So many as were dispatched within the last minute allow, and the floor, whatever was before."""
    budget = RetryBudget(3)
    assert budget.allowance(0) == 3
    budget.dispatched = 50
    assert budget.allowance(1) == 8
    budget.sample(SAMPLE_US - 1)
    budget.sample(SAMPLE_US)
    assert budget.samples[-1] == (SAMPLE_US, 50, 0)
    assert len(budget.samples) == 2
    budget.dispatched = 70
    assert budget.allowance(WINDOW_US) == 10
    assert budget.samples[0] == (0, 0, 0)
    assert budget.allowance(WINDOW_US + SAMPLE_US) == 5
    assert budget.samples[0] == (SAMPLE_US, 50, 0)


def test_a_retry_within_the_budget_waits_for_nothing_more() -> None:
    """One after the other until the allowance is used up; then turns, evenly over the window."""
    budget = RetryBudget(2)
    assert [budget.take(name, 7, 5) for name in "ab"] == [7, 7]
    assert budget.retried == 2
    assert [budget.take(name, 7, 5) for name in "cd"] == [5 + WINDOW_US // 2, 5 + 2 * (WINDOW_US // 2)]
    assert budget.delayed == {"c": 5 + WINDOW_US // 2, "d": 5 + 2 * (WINDOW_US // 2)}
    assert budget.take("c", 7, 5) == 5 + 3 * (WINDOW_US // 2)
    assert list(budget.delayed) == ["d", "c"]


def test_a_turn_at_the_very_time_it_would_be_ready_is_no_delay() -> None:
    """Whoever waits for longer anyway does not stand in line."""
    budget = RetryBudget(1)
    assert budget.take("a", 0, 0) == 0
    assert budget.take("b", WINDOW_US, 0) == WINDOW_US
    assert budget.delayed == {}
    assert budget.take("c", 2 * WINDOW_US - 1, 0) == 2 * WINDOW_US
    assert budget.delayed == {"c": 2 * WINDOW_US}
    assert budget.take("d", 2 * WINDOW_US, 2 * WINDOW_US) == 2 * WINDOW_US, "the turn is over: within the budget again"


def test_one_agent_a_window_is_exempt() -> None:
    """The first one that is lost, until a window after that."""
    budget = RetryBudget(1)
    assert budget.is_exempt("a", 5)
    assert not budget.is_exempt("b", 5 + WINDOW_US - 1)
    assert budget.is_exempt("a", 5 + WINDOW_US - 1)
    assert budget.is_exempt("b", 5 + WINDOW_US)
    assert not budget.is_exempt("a", 5 + WINDOW_US)


@pytest.mark.parametrize(("count", "expected"), [(0, 2), (1, 2), (2, 6), (3, 18), (4, 20), (9, 20)])
def test_a_backoff_grows_and_is_capped(count: int, expected: int) -> None:
    """The first wait, then so many times as much each time, up to the most."""
    spec = Spec(b"", "", True, initial_backoff_us=2, backoff_multiplier=3.0, max_backoff_us=20)
    assert retry.backoff_us(spec, count) == expected


@pytest.mark.parametrize(("initial_us", "wait_us"), [(5, 20), (0, 0)])
def test_a_backoff_beyond_all_numbers_is_the_longest_one(initial_us: int, wait_us: int) -> None:
    """However fast it was to grow: no number of tries overflows it, and nothing stays nothing."""
    spec = Spec(b"", "", True, initial_backoff_us=initial_us, backoff_multiplier=1e300, max_backoff_us=20)
    assert retry.backoff_us(spec, 999) == wait_us


# --- leases, epochs, patience ----------------------------------------------------------------------------------------


def test_a_lease_is_three_heartbeats_and_some_or_fifteen_seconds() -> None:
    """For an agent that reports every two seconds fifteen, for one that reports every ten thirty-five."""
    assert [lease.duration_us(seconds * SECOND_US) for seconds in (2, 10)] == [15 * SECOND_US, 35 * SECOND_US]


def online(name: str = "a", settings: CoreSettings | None = None) -> tuple[World, Agent]:
    """One agent that is there."""
    world = World(settings)
    world.connect(name)
    return world, world.state.agents[name]


def test_a_lease_is_over_a_tenth_after_its_end() -> None:
    """From the last one that was sent, or from the start of the coordinator."""
    world, agent = online()
    (task,) = world.submit(exclusive=True)
    record = world.state.tasks[task]
    agent.lease_us = 3 * SECOND_US
    assert lease.over_us(world.state, agent) == 3 * SECOND_US + 16_500_000
    agent.lease_us = 0
    over_us = lease.over_us(world.state, agent)
    assert over_us == world.state.started_us + 16_500_000
    world.state.now_us = over_us - 1
    assert lease.keeps(world.state, agent, record)
    world.state.now_us = over_us
    assert not lease.keeps(world.state, agent, record)


def test_a_process_knows_what_it_was_offered_itself() -> None:
    """From its first fence on; what was before may run until every lease of before is over."""
    world, agent = online()
    (task,) = world.submit()
    attempt = world.state.tasks[task].attempt
    assert attempt is not None
    agent.first_fence = attempt.fence
    assert lease.knows(agent, attempt)
    assert lease.unlisted_over_us(world.state, agent, attempt) == 0
    agent.first_fence, agent.unlisted_over_us = attempt.fence + 1, 0
    assert not lease.knows(agent, attempt)
    assert lease.unlisted_over_us(world.state, agent, attempt) == world.state.started_us + 16_500_000
    agent.unlisted_over_us = 10**9
    assert lease.unlisted_over_us(world.state, agent, attempt) == 10**9


def test_numbers_of_a_start_stand_above_those_before() -> None:
    """A million million of them for each start."""
    assert [epochs.first_number(epoch) for epoch in (0, 1, 2)] == [1, (1 << 40) + 1, (2 << 40) + 1]


def test_a_large_fleet_reports_less_often() -> None:
    """Five hundred heartbeats a second are enough: from a thousand agents on each takes its time."""
    world, agent = online()
    world.state.agents.update({str(number): agent for number in range(2999)})
    assert liveness.heartbeat_us(world.state) == 6 * SECOND_US
    agent.heartbeat_us = 3 * SECOND_US
    assert liveness.patience_us(world.state, agent) == 9 * SECOND_US
    agent.heartbeat_us = SECOND_US
    assert liveness.patience_us(world.state, agent) == 6 * SECOND_US


def test_verdicts_are_held_until_it_has_had_its_time() -> None:
    """After a start, after a pause of ours, and during an alarm; not a moment longer."""
    world, agent = online()
    state, start_us = world.state, world.state.started_us
    agent.session_start_us = 0
    assert liveness.held_until_us(state, agent) == start_us + 25 * SECOND_US
    state.now_us = start_us + 25 * SECOND_US
    assert liveness.held_until_us(state, agent) == 0
    state.watch.paused_us = state.now_us
    assert liveness.held_until_us(state, agent) == state.now_us + 25 * SECOND_US
    agent.session_start_us = state.now_us
    assert liveness.held_until_us(state, agent) == 0
    state.watch.alarm_until_us = state.now_us + 1
    assert liveness.held_until_us(state, agent) == state.now_us + 1
    assert [liveness.due_us(state, 100), liveness.due_us(state, 100)] == [50_100, 100_100]


def test_a_name_is_taken_over_twice_and_not_three_times_in_ten_minutes() -> None:
    """What was longer ago does not count, to the microsecond."""
    world, agent = online()
    late_us = 600 * SECOND_US
    for at_us, expected in ((0, False), (late_us, False), (late_us + 1, False), (late_us + 9, True)):
        world.state.now_us = at_us
        assert liveness.taken_over(world.state, Effects(), agent) is expected
    assert agent.is_quarantined
    assert agent.takeovers == [late_us, late_us + 1, late_us + 9]


# --- the alarm -------------------------------------------------------------------------------------------------------


def fleet(count: int) -> tuple[World, list[ModelAgent]]:
    """So many agents that are there."""
    world = World()
    return world, [world.connect(f"a{number:02}") for number in range(count)]


@pytest.mark.parametrize(
    ("count", "silent", "alarmed"),
    [(2, 2, False), (3, 2, False), (3, 3, True), (6, 3, True), (7, 3, False), (7, 4, True)],
)
def test_an_alarm_is_for_half_of_the_fleet_and_three_at_least(count: int, silent: int, alarmed: bool) -> None:
    """Of two nobody is suspicious of us, of seven four must be gone."""
    world, agents = fleet(count)
    for agent in agents[:silent]:
        world.disconnect(agent)
    assert world.state.watch.is_alarmed is alarmed
    assert len(world.of(EventType.FLEET_ALARM)) == alarmed


@pytest.mark.parametrize(("apart_s", "alarmed"), [(5, True), (5.01, False)])
def test_silence_counts_together_within_ten_seconds(apart_s: float, alarmed: bool) -> None:
    """Three that go one after the other within the window are one event, to the microsecond."""
    world, agents = fleet(3)
    for agent in agents:
        world.disconnect(agent)
        world.now_us += int(apart_s * SECOND_US)
    assert world.state.watch.is_alarmed is alarmed


def test_an_alarm_names_numbers_and_what_it_holds() -> None:
    """How many of how many, for how long; and at its end how many are missing still."""
    world, agents = fleet(8)
    for agent in agents[:5]:
        world.disconnect(agent)
    (alarm,) = world.of(EventType.FLEET_ALARM)
    assert alarm.text.startswith("4 of 8 agents went silent within 10 s: their work is not given away for 60 s;")
    assert world.state.watch.alarm_until_us == world.now_us + 60 * SECOND_US
    world.connect(agents[0].id)
    world.wait(59)
    assert not world.of(EventType.FLEET_RECOVERED)
    world.wait(2)
    (end,) = world.of(EventType.FLEET_RECOVERED)
    assert end.text.startswith("4 agents are still missing; their work goes elsewhere, at most 20 attempts a second")


def test_an_alarm_ends_once_all_are_back_that_it_was_for() -> None:
    """Not before the last of them, in whatever order they come."""
    world, agents = fleet(4)
    for agent in agents[:3]:
        world.disconnect(agent)
    for agent in (agents[1], agents[0]):
        world.connect(agent.id)
        assert world.state.watch.is_alarmed
    world.connect(agents[2].id)
    assert not world.state.watch.is_alarmed
    assert [event.text for event in world.of(EventType.FLEET_RECOVERED)] == ["every agent is back"]
    assert (world.state.watch.alarm_until_us, len(world.state.watch.silent)) == (0, 0)
    world.wait(70)
    assert len(world.of(EventType.FLEET_RECOVERED)) == 1


def test_work_that_was_held_back_goes_at_a_stated_pace() -> None:
    """One verdict each twentieth of a second, from the end of the alarm on."""
    world, agents = fleet(4)
    tasks = world.submit(4)
    for agent in agents:
        begin(world, agent)
    for agent in agents[:3]:
        world.disconnect(agent)
    start_us = world.now_us
    world.wait(62)
    ends = [event.time_us for event in world.log if event.type == EventType.TASK_RETRYING and event.task_id in tasks]
    held = [timer[0] for timer in world.state.timers]
    assert len(ends) == 3
    assert all(end >= start_us + 60 * SECOND_US for end in ends)
    assert held


def test_in_a_large_loss_we_look_now_and_then() -> None:
    """After a look that found too few the next comes when there are an eighth more."""
    world, agents = fleet(40)
    looks = []
    for agent in agents[:19]:
        world.disconnect(agent)
        looks.append(world.state.watch.look_at)
    assert looks[:4] == [3, 3, 4, 5]
    assert looks[8:] == [10, 11, 12, 13, 14, 15, 16, 18, 18, 20, 20]
    assert not world.state.watch.is_alarmed


# --- times of tasks --------------------------------------------------------------------------------------------------


def test_what_is_left_of_a_deadline_is_never_nothing() -> None:
    """At least a microsecond: 0 would mean that there is none."""
    world = World()
    (task,) = world.submit(deadline_us=100)
    record = world.state.tasks[task]
    assert deadlines.left_us(world.state, record) == 100
    for passed_us, expected in ((98, 2), (99, 1), (100, 1), (500, 1)):
        world.state.now_us = record.created_us + passed_us
        assert deadlines.left_us(world.state, record) == expected


@pytest.mark.parametrize(
    ("before", "then", "expected"),
    [
        (Intent.NONE, Intent.MOVE, True),
        (Intent.MOVE, Intent.DEADLINE, True),
        (Intent.MOVE, Intent.PREEMPT, False),
        (Intent.DEADLINE, Intent.MOVE, False),
        (Intent.DEADLINE, Intent.WAIT_EXPIRED, False),
    ],
)
def test_only_an_end_outranks_a_move(before: Intent, then: Intent, expected: bool) -> None:
    """What ends the task goes over what does not; otherwise the first order stands."""
    assert stopping._outranks(then, before) is expected


# --- predictions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free_us", "duration_us", "count", "expected_us"),
    [
        ([0.0], 10_000.0, 0, 0.0),
        ([0.0], 10_000.0, 1, 10_000.0),
        ([0.0, 0.0], 10_000.0, 1, 0.0),
        ([0.0, 0.0], 10_000.0, 2, 10_000.0),
        ([4_000.0], 10_000.0, 0, 4_000.0),
        ([4_000.0, 9_000.0], 10_000.0, 1, 9_000.0),
        ([4_000.0, 9_000.0], 10_000.0, 2, 14_000.0),
        ([7_000.0, 8_000.0], 0.0, 50, 7_000.0),
    ],
)
def test_slots_start_one_after_the_other(
    free_us: list[float], duration_us: float, count: int, expected_us: float
) -> None:
    """The formula of the module, to the millisecond."""
    assert foresight._start_us(free_us, duration_us, count) == pytest.approx(expected_us, abs=1000)
    if expected_us == 0.0:
        assert foresight._start_us(free_us, duration_us, count) == 0.0


def test_starts_are_counted_to_the_end() -> None:
    """A slot that becomes free at the very moment starts one then, and one more each duration after."""
    assert [foresight._starts([5.0, 7.0], 10.0, until) for until in (4.9, 5.0, 6.9, 7.0, 15.0, 17.0)] == [
        0,
        1,
        1,
        2,
        3,
        4,
    ]


def predicted(world: World, names: str, *before: Ahead) -> int | None:
    """Microseconds until a start on these agents."""
    stepping = foresight.start_in_us(world.state, [world.state.agents[name] for name in names], before)
    try:
        while True:
            next(stepping)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # what the generator returns


def test_a_start_is_predicted_from_slots_and_from_what_goes_before() -> None:
    """Means are weighted by how many tasks there are of a kind; what is not known at all is not guessed."""
    world = World()
    agent = world.connect("a", 1)
    world.state.durations_us |= {"m:f": 10.0 * SECOND_US, "m:g": 40.0 * SECOND_US}
    world.submit()
    begin(world, agent)
    world.now_us = world.state.now_us = world.now_us + 4 * SECOND_US
    free_us = 6 * SECOND_US
    assert predicted(world, "a") == free_us
    for before, mean_s in (
        ((Ahead("m:f", 2),), 10),
        ((Ahead("m:f", 2), Ahead("m:g", 1)), 20),
        ((Ahead("m:new", 1, 7 * SECOND_US),), 7),
        ((Ahead("m:f", 1, 7 * SECOND_US),), 10),
    ):
        count = sum(item.tasks for item in before)
        assert predicted(world, "a", *before) == pytest.approx(free_us + count * mean_s * SECOND_US, abs=1000)
    assert predicted(world, "a", Ahead("m:new", 1)) is None
    assert predicted(world, "") is None


def test_what_runs_for_longer_than_its_kind_ends_at_once() -> None:
    """A slot is free at the earliest now; what has not started takes its whole time; what is unknown never ends."""
    world = World()
    agent = world.connect("a", 3)
    world.state.durations_us["m:f"] = 10.0 * SECOND_US
    tasks = [*world.submit(2), *world.submit(kind="m:unknown")]
    world.start(agent, world.ref(agent, tasks[0]))
    world.start(agent, world.ref(agent, tasks[2]))
    world.now_us = world.state.now_us = world.now_us + 30 * SECOND_US
    known = world.state.agents["a"]
    assert foresight._free_us(world.state, known) == [0.0, 10.0 * SECOND_US]
    world.block(agent, world.ref(agent, tasks[0]), "k")
    assert foresight._free_us(world.state, known) == [0.0, 10.0 * SECOND_US]
    known.slots = 5
    assert foresight._free_us(world.state, known) == [0.0, 0.0, 0.0, 10.0 * SECOND_US]


def test_a_rank_is_that_of_another_priority_from_the_start() -> None:
    """A priority more is as much as an aging time earlier."""
    world = World(CoreSettings(aging_us=1000))
    (task,) = world.submit(priority=4)
    record = world.state.tasks[task]
    rank_us = record.rank_us
    assert rank_us is not None
    assert position.place_of(world.state, record).rank_us == rank_us
    assert position.place_of(world.state, record, 7).rank_us == rank_us - 3000
    record.rank_us = None
    world.state.queue.clock_us = 50_000
    assert position.place_of(world.state, record).rank_us == 46_000
    assert position.place_of(world.state, record, 3).rank_us == 47_000


# --- chance ----------------------------------------------------------------------------------------------------------


def test_chance_is_that_of_the_book() -> None:
    """SplitMix64: the first numbers for seed 0 and 1234567 are those that its authors publish."""
    zero, other = Chance(0), Chance(1234567)
    assert [zero.bits() for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [other.bits() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_numbers_below_a_bound_are_the_highest_bits() -> None:
    """Each number below the bound comes up about as often as any other."""
    chance = Chance(0)
    assert [chance.randrange(10) for _ in range(3)] == [8, 4, 0]
    counts = [0] * 5
    for _ in range(5000):
        counts[chance.randrange(5)] += 1
    assert min(counts) > 900


def test_agents_that_are_silent_are_missing_until_they_are_back() -> None:
    """One that left, or was removed, is not missed."""
    world, agent = online()
    assert not liveness._is_missing(world.state, "a")
    agent.connectivity = Connectivity.SUSPECT
    assert liveness._is_missing(world.state, "a")
    assert not liveness._is_missing(world.state, "nobody")
