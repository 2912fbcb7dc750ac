"""Secrets in placement: only agents that have them for such work, what Explain says, what follows when one fails."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.explain import whatif
from outrider_coordinator.core.model import Agent
from outrider_coordinator.core.placement import eligibility
from outrider_coordinator.core.spec import Constraint, Demands, Operator
from outrider_coordinator.core.states import Reason, TaskState
from support.core_world import World
from support.explaining import why

TOKEN = Constraint("secret:token", Operator.ADMITS, ("*/*", "*/m%3Af", "ops/*", "ops/m%3Af"))


@pytest.mark.parametrize(
    ("offer", "text"),
    [
        (None, "it has no secret token"),
        ("*/*", ""),
        ("ops/*", ""),
        ("dev/* ops/m%3Af", ""),
        ("dev/*", "its secret token is not for such work"),
        ("ops/other xops/*", "its secret token is not for such work"),
        ("", "its secret token is not for such work"),
    ],
)
def test_a_secret_is_for_the_work_that_its_agent_says(offer: str | None, text: str) -> None:
    """One whole word of the agent's offer must be one of those that the task may be called by."""
    agent = Agent("a", "m", labels={} if offer is None else {"secret:token": offer})
    rule = eligibility.mismatch(agent, Demands((TOKEN,)))
    assert (rule.name, rule.text) == ("SECRET", text) if text else rule is None


def test_a_task_goes_only_where_its_secret_is() -> None:
    """The other agent stays idle, however long the queue."""
    world = World()
    plain, offering = world.connect("a", 4), world.connect("b", 1, labels={"secret:token": "ops/*"})
    tasks = world.submit(2, demands=Demands((TOKEN,)))
    assert [task for task in tasks if world.state.tasks[task].attempt] == [tasks[0]]
    assert world.state.agents["b"].attempts
    assert not world.state.agents["a"].attempts
    assert plain.epoch != offering.epoch


def test_nobody_with_the_secret_is_said_with_where_to_define_it() -> None:
    """A task that asks for what nobody offers is accepted, and Explain says what to do."""
    world = World()
    world.connect("a")
    world.connect("b", labels={"secret:token": "dev/*"})
    (task,) = world.submit(demands=Demands((TOKEN,)))
    explanation = why(world, task)
    assert explanation.summary == "no agent has the secrets it asks for (2 known)"
    assert [(rule, text) for _, _, rule, text in explanation.agents] == [
        ("SECRET", "it has no secret token"),
        ("SECRET", "its secret token is not for such work"),
    ]
    assert explanation.suggestions == [
        "one more agent with secret token",
        "[agent.secrets.token] in the settings of agent a, b",
    ]


def test_labels_and_secrets_together_are_told_as_what_is_missing() -> None:
    """Some agents lack the one, some the other: both are named."""
    world = World()
    world.connect("a", labels={"zone": "x"})
    world.connect("b", labels={"secret:token": "*/*"})
    (task,) = world.submit(demands=Demands((Constraint("zone", Operator.EXISTS), TOKEN)))
    explanation = why(world, task)
    assert explanation.summary == "no agent has what it asks for (2 known): LABELS, SECRET"
    assert whatif.one_more_agent(world.state.tasks[task]) == "one more agent with zone present and secret token"


def test_a_secret_that_cannot_be_had_is_tried_again_elsewhere_and_counts() -> None:
    """As a loss with the agent: three tries without a policy, not at once, and rather on other agents."""
    world = World()
    agents = {name: world.connect(name, labels={"secret:token": "*/*"}) for name in "ab"}
    (task,) = world.submit(demands=Demands((TOKEN,)))
    seen = []
    for _ in range(3):
        attempt = world.state.tasks[task].attempt
        assert attempt is not None
        seen.append(attempt.agent_id)
        agent = agents[attempt.agent_id]
        world.fail(agent, world.ref(agent, task), Reason.SECRET_UNAVAILABLE, recoverable=True)
        if world.state_of(task) is not TaskState.FAILED:
            assert world.state_of(task) is TaskState.PENDING, "a pause, lest it spins"
        world.wait(5)
    assert seen[:2] == ["a", "b"]
    assert world.state_of(task) is TaskState.FAILED
    assert Reason(world.log[-1].reason) is Reason.SECRET_UNAVAILABLE
