"""Who is trusted and who is to blame: breakers of agents and of their work of one kind, and the evidence for them."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.breaker import TYPES_MAX, of_type
from outrider_coordinator.core.events import AgentOrder, AgentOrdered, AttemptsReturned, CancelRequested, Ref
from outrider_coordinator.core.model import Agent, Breaker
from outrider_coordinator.core.samples import Window, rate_bounds
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Constraint, Demands, Operator
from outrider_coordinator.core.states import BreakerState, EventType, Reason, TaskState
from support.core_world import ModelAgent, World

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def on(name: str) -> Demands:
    """Only the agent that was connected with this label."""
    return Demands(constraints=(Constraint("name", Operator.IN, (name,)),))


def fleet(*names: str, slots: int = 4, settings: CoreSettings | None = None) -> tuple[World, list[ModelAgent]]:
    """A world with agents that are labelled with their names."""
    world = World(settings)
    return world, [world.connect(name, slots, labels={"name": name}) for name in names]


def breaker_of(world: World, name: str, kind: str = "") -> Breaker | None:
    """A breaker of an agent; None when nothing is held against its work of the kind."""
    agent = world.state.agents[name]
    return agent.type_breakers.get(kind) if kind else agent.breaker


def reject(world: World, agent: ModelAgent) -> None:
    """The agent refuses everything that it was offered."""
    refs = list(agent.held)
    agent.held.clear()
    world.do(AttemptsReturned(agent.id, agent.epoch, refs, revoked=False, message="no room"))


def fail_on(world: World, agent: ModelAgent, kind: str = "m:f", reason: Reason = Reason.TASK_ERROR) -> None:
    """One task that may run on this agent only fails there for good."""
    (task,) = world.submit(kind=kind, demands=on(agent.id))
    world.start(agent, world.ref(agent, task))
    world.fail(agent, world.ref(agent, task), reason)


def pass_on(world: World, agent: ModelAgent, kind: str = "m:f") -> None:
    """One task that may run on this agent only succeeds there."""
    (task,) = world.submit(kind=kind, demands=on(agent.id))
    world.complete(agent, world.ref(agent, task))


def open_by_rejecting(world: World, agent: ModelAgent) -> None:
    """Five refusals in a row: the agent's own breaker opens."""
    world.submit()
    while breaker_of(world, agent.id).state is CLOSED:  # type: ignore[union-attr]  # an agent has one
        reject(world, agent)


def order(world: World, agent: ModelAgent, what: str) -> None:
    """An operator pauses or resumes an agent."""
    world.do(AgentOrdered(agent.id, what, world.replies.append))


def fails_here_passes_there(world: World, here: ModelAgent, there: ModelAgent, kind: str = "m:f") -> None:
    """One task fails on one agent and succeeds on the other."""
    order(world, there, AgentOrder.PAUSE)
    (task,) = world.submit(kind=kind, max_attempts=3)
    order(world, there, AgentOrder.RESUME)
    order(world, here, AgentOrder.PAUSE)
    world.start(here, world.ref(here, task))
    world.fail(here, world.ref(here, task))
    world.wait(2)
    order(world, here, AgentOrder.RESUME)
    world.complete(there, world.ref(there, task))


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


def test_all_that_one_silence_takes_along_is_one_failure() -> None:
    """An agent that loses contact with eight attempts is charged once, and again for the next silence."""
    world, (agent,) = fleet("a", slots=8)
    tasks = world.submit(8)
    for task in tasks:
        world.start(agent, world.ref(agent, task))
    world.disconnect(agent)
    world.wait(6)
    breaker = breaker_of(world, "a")
    assert breaker is not None
    assert (breaker.state, breaker.failures) == (CLOSED, 1)
    world.connect("a", 8)
    world.disconnect(agent)
    world.wait(6)
    assert breaker.failures == 2


def test_a_failure_of_a_task_says_nothing_about_its_agent() -> None:
    """However many tasks fail on the only agent there is, nothing tells whose fault that is, and no breaker opens."""
    world, (agent,) = fleet("a")
    for reason in (Reason.TASK_ERROR, Reason.WORKER_DIED, Reason.TIMED_OUT) * 10:
        fail_on(world, agent, reason=reason)
    assert breaker_of(world, "a").state is CLOSED  # type: ignore[union-attr]
    assert breaker_of(world, "a", "m:f") is None


def test_what_passes_elsewhere_is_held_against_the_agent_for_that_kind_only() -> None:
    """Tasks that fail here and succeed there open this agent's breaker for their kind; other work goes on."""
    world, (here, there) = fleet("a", "b")
    for _ in range(5):
        assert breaker_of(world, "a").state is CLOSED  # type: ignore[union-attr]
        fails_here_passes_there(world, here, there)
    breaker = breaker_of(world, "a", "m:f")
    assert breaker is not None
    assert breaker.state is OPEN
    assert breaker_of(world, "a").state is CLOSED  # type: ignore[union-attr]
    assert breaker_of(world, "b", "m:f") is None
    tasks = world.submit(4)
    assert {ref.task_id for ref in there.held} == set(tasks)
    (other,) = world.submit(kind="m:g")
    assert {ref.task_id for ref in here.held} == {other}
    texts = [event.text for event in world.log if event.type == EventType.AGENT_TYPE_BREAKER]
    assert texts == ["m:f: OPEN"]


def test_the_breaker_of_a_kind_probes_and_is_forgotten() -> None:
    """It lets one task of its kind at a time through, and leaves nothing behind once two have succeeded."""
    world, (here, there) = fleet("a", "b", slots=1)
    for _ in range(5):
        fails_here_passes_there(world, here, there)
    world.wait(31)
    world.submit(3, demands=on("a"))
    for _ in range(2):
        (ref,) = here.held
        world.complete(here, ref)
    assert breaker_of(world, "a", "m:f") is None


def test_a_failed_probe_of_a_kind_opens_it_again() -> None:
    """A probe that fails by its own error is evidence enough while the kind is on trial."""
    world, (here, there) = fleet("a", "b")
    for _ in range(5):
        fails_here_passes_there(world, here, there)
    world.wait(31)
    fail_on(world, here)
    breaker = breaker_of(world, "a", "m:f")
    assert breaker is not None
    assert (breaker.state, breaker.opened_count) == (OPEN, 2)


def test_an_agent_that_fails_far_above_the_fleet_loses_the_kind() -> None:
    """Tasks that are never tried again are evidence too, once there are enough: ten failures beside ten successes."""
    world, (here, there) = fleet("a", "b")
    fail_on(world, here)
    for _ in range(10):
        pass_on(world, there)
    for _ in range(9):
        fail_on(world, here)
    assert breaker_of(world, "a", "m:f") is None
    fail_on(world, here)
    breaker = breaker_of(world, "a", "m:f")
    assert breaker is not None
    assert breaker.state is OPEN


def test_an_agent_that_fails_as_often_as_the_fleet_is_not_charged() -> None:
    """Work that fails half of the time fails half of the time everywhere."""
    world, agents = fleet("a", "b", "c")
    for _ in range(30):
        for agent in agents:
            fail_on(world, agent)
            pass_on(world, agent)
    assert not any(breaker_of(world, name, "m:f") for name in "abc")


def test_a_task_that_fails_everywhere_is_at_fault() -> None:
    """It stops after three different agents however many tries it has left, and nobody is charged."""
    world, agents = fleet("a", "b", "c", "d", slots=1)
    (task,) = world.submit(max_attempts=9)
    seen = []
    for _ in range(3):
        agent = next(agent for agent in agents if agent.held)
        seen.append(agent.id)
        world.fail(agent, world.ref(agent, task))
        order(world, agent, AgentOrder.PAUSE)
        world.wait(61)
    assert len(set(seen)) == 3
    assert world.state_of(task) is TaskState.FAILED
    assert next(event for event in reversed(world.log) if event.task_id == task).reason == Reason.FAILS_EVERYWHERE
    assert not any(breaker_of(world, name, "m:f") for name in "abcd")


def test_a_task_that_kills_its_worker_everywhere_costs_no_agent_its_name() -> None:
    """Poison goes round the fleet and is quarantined; every agent stays trusted, so bystanders are not charged."""
    world, agents = fleet(*"abcdef", slots=1)
    for _ in range(12):
        (task,) = world.submit(max_attempts=9)
        while world.state_of(task) is not TaskState.FAILED:
            agent = next((agent for agent in agents if agent.held), None)
            if agent is not None:
                world.fail(agent, world.ref(agent, task), Reason.WORKER_DIED)
            world.wait(20)
    for name in "abcdef":
        assert breaker_of(world, name).state is CLOSED  # type: ignore[union-attr]
        assert breaker_of(world, name, "m:f") is None


def test_what_a_task_at_fault_had_opened_closes_again() -> None:
    """A probe of a kind that failed by poison is taken back once the task proves to be poison."""
    world, (here, there) = fleet("a", "b")
    for _ in range(5):
        fails_here_passes_there(world, here, there)
    world.wait(31)
    (task,) = world.submit(max_attempts=9, demands=on("a"))
    world.fail(here, world.ref(here, task), Reason.WORKER_DIED)
    breaker = breaker_of(world, "a", "m:f")
    assert breaker is not None
    assert (breaker.state, breaker.opened_count) == (OPEN, 2)
    world.state.tasks[task].worker_deaths = 2  # it killed others meanwhile
    world.state.agents["a"].type_breakers.clear()
    world.wait(2)
    world.state.agents["a"].type_breakers["m:f"] = breaker
    world.fail(here, world.ref(here, task), Reason.WORKER_DIED)
    assert world.state_of(task) is TaskState.FAILED
    assert (breaker.state, breaker.opened_count) == (HALF_OPEN, 1)


def test_many_kinds_that_open_open_the_agent() -> None:
    """An agent that loses five kinds of work with no success between has lost everybody's trust."""
    world, (here, there) = fleet("a", "b", settings=CoreSettings(breaker_failures=2))
    for kind in ("m:f", "m:g"):
        for _ in range(2):
            fails_here_passes_there(world, here, there, kind)
    assert breaker_of(world, "a").state is OPEN  # type: ignore[union-attr]


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
