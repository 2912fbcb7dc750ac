"""Trust where it has its edges: what is one failure, what is taken back, what a reset and a start leave as it was."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.effects import Effects, PushRevoke
from outrider_coordinator.core.events import AgentOrder, AgentOrdered, AttemptsReturned, BreakerReset
from outrider_coordinator.core.model import Breaker
from outrider_coordinator.core.records import PutBreaker
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Demands
from outrider_coordinator.core.states import Reason
from outrider_coordinator.core.trust import breaker
from outrider_coordinator.core.trust.samples import rate_bounds
from support.core_world import ModelAgent, World
from support.restart import restart
from support.trust_world import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    breaker_of,
    fail_on,
    fails_here_passes_there,
    fleet,
    on,
    open_by_rejecting,
    order,
    pass_on,
)


def on_trial(settings: CoreSettings | None = None) -> tuple[World, ModelAgent, Breaker]:
    """An agent whose own breaker is HALF_OPEN and has leased the first probe."""
    world, (agent,) = fleet("a", settings=settings)
    open_by_rejecting(world, agent)
    world.wait(31)
    known = breaker_of(world, "a")
    assert known is not None
    assert known.state is HALF_OPEN
    return world, agent, known


# --- the agent itself ------------------------------------------------------------------------------------------------


def test_a_start_does_not_keep_an_agent_on_trial_for_ever() -> None:
    """What was counted before is not durable; probes that go well after it close the breaker all the same."""
    world, agent, _ = on_trial()
    restart(world)
    world.connect("a", 4, labels={"name": "a"})
    known = breaker_of(world, "a")
    assert known is not None
    assert (known.state, known.window) == (HALF_OPEN, None)
    world.complete(agent, *agent.held)
    pass_on(world, agent)
    assert known.state is CLOSED


@pytest.mark.parametrize(("reason", "is_good"), [(Reason.TASK_ERROR, True), (Reason.TIMED_OUT, False)])
def test_a_probe_whose_own_work_fails_has_shown_that_the_agent_works(reason: Reason, is_good: bool) -> None:
    """The task's own error says so, a timeout says nothing."""
    world, agent, known = on_trial()
    (ref,) = agent.held
    world.start(agent, ref)
    world.fail(agent, ref, reason)
    assert (known.state, known.successes) == (HALF_OPEN, int(is_good))


def test_an_agent_that_is_lost_with_its_probe_is_on_trial_no_more() -> None:
    """Its breaker opens again, for longer."""
    world, agent, known = on_trial()
    world.start(agent, *agent.held)
    world.disconnect(agent)
    world.wait(10)
    assert (known.state, known.opened_count) == (OPEN, 2)


def test_work_that_is_not_listed_and_a_silence_are_two_failures() -> None:
    """However many attempts each takes along; another attempt of the same silence is none more."""
    world, (agent,) = fleet("a")
    for task in world.submit(2, max_attempts=9):
        world.start(agent, world.ref(agent, task))
    world.disconnect(agent)
    agent.held.clear()
    world.connect("a", 4, labels={"name": "a"})
    known = breaker_of(world, "a")
    assert known is not None
    assert known.failures == 1
    world.wait(2)
    assert len(agent.held) == 2
    for ref in list(agent.held):
        world.start(agent, ref)
    world.disconnect(agent)
    world.wait(10)
    assert known.failures == 2


def test_what_is_lost_without_a_silence_is_a_failure_too() -> None:
    """A new session takes over before the old one was missed, and does not list what ran."""
    world, (agent,) = fleet("a")
    (task,) = world.submit(max_attempts=9)
    world.start(agent, world.ref(agent, task))
    agent.held.clear()
    world.connect("a", 4, labels={"name": "a"})
    known = breaker_of(world, "a")
    assert known is not None
    assert known.failures == 1


def test_all_that_was_sent_ahead_is_taken_back_once() -> None:
    """The agent's own breaker takes back whatever kind it is, and nothing is asked for twice."""
    world, (agent,) = fleet("a", slots=1)
    world.state.durations_us.update({"m:f": 10.0, "m:g": 10.0})
    world.connect("a", 1, labels={"name": "a"}, prefetch_credit=4)
    tasks = [*world.submit(2), *world.submit(kind="m:g")]
    world.start(agent, world.ref(agent, tasks[0]))
    for made in (Breaker("a"), Breaker("a", "m:f")):
        effects = Effects()
        breaker.trip(world.state, effects, made, Reason.AGENT_REJECTED)
        world.take(effects)
    assert [send.task_id for send in world.sent if isinstance(send, PushRevoke)] == tasks[1:]


def test_a_probe_of_a_try_that_is_over_is_none() -> None:
    """A breaker read back names an attempt; when its task has another one by now, the lease is free."""
    world, (agent,) = fleet("a")
    (task,) = world.submit()
    world.start(agent, world.ref(agent, task))
    read = Breaker("a", "m:f", state=HALF_OPEN, probe=(task, 7))
    breaker.restored(world.state, read)
    assert read.probe is None
    read = Breaker("a", "m:f", state=HALF_OPEN, probe=(task, 1))
    breaker.restored(world.state, read)
    assert (read.probe, read.tested) == ((task, 1), (task, 1))


# --- kinds of work ---------------------------------------------------------------------------------------------------


def test_one_success_does_not_wash_away_a_kinds_failures() -> None:
    """Its breaker stays as long as failures are in its window, and opens when half of its samples are failures."""
    world, (here, there) = fleet("a", "b")
    for _ in range(4):
        fails_here_passes_there(world, here, there)
        pass_on(world, here)
    known = breaker_of(world, "a", "m:f")
    assert known is not None
    assert known.window is not None
    assert known.window.totals(world.now_us) == (4, 4)
    for _ in range(2):
        fails_here_passes_there(world, here, there)
    assert known.state is OPEN


def test_a_breaker_that_is_withdrawn_waits_as_long_as_before() -> None:
    """Only the opening that the task was to blame for is taken back, and one failure of the agent with the first."""
    world, (agent,) = fleet("a")
    known = breaker.of_type(world.state.agents["a"], "m:f")
    known.opened_count = 3
    breaker.trip(world.state, Effects(), known, Reason.TASK_ERROR, culprit="t")
    breaker.withdraw(world.state, Effects(), known, "another")
    assert (known.state, known.opened_count) == (OPEN, 4)
    breaker.withdraw(world.state, Effects(), known, "t")
    assert (known.state, known.opened_count) == (HALF_OPEN, 3)
    own = world.state.agents[agent.id].breaker
    for _ in range(3):
        breaker.failed(world.state, Effects(), own, Reason.TASK_ERROR)
    known.opened_count = 0
    breaker.trip(world.state, Effects(), known, Reason.TASK_ERROR, culprit="t")
    breaker.withdraw(world.state, Effects(), known, "t")
    assert (known.state, own.failures) == (CLOSED, 2)


def standing_out() -> tuple[World, ModelAgent, ModelAgent]:
    """Agent a has failed at its work so often, and b so seldom, that a's breaker for it is open."""
    world, (here, there) = fleet("a", "b", settings=CoreSettings(breaker_samples_min=5))
    fail_on(world, there)
    for _ in range(8):
        pass_on(world, there)
    while (known := breaker_of(world, "a", "m:f")) is None or known.state is CLOSED:
        fail_on(world, here)
    return world, here, there


def test_who_is_trusted_again_is_compared_from_then_on() -> None:
    """Failures of before the trial are not held against it afterwards; a success while it is trusted keeps counts."""
    world, here, there = standing_out()
    tally = world.state.tallies["m:f"]
    before = tally.agents["b"].totals(world.now_us)
    pass_on(world, there)
    assert tally.agents["b"].totals(world.now_us) == (before[0] + 1, before[1])
    world.wait(31)
    pass_on(world, here)
    assert tally.agents["a"].totals(world.now_us)[1] > 1
    pass_on(world, here)
    assert tally.agents["a"].totals(world.now_us) == (1, 0)
    fail_on(world, here)
    known = breaker_of(world, "a", "m:f")
    assert known is None or known.state is CLOSED


def test_who_was_accused_and_is_trusted_keeps_its_counts() -> None:
    """A success while nothing is open is one more sample and no fresh start."""
    world, (here, there) = fleet("a", "b")
    for _ in range(2):
        fails_here_passes_there(world, here, there)
    known = breaker_of(world, "a", "m:f")
    assert known is not None
    assert known.state is CLOSED
    pass_on(world, here)
    assert world.state.tallies["m:f"].agents["a"].totals(world.now_us) == (1, 1)


def test_a_trial_may_end_when_nobody_counts_any_more() -> None:
    """The kind's comparison began anew without this agent: there is nothing of it to forget."""
    world, here, there = standing_out()
    world.wait(1300)
    pass_on(world, there)
    assert "m:f" not in world.state.tallies
    fail_on(world, there)
    assert list(world.state.tallies["m:f"].agents) == []
    pass_on(world, here)
    world.state.tallies["m:f"].agents.pop("a")
    pass_on(world, here)
    assert breaker_of(world, "a", "m:f") is None


def test_a_task_at_fault_leaves_nothing_in_the_comparison() -> None:
    """Its failures are taken back where they were counted, on each agent and in the fleet."""
    world, agents = fleet("a", "b", "c")
    fail_on(world, agents[0])
    (task,) = world.submit(max_attempts=9)
    for agent in agents:
        others = [other for other in agents if other is not agent]
        for other in others:
            order(world, other, AgentOrder.PAUSE)
        world.wait(61)
        world.fail(agent, world.ref(agent, task))
        for other in others:
            order(world, other, AgentOrder.RESUME)
    tally = world.state.tallies["m:f"]
    assert tally.fleet.totals(world.now_us) == (0, 0)
    assert [window.totals(world.now_us) for window in tally.agents.values()] == [(0, 0)] * 3


# --- resets and removals ---------------------------------------------------------------------------------------------


def trip_all(world: World, agent: ModelAgent) -> None:
    """The agent itself and two kinds of its work are not trusted."""
    record = world.state.agents[agent.id]
    for kind in ("x", "y"):
        breaker.trip(world.state, Effects(), breaker.of_type(record, kind), Reason.TASK_ERROR)
    breaker.trip(world.state, Effects(), record.breaker, Reason.AGENT_LOST)


@pytest.mark.parametrize(("kind", "left"), [("x", (OPEN, ["y"])), ("", (CLOSED, []))])
def test_a_reset_trusts_what_it_names(kind: str, left: tuple[object, list[str]]) -> None:
    """One kind of work and nothing else, or the agent with all its kinds."""
    world, (agent,) = fleet("a")
    trip_all(world, agent)
    world.do(BreakerReset("a", kind, "", world.replies.append))
    record = world.state.agents["a"]
    assert world.replies[-1] is True
    assert (record.breaker.state, list(record.type_breakers)) == left


def test_who_was_never_compared_may_be_reset_and_removed() -> None:
    """An agent accused by evidence alone, while others were counted."""
    world, (here, there) = fleet("a", "b")
    fails_here_passes_there(world, here, there)
    assert "a" not in world.state.tallies["m:f"].agents
    world.do(BreakerReset("a", "m:f", "", world.replies.append))
    assert world.replies[-1] is True
    world.do(AgentOrdered("a", AgentOrder.REMOVE, world.replies.append, force=True))
    assert world.replies[-1] is True


def test_the_breakers_of_a_removed_agent_are_not_written_those_of_others_are() -> None:
    """All in one step: two agents lose their trust and one of them is removed."""
    world, agents = fleet("a", "b", slots=1, settings=CoreSettings(breaker_failures=1))
    world.submit(2)
    refused = []
    for agent in agents:
        refused.append(AttemptsReturned(agent.id, agent.epoch, list(agent.held), revoked=False, message="no room"))
        agent.held.clear()
    world.do(*refused, AgentOrdered("a", AgentOrder.REMOVE, world.replies.append, force=True))
    assert [row.agent_id for row in world.written if isinstance(row, PutBreaker)] == ["b"]


# --- outside systems -------------------------------------------------------------------------------------------------


def test_who_waits_for_a_system_tries_when_no_queued_task_could() -> None:
    """To the moment: once the probe time is over without a canary, the first that waits for it is woken."""
    world, (agent,) = fleet("a", slots=8)
    needs = Demands(systems=("ci",))
    tasks = world.submit(3, demands=needs)
    for task in tasks:
        world.start(agent, world.ref(agent, task))
    for task in tasks:
        world.block(agent, world.ref(agent, task), "w", "external", system="ci")
    system = world.state.systems["ci"]
    assert system.is_down
    world.submit(demands=Demands(constraints=on("nowhere").constraints, systems=("ci",)))
    world.wait((system.breaker.reset_us - world.now_us) / SECOND_US)
    assert (system.breaker.state, system.breaker.probe) == (HALF_OPEN, None)
    world.wait((world.state.settings.probe_time_us) / SECOND_US)
    assert system.breaker.probe == (tasks[0], 1)


def test_no_rate_is_above_all_of_it() -> None:
    """Where everything failed the upper bound is 1 and not a rounding more."""
    assert all(rate_bounds(count, count)[1] <= 1.0 for count in range(1, 60))


def test_one_probe_of_two_breakers_is_left_to_the_one_that_is_not_reset() -> None:
    """The agent itself and a kind of its work are on trial with one attempt: what is reset lets go of it alone."""
    world, (agent,) = fleet("a")
    record = world.state.agents["a"]
    for known in (record.breaker, breaker.of_type(record, "m:f")):
        breaker.trip(world.state, Effects(), known, Reason.TASK_ERROR)
    world.wait(31)
    (task,) = world.submit()
    kind = record.type_breakers["m:f"]
    assert (record.breaker.probe, kind.probe) == ((task, 1), (task, 1))
    world.do(BreakerReset("a", "m:f", "", world.replies.append))
    assert (record.breaker.probe, kind.probe) == ((task, 1), None)
    assert world.state.probes == {(task, 1): [record.breaker]}
    assert agent.held


def test_a_success_speaks_for_the_systems_that_it_used() -> None:
    """Not for another one that somebody complains of, whatever else its task declares."""
    world, (agent,) = fleet("a")
    bad, good = world.submit(demands=Demands(systems=("ci",))), world.submit(demands=Demands(systems=("mail", "ci2")))
    world.start(agent, world.ref(agent, bad[0]))
    world.fail(agent, world.ref(agent, bad[0]))
    world.complete(agent, world.ref(agent, good[0]))
    assert list(world.state.systems) == ["ci"]
    assert world.state.systems["ci"].failing
