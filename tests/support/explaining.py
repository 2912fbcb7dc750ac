"""What Explain says of a task or an agent that is there."""

from __future__ import annotations

from outrider_coordinator.core.explain.explain_agent import AgentExplanation, explain_agent
from outrider_coordinator.core.explain.reasons import Explanation, explain_task, explained
from support.core_world import World


def why(world: World, task_id: str) -> Explanation:
    """The explanation of a task."""
    found = explained(explain_task(world.state, task_id, world.now_us))
    assert found is not None
    return found


def why_not(world: World, agent_id: str) -> AgentExplanation:
    """The explanation of an agent."""
    found = explained(explain_agent(world.state, agent_id))
    assert found is not None
    return found
