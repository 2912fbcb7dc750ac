"""Hard demands on agents: runner, task type and resources, taken with the offer and given back once."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.events import Answered
from outrider_coordinator.core.explain.reasons import explain_task, explained
from outrider_coordinator.core.placement.eligibility import refusal
from outrider_coordinator.core.spec import Demands
from outrider_coordinator.core.states import Reason, TaskState
from support.core_world import World

GPU = Demands(resources=(("gpu", 1.0),))


def test_a_task_goes_only_where_its_runner_and_type_are_offered() -> None:
    """A runner or task type that an agent does not offer keeps a task away; Explain names the rule."""
    world = World()
    world.connect("bare", 4)
    (task,) = world.submit(demands=Demands(runner="claude", task_type="review"))
    rule = refusal(world.state.agents["bare"], world.state.tasks[task])
    assert rule is not None
    assert rule.name == "RUNNER"
    world.connect("half", 4, runners=("claude",))
    rule = refusal(world.state.agents["half"], world.state.tasks[task])
    assert rule is not None
    assert rule.name == "TASK_TYPE"
    assert world.state_of(task) is TaskState.QUEUED
    whole = world.connect("whole", 4, runners=("claude", "codex"), task_types=("review",))
    assert world.ref(whole, task)


def test_an_amount_that_no_agent_has_is_an_explained_wait() -> None:
    """A task that takes more than any agent declares waits, and Explain says which amount is missing."""
    world = World()
    world.connect("small", 4, resources={"gpu": 1.0})
    (task,) = world.submit(demands=Demands(resources=(("gpu", 2.0),)))
    explanation = explained(explain_task(world.state, task, world.now_us))
    assert explanation is not None
    assert explanation.agents == [("small", False, "RESOURCES", "it takes gpu=2; the agent has 1")]


def test_resources_bound_what_runs_at_once_beside_the_slots() -> None:
    """Two tasks of one GPU each run one after the other on an agent with one GPU and free slots."""
    world = World()
    agent = world.connect("a", 4, resources={"gpu": 1.0})
    first, second = world.submit(2, demands=GPU)
    assert world.state.agents["a"].resources_used == {"gpu": 1.0}
    assert world.state_of(second) is TaskState.QUEUED
    rule = refusal(world.state.agents["a"], world.state.tasks[second])
    assert rule is not None
    assert rule.name == "RESOURCES_IN_USE"
    (plain,) = world.submit()
    assert world.ref(agent, plain), "what claims nothing is not held up by what does"
    world.start(agent, world.ref(agent, first))
    world.complete(agent, world.ref(agent, first))
    assert world.ref(agent, second)
    world.fail(agent, world.ref(agent, second), Reason.TASK_ERROR, recoverable=False)
    assert world.state.agents["a"].resources_used == {}


def test_a_blocked_attempt_keeps_its_resources() -> None:
    """A parked attempt gives its slot back, not its resources."""
    world = World()
    agent = world.connect("a", 2, resources={"gpu": 1.0})
    first, second = world.submit(2, demands=GPU)
    ref = world.ref(agent, first)
    world.start(agent, ref)
    world.block(agent, ref, "q")
    assert world.state.agents["a"].slots_used == 0
    assert world.state_of(second) is TaskState.QUEUED
    world.do(Answered(first, "q", b"yes", world.replies.append))
    world.unblock(agent, ref, "q")
    world.complete(agent, ref)
    assert world.ref(agent, second)


@pytest.mark.parametrize("amount", [0.1, 1 / 3, 0.7, 1e-6])
def test_amounts_taken_and_given_back_leave_nothing_behind(amount: float) -> None:
    """Fractions add up to the whole and back to nothing."""
    world = World()
    agent = world.connect("a", 9, resources={"cpu": 9 * amount})
    tasks = world.submit(9, demands=Demands(resources=(("cpu", amount),)))
    assert all(world.state_of(task) is TaskState.ASSIGNED for task in tasks)
    for task in tasks:
        ref = world.ref(agent, task)
        world.start(agent, ref)
        world.complete(agent, ref)
    assert world.state.agents["a"].resources_used == {}
