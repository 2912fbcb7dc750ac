"""Outside systems: who may say that one is down, what that holds back, and how it is found to be back."""

from __future__ import annotations

from typing import Any

from outrider_coordinator.core.events import AgentOrder, AgentOrdered, BreakerReset, CancelRequested, ReportKind
from outrider_coordinator.core.model import System
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Demands
from outrider_coordinator.core.states import Blame, BreakerState, EventType, Reason, TaskState
from outrider_coordinator.core.trust import systems
from support.core_world import ModelAgent, World

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
GITHUB = Demands(systems=("github",))


def fleet(count: int = 3, slots: int = 8, settings: CoreSettings | None = None) -> tuple[World, list[ModelAgent]]:
    """A world with agents a, b, c, ..."""
    world = World(settings)
    return world, [world.connect(name, slots) for name in "abcdef"[:count]]


def github(world: World) -> System | None:
    """What is known of the system."""
    return world.state.systems.get("github")


def holder(world: World, task: str) -> ModelAgent:
    """The agent that runs a task."""
    return next(agent for agent in world.agents.values() if any(ref.task_id == task for ref in agent.held))


def begin(world: World, **spec: Any) -> str:
    """Submit one task that declares the system, and start it where it was placed."""
    (task,) = world.submit(**({"demands": GITHUB} | spec))
    agent = holder(world, task)
    world.start(agent, world.ref(agent, task))
    return task


def fail(world: World, task: str, reason: Reason = Reason.TASK_ERROR) -> None:
    """A running task fails."""
    agent = holder(world, task)
    world.fail(agent, world.ref(agent, task), reason)


def complete(world: World, task: str) -> None:
    """A running task succeeds."""
    agent = holder(world, task)
    world.complete(agent, world.ref(agent, task))


def wait_for_github(world: World, task: str, key: str = "gh") -> None:
    """A running task waits for the system."""
    agent = holder(world, task)
    world.block(agent, world.ref(agent, task), key, "external", system="github")


def take_down(world: World) -> None:
    """Three tasks fail on the system."""
    for task in [begin(world) for _ in range(3)]:
        fail(world, task)
    assert github(world) is not None


def held(world: World) -> set[str]:
    """Tasks on any agent."""
    return {ref.task_id for agent in world.agents.values() for ref in agent.held}


def test_three_tasks_that_fail_on_a_system_take_it_down() -> None:
    """What declares it is then held back, with the rule SYSTEM_DOWN; other work goes on."""
    world, _ = fleet()
    take_down(world)
    system = github(world)
    assert system is not None
    assert system.breaker.state is OPEN
    (waiting,) = world.submit(demands=GITHUB)
    (other,) = world.submit()
    assert held(world) == {other}
    assert world.state_of(waiting) is TaskState.QUEUED
    rule = systems.held_back(world.state, GITHUB)
    assert rule is not None
    assert rule.name == "SYSTEM_DOWN"
    assert "in 30 s" in rule.text
    assert systems.held_count(world.state, "github") == 1
    assert [event.text for event in world.log if event.type == EventType.SYSTEM_BREAKER] == ["github: OPEN"]


def test_two_tasks_that_wait_for_it_and_one_that_fails_take_it_down() -> None:
    """A wait names its system; the task need not have declared it."""
    world, _ = fleet()
    for task in [begin(world, demands=Demands()), begin(world)]:
        wait_for_github(world, task)
    assert systems.held_back(world.state, GITHUB) is None
    fail(world, begin(world))
    assert systems.held_back(world.state, GITHUB) is not None


def test_one_task_alone_takes_nothing_down() -> None:
    """However often and wherever one task fails, it is one opinion; after three agents the task is at fault."""
    world, agents = fleet(4)
    (task,) = world.submit(demands=GITHUB, max_attempts=9)
    for _ in range(3):
        agent = holder(world, task)
        world.fail(agent, world.ref(agent, task))
        world.do(AgentOrdered(agent.id, AgentOrder.PAUSE, world.replies.append))
        world.wait(61)
    assert world.state_of(task) is TaskState.FAILED
    assert next(event for event in reversed(world.log) if event.task_id == task).reason == Reason.FAILS_EVERYWHERE
    assert systems.held_back(world.state, GITHUB) is None
    assert len(agents) == 4


def test_a_success_between_clears_the_suspicion() -> None:
    """A system on which a task has just succeeded is not down because others failed before."""
    world, _ = fleet()
    first, second, third, good = [begin(world) for _ in range(4)]
    fail(world, first)
    fail(world, second)
    complete(world, good)
    assert github(world) is None
    fail(world, third)
    assert systems.held_back(world.state, GITHUB) is None


def test_complaints_of_long_ago_do_not_count() -> None:
    """Only what came within the window adds up."""
    world, _ = fleet()
    tasks = [begin(world) for _ in range(3)]
    fail(world, tasks[0])
    fail(world, tasks[1])
    world.wait(601)
    fail(world, tasks[2])
    assert systems.held_back(world.state, GITHUB) is None


def test_a_task_that_declares_two_systems_accuses_neither() -> None:
    """Its error does not say which one it was; it is excused all the same when one of them is suspect."""
    world, _ = fleet()
    both = Demands(systems=("github", "npm"))
    tasks = [begin(world, demands=both) for _ in range(4)]
    for task in tasks[:3]:
        fail(world, task)
    assert world.state.systems == {}
    fail(world, begin(world))
    agent = holder(world, tasks[3])
    effects = world.report(agent, world.ref(agent, tasks[3]), ReportKind.FAILED, reason=Reason.TASK_ERROR)
    assert [attempt.blame for attempt in effects.attempts.values()] == [Blame.SYSTEM]


def test_while_a_system_is_suspect_nobody_else_is() -> None:
    """Failures on a system that others complain of are no evidence against an agent or the task."""
    world, _ = fleet(4)
    fail(world, begin(world, kind="other"))
    task = begin(world, max_attempts=9)
    fail(world, task)
    assert world.state.tasks[task].failed_on == ()
    assert "m:f" not in world.state.tallies


def test_one_canary_goes_first_in_queue_order() -> None:
    """After the reset timeout the first that declares it is let through, alone; two that succeed let everybody go."""
    world, _ = fleet()
    take_down(world)
    tasks = world.submit(4, demands=GITHUB)
    (urgent,) = world.submit(demands=GITHUB, priority=9)
    world.wait(31)
    assert held(world) == {urgent}
    system = github(world)
    assert system is not None
    assert system.breaker.probe == (urgent, 1)
    rule = systems.held_back(world.state, GITHUB)
    assert rule is not None
    assert urgent in rule.text
    complete(world, urgent)
    assert held(world) == {tasks[0]}
    complete(world, tasks[0])
    assert github(world) is None
    assert held(world) == set(tasks[1:])
    texts = [event.text for event in world.log if event.type == EventType.SYSTEM_BREAKER]
    assert texts == ["github: OPEN", "github: HALF_OPEN", "github: CLOSED"]


def test_a_canary_that_fails_takes_it_down_for_longer() -> None:
    """The next canary waits twice as long."""
    world, _ = fleet()
    take_down(world)
    first, second = world.submit(2, demands=GITHUB)
    world.wait(31)
    fail(world, first)
    system = github(world)
    assert system is not None
    assert (system.breaker.state, system.breaker.opened_count) == (OPEN, 2)
    world.wait(59)
    assert held(world) == set()
    world.wait(2)
    assert held(world) == {second}


def test_a_canary_that_waits_for_the_system_takes_it_down_too() -> None:
    """Blocking on the system is as clear as failing."""
    world, _ = fleet()
    take_down(world)
    (canary,) = world.submit(demands=GITHUB)
    world.wait(31)
    agent = holder(world, canary)
    world.start(agent, world.ref(agent, canary))
    wait_for_github(world, canary)
    system = github(world)
    assert system is not None
    assert system.breaker.state is OPEN


def test_a_canary_of_two_systems_needs_both_to_be_on_trial() -> None:
    """A task waits while one of its systems is down, and is the canary of all that are on trial."""
    world, _ = fleet()
    take_down(world)
    for task in [begin(world, demands=Demands(systems=("npm",))) for _ in range(3)]:
        fail(world, task)
    world.wait(15)
    (both,) = world.submit(demands=Demands(systems=("github", "npm")))
    world.wait(16)
    assert held(world) == {both}
    assert {system.breaker.probe for system in world.state.systems.values()} == {(both, 1)}
    fail(world, both)
    assert {system.breaker.state for system in world.state.systems.values()} == {OPEN}


def test_who_waits_for_a_system_is_woken_when_it_is_back() -> None:
    """Two canaries succeed; then every attempt that waits for it tries again."""
    world, agents = fleet()
    waiting = [begin(world) for _ in range(3)]
    for task in waiting:
        wait_for_github(world, task)
    assert systems.held_back(world.state, GITHUB) is not None
    canaries = world.submit(2, demands=GITHUB)
    world.wait(31)
    for canary in canaries:
        assert not any(agent.answers for agent in agents)
        complete(world, canary)
    assert {answer.task_id for agent in agents for answer in agent.answers} == set(waiting)


def test_where_nothing_is_queued_one_that_waits_is_the_canary() -> None:
    """The first attempt that waits tries again; once it has gone well, and another one, all the others are woken."""
    world, agents = fleet()
    waiting = [begin(world) for _ in range(4)]
    for task in waiting:
        wait_for_github(world, task)
    world.wait(31)
    woken = [answer.task_id for agent in agents for answer in agent.answers]
    assert woken == [waiting[0]]
    system = github(world)
    assert system is not None
    assert system.breaker.probe == (waiting[0], 1)
    for task in waiting[:2]:
        agent = holder(world, task)
        world.unblock(agent, world.ref(agent, task), "gh")
        complete(world, task)
    assert github(world) is None
    assert {answer.task_id for agent in agents for answer in agent.answers} == set(waiting)


def test_one_that_waits_tries_when_no_queued_task_gets_through() -> None:
    """A queued task that no agent can take does not keep the others waiting for ever."""
    world, agents = fleet()
    waiting = [begin(world) for _ in range(3)]
    for task in waiting:
        wait_for_github(world, task)
    world.submit(demands=Demands(systems=("github",), runner="nobody-has-it"))
    world.wait(60)
    assert not any(agent.answers for agent in agents)
    world.wait(31)
    assert [answer.task_id for agent in agents for answer in agent.answers] == [waiting[0]]


def test_a_cancelled_canary_makes_room_for_the_next() -> None:
    """Cancel says nothing about the system."""
    world, _ = fleet()
    take_down(world)
    first, second = world.submit(2, demands=GITHUB)
    world.wait(31)
    world.do(CancelRequested([first], "", world.replies.append))
    fail(world, first, Reason.CANCEL_REQUESTED)
    system = github(world)
    assert system is not None
    assert (system.breaker.state, system.breaker.successes) == (HALF_OPEN, 0)
    assert system.breaker.probe == (second, 1)


def test_a_long_canary_has_gone_well_after_a_while() -> None:
    """Nobody waits an hour for a canary that runs for an hour."""
    world, _ = fleet()
    take_down(world)
    world.submit(4, demands=GITHUB)
    world.wait(31)
    for number in (1, 2):
        assert len(held(world)) == number
        for agent in world.agents.values():
            for ref in list(agent.held):
                world.start(agent, ref)
        world.wait(61)
    assert len(held(world)) == 4


def test_an_operator_lets_everybody_go() -> None:
    """A reset closes the breaker, wakes those who wait and is refused for a system nobody has complained of."""
    world, agents = fleet()
    waiting = [begin(world) for _ in range(3)]
    for task in waiting:
        wait_for_github(world, task)
    (queued,) = world.submit(demands=GITHUB)
    world.replies.clear()
    world.do(BreakerReset("", "", "github", world.replies.append))
    assert world.replies == [True]
    assert github(world) is None
    assert queued in held(world)
    assert {answer.task_id for agent in agents for answer in agent.answers} == set(waiting)
    world.do(BreakerReset("", "", "github", world.replies.append))
    assert world.replies[-1].reason == "NOT_FOUND"


def test_what_is_remembered_of_systems_is_bounded() -> None:
    """The oldest suspicion is forgotten first; a system that is down is not; beyond that nothing is believed."""
    world, _ = fleet(1)
    task = begin(world)
    agent = world.state.agents["a"]
    attempt = world.state.tasks[task].attempt
    assert attempt is not None
    for number in range(systems.SYSTEMS_MAX + 1):
        systems.waited_for(world.state, world.do(), agent, world.state.tasks[task], attempt, f"s{number}")
    assert len(world.state.systems) == systems.SYSTEMS_MAX
    assert "s0" not in world.state.systems
    for system in world.state.systems.values():
        system.is_down = True
        system.breaker.state = OPEN
    systems.waited_for(world.state, world.do(), agent, world.state.tasks[task], attempt, "one more")
    assert "one more" not in world.state.systems
