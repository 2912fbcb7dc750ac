"""What a task would like of its agent, beside what it must have: affinities, avoided tags, spread, sticky.

Wishes never keep a task waiting. Each agent that could take it now gets a score; the highest wins, between equals the
one the strategy puts first. To stay cheap in a large fleet only the first `CANDIDATES` agents by strategy are scored,
and the agents that the task names itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from outrider_coordinator.core.model import Agent, Task
from outrider_coordinator.core.spec import Demands
from outrider_coordinator.core.state import State

CANDIDATES = 32
#: What a wish that is met counts beside the weights of affinities, -100 to 100.
STICKY, AVOIDED, CROWD = 60, 50, 10


def has_any(demands: Demands) -> bool:
    """Whether the task wishes for anything."""
    return bool(demands.affinities or demands.avoid_tags or demands.spread or demands.sticky)


def best(state: State, demands: Demands, task: Task, candidates: Iterable[Agent]) -> Agent | None:
    """The candidate with the highest score, the first of equals."""
    return max(candidates, key=lambda agent: score_of(state, demands, task, agent), default=None)


def score_of(state: State, demands: Demands, task: Task, agent: Agent) -> int:
    """How much a task would like to be on this agent."""
    score = sum(weight for agent_id, weight in demands.affinities if agent_id == agent.id)
    if demands.sticky and agent.id == task.near_agent_id:
        score += STICKY
    if demands.avoid_tags or demands.spread:
        score += _beside(state, demands, task, agent)
    return score


def _beside(state: State, demands: Demands, task: Task, agent: Agent) -> int:
    score = 0
    for attempt in agent.attempts.values():
        other = state.tasks[attempt.task_id]
        if demands.avoid_tags and other.spec.tags:
            score -= AVOIDED * any(tag in demands.avoid_tags for tag in other.spec.tags)
        if demands.spread:
            score -= CROWD * is_kin(task, other)
    return score


def is_kin(task: Task, other: Task) -> bool:
    """Whether `spread` keeps the two apart: tasks of one run, or of one type outside a run."""
    if task.run_id:
        return other.run_id == task.run_id
    return not other.run_id and other.spec.kind == task.spec.kind


def remember(task: Task, ended_id: str, agent_id: str) -> None:
    """A task ended on an agent: one that waits for it and wants to be near its first dependency keeps it in mind."""
    if task.spec.demands.sticky and task.dependency_ids[0] == ended_id:
        task.near_agent_id = agent_id
