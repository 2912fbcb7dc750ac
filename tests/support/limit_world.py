"""Limits in a `World`: defined, claimed, waited for by what runs."""

from __future__ import annotations

from typing import Any

from outrider_coordinator.core.events import LimitDefined
from outrider_coordinator.core.limits.book import Definition, LimitKind
from outrider_coordinator.core.spec import Claim, Demands
from support.core_world import ModelAgent, World

SEMAPHORE, RATE = LimitKind.SEMAPHORE, LimitKind.RATE


def define(world: World, key: str, kind: LimitKind | None, amount: float = 0, burst: int = 0) -> Any:
    """Say what a limit is (None: nothing special) and return the reply."""
    capacity = int(amount) if kind is SEMAPHORE else 0
    per_second = amount if kind is RATE else 0.0
    definition = None if kind is None else Definition(kind, capacity, per_second, burst)
    world.do(LimitDefined("default", key, definition, world.replies.append))
    return world.replies[-1]


def submit(world: World, *claims: str | Claim, count: int = 1, **fields: Any) -> list[str]:
    """Tasks that claim limits; a plain name is an exclusive claim of one unit."""
    demands = Demands(claims=tuple(Claim(claim) if isinstance(claim, str) else claim for claim in claims))
    return world.submit(count, demands=demands, **fields)


def held(world: World, agent: ModelAgent) -> list[str]:
    """Tasks that an agent has now."""
    return sorted(ref.task_id for ref in agent.held)


def finish(world: World, agent: ModelAgent, task_id: str) -> None:
    """A task's attempt succeeds."""
    world.complete(agent, world.ref(agent, task_id))


def start(world: World, agent: ModelAgent, *claims: str | Claim, **fields: Any) -> str:
    """A task that claims limits, and runs."""
    (task,) = submit(world, *claims, **fields)
    world.start(agent, world.ref(agent, task))
    return task


def want(world: World, agent: ModelAgent, task_id: str, claim: str | Claim) -> None:
    """A running attempt waits for a limit."""
    claim = Claim(claim) if isinstance(claim, str) else claim
    world.block(agent, world.ref(agent, task_id), f"limit-{claim.key}", "resource", claim=claim)


def want_task(world: World, agent: ModelAgent, task_id: str, required: str) -> None:
    """A running attempt waits for another task."""
    world.block(agent, world.ref(agent, task_id), f"task-{required}", "dependency", required_task_id=required)


def got(agent: ModelAgent, task_id: str) -> list[str]:
    """Keys of the waits of a task that were resolved with its attempt on this agent, in order."""
    return [answer.key for answer in agent.answers if answer.task_id == task_id]
