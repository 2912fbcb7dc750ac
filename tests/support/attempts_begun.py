"""Attempts that run, and what is written down of them."""

from __future__ import annotations

from typing import Any

from outrider_coordinator.core.events import Ref
from outrider_coordinator.core.model import Attempt
from outrider_coordinator.core.states import EventType
from support.core_world import ModelAgent, World
from support.telling import begin


def running(count: int = 1, **spec: Any) -> tuple[World, ModelAgent, list[Ref]]:
    """Tasks that run on one agent."""
    world = World()
    agent = world.connect("a", count)
    world.submit(count, **spec)
    return world, agent, begin(world, agent)


def last(world: World, kind: EventType) -> tuple[str, int, int, str, bytes]:
    """Agent, attempt, reason, text and body of the latest event of a kind."""
    event = world.of(kind)[-1]
    return event.agent_id, event.attempt, event.reason, event.text, event.body


def record(world: World, task_id: str) -> Attempt:
    """The attempt of a task."""
    found = world.state.tasks[task_id].attempt
    assert found is not None
    return found
