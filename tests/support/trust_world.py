"""A small world for tests of trust: agents known by a label, and tasks that fail or pass where the test says."""

from __future__ import annotations

from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    AttemptsReturned,
)
from outrider_coordinator.core.model import Breaker
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Constraint, Demands, Operator
from outrider_coordinator.core.states import BreakerState, Reason
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
