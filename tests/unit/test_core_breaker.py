"""The circuit breaker as a machine: when it opens, how probes are leased, what it remembers."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.effects import PushRevoke
from outrider_coordinator.core.events import (
    AgentOrder,
    AttemptsReturned,
    CancelRequested,
    Ref,
)
from outrider_coordinator.core.model import Agent
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.states import BreakerState, Reason
from outrider_coordinator.core.trust.breaker import TYPES_MAX, of_type
from outrider_coordinator.core.trust.samples import Window, rate_bounds
from support.core_world import ModelAgent, World
from support.trust_world import (
    breaker_of,
    fails_here_passes_there,
    fleet,
    on,
    open_by_rejecting,
    order,
    reject,
)

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def test_the_breaker_opens_probes_and_closes() -> None:
    """Five refusals in a row open the breaker; after the reset one probe at a time; two successes close it (I10)."""
    world, (agent,) = fleet("a")
    open_by_rejecting(world, agent)
    breaker = breaker_of(world, "a")
    assert breaker is not None
    assert breaker.state is OPEN
    tasks = world.submit(3)
    assert not agent.held
    world.wait(31)
    assert len(agent.held) == 1
    for _ in range(2):
        (ref,) = agent.held
        world.complete(agent, ref)
    assert breaker.state is CLOSED
    assert [ref.task_id for ref in agent.held] == tasks[1:]


def test_a_probe_that_fails_opens_it_for_longer() -> None:
    """Each opening waits twice as long as the one before, up to the longest."""
    world, (agent,) = fleet("a", settings=CoreSettings(breaker_reset_max_us=100 * SECOND_US))
    open_by_rejecting(world, agent)
    breaker = breaker_of(world, "a")
    assert breaker is not None
    for wait_s in (30, 60, 100, 100):
        assert breaker.reset_us == world.now_us + wait_s * SECOND_US
        world.wait(wait_s - 1)
        assert breaker.state is OPEN
        world.wait(1)
        assert breaker.state is HALF_OPEN
        reject(world, agent)
        assert breaker.state is OPEN


def test_what_waits_in_line_is_taken_back_when_a_breaker_opens() -> None:
    """Only what has not started, and only work of the kind that the agent has lost."""
    world, (here, there) = fleet("a", "b", slots=1, settings=CoreSettings(breaker_failures=2))
    world.state.durations_us.update({"m:f": 10.0, "m:g": 10.0})
    order(world, there, AgentOrder.PAUSE)
    world.connect("a", 1, labels={"name": "a"}, prefetch_credit=4)
    first, second = world.submit(2, max_attempts=3)
    (other,) = world.submit(kind="m:g")
    assert {ref.task_id for ref in here.held} == {first, second, other}
    world.start(here, world.ref(here, first))
    order(world, here, AgentOrder.PAUSE)
    late = world.submit(3, demands=on("b"))
    for task in late:
        world.state.tasks[task].failed_on = ("a",)
    order(world, there, AgentOrder.RESUME)
    world.complete(there, world.ref(there, late[0]))
    world.sent.clear()
    world.complete(there, world.ref(there, late[1]))
    assert [send.task_id for send in world.sent if isinstance(send, PushRevoke)] == [second]


def test_the_share_of_failures_opens_too() -> None:
    """Failures that never come five in a row still open the breaker once half of its samples are failures."""
    world, (agent,) = fleet("a")
    breaker = breaker_of(world, "a")
    assert breaker is not None
    for _ in range(5):
        assert breaker.state is CLOSED
        world.submit()
        reject(world, agent)
        world.complete(agent, next(iter(agent.held)))
        world.wait(1)
    assert breaker.state is CLOSED
    world.submit()
    reject(world, agent)
    assert breaker.state is OPEN


def test_failures_of_long_ago_are_forgotten() -> None:
    """A breaker that nothing was held against for a whole window knows no more than a fresh one."""
    world, (agent,) = fleet("a")
    world.submit()
    reject(world, agent)
    world.wait(601)
    world.complete(agent, next(iter(agent.held)))
    breaker = breaker_of(world, "a")
    assert breaker is not None
    assert (breaker.failures, breaker.window) == (0, None)


@pytest.mark.parametrize("end", ["complete", "fail", "reject", "revoke", "lose", "cancel", "die", "leave"])
def test_a_probe_gives_its_lease_back_however_it_ends(end: str) -> None:
    """Whatever becomes of a probe, the breaker can lease the next one."""
    world, (agent,) = fleet("a")
    open_by_rejecting(world, agent)
    world.wait(31)
    breaker = breaker_of(world, "a")
    assert breaker is not None
    (ref,) = agent.held
    assert breaker.probe == (ref.task_id, ref.attempt)
    _end(world, agent, ref, end)
    assert breaker.probe is None or breaker.probe != (ref.task_id, ref.attempt)
    world.connect("a", 4, labels={"name": "a"})
    world.submit(2)
    world.wait(130)
    assert agent.held
    assert breaker.state is CLOSED or breaker.probe is not None


def _end(world: World, agent: ModelAgent, ref: Ref, end: str) -> None:
    if end == "complete":
        world.complete(agent, ref)
    elif end in ("fail", "die"):
        world.fail(agent, ref, Reason.TASK_ERROR if end == "fail" else Reason.WORKER_DIED)
    elif end in ("reject", "revoke"):
        agent.held.clear()
        world.do(AttemptsReturned(agent.id, agent.epoch, [ref], revoked=end == "revoke"))
    elif end == "lose":
        world.start(agent, ref)
        world.disconnect(agent)
        world.wait(8)
    elif end == "cancel":
        world.do(CancelRequested([ref.task_id], "", world.replies.append))
        world.fail(agent, ref, Reason.CANCEL_REQUESTED, False)
    else:
        world.disconnect(agent)
        agent.held.clear()
        world.connect("a", 4, labels={"name": "a"})


def test_a_long_probe_has_gone_well_after_a_while() -> None:
    """A probe that has run for the probe time lets the next one through, and two of them close the breaker."""
    world, (agent,) = fleet("a")
    open_by_rejecting(world, agent)
    world.submit(2)
    world.wait(31)
    breaker = breaker_of(world, "a")
    assert breaker is not None
    for _ in range(2):
        assert breaker.state is HALF_OPEN
        (ref,) = [ref for ref in agent.held if breaker.probe == (ref.task_id, ref.attempt)]
        world.start(agent, ref)
        world.wait(61)
    assert breaker.state is CLOSED


def test_a_probe_that_asks_somebody_says_nothing_and_holds_nobody_up() -> None:
    """A probe that waits for an answer returns its lease after the probe time; the breaker stays HALF_OPEN."""
    world, (agent,) = fleet("a")
    open_by_rejecting(world, agent)
    world.submit(1)
    world.wait(31)
    (ref,) = agent.held
    world.start(agent, ref)
    world.block(agent, ref, "q")
    world.wait(61)
    breaker = breaker_of(world, "a")
    assert breaker is not None
    assert (breaker.state, breaker.successes) == (HALF_OPEN, 0)
    assert breaker.probe not in (None, (ref.task_id, ref.attempt))


def test_a_stray_probe_that_comes_back_is_the_probe_again() -> None:
    """No second one is offered beside it."""
    world, (here, there) = fleet("a", "b")
    for _ in range(5):
        fails_here_passes_there(world, here, there)
    world.wait(31)
    (task,) = world.submit(demands=on("a"))
    world.start(here, world.ref(here, task))
    world.disconnect(here)
    world.wait(8)
    world.connect("a", 4, labels={"name": "a"})
    breaker = breaker_of(world, "a", "m:f")
    assert breaker is not None
    assert breaker.probe == (task, 1)
    world.submit(demands=on("a"))
    assert len(here.held) == 1


def test_what_is_remembered_of_kinds_is_bounded() -> None:
    """The kind that failed least recently is forgotten first; when none can be, the agent itself is charged."""
    agent = Agent("a", "m")
    for number in range(TYPES_MAX):
        of_type(agent, f"k{number}")
    of_type(agent, "k0")
    of_type(agent, "new")
    assert len(agent.type_breakers) == TYPES_MAX
    assert "k1" not in agent.type_breakers
    assert {"k0", "new"} < set(agent.type_breakers)
    for breaker in agent.type_breakers.values():
        breaker.state = OPEN
    assert of_type(agent, "newer") is agent.breaker


def test_a_window_slides() -> None:
    """Samples count for the span and no longer, give or take an eighth of it."""
    window = Window(80)
    window.add(0, failed=True)
    window.add(5, failed=False)
    window.add(45, failed=True)
    assert window.totals(79) == (1, 2)
    assert window.totals(80) == (0, 1)
    assert window.totals(200) == (0, 0)


def test_bounds_of_a_rate_are_those_of_the_book() -> None:
    """Wilson's interval at 99 %: checked against values computed by hand from the formula."""
    low, high = rate_bounds(0, 10)
    assert low == pytest.approx(0)
    assert high == pytest.approx(2.576**2 / (10 + 2.576**2))
    low, high = rate_bounds(10, 10)
    assert (low, high) == (pytest.approx(10 / (10 + 2.576**2)), 1)
    low, high = rate_bounds(5, 10)
    assert low + high == pytest.approx(1)
