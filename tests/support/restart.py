"""A `World` whose coordinator starts again with nothing but the rows that it wrote."""

from __future__ import annotations

from outrider_coordinator.core import invariants
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.step import new_state
from outrider_coordinator.store.load import restore
from sim.model_store import Tables
from support.core_world import World


def restart(world: World) -> Effects:
    """Stop and start at once; agents have no session any more. Returns what the start itself wants."""
    before, tables = world.state, Tables()
    tables.apply(world.rows)
    specs = {task.id: task.spec for task in before.tasks.values()}
    world.state = new_state(before.settings, coordinator_epoch=before.epoch + 1, now_us=world.now_us)
    effects = restore(world.state, tables, lambda row: specs[row.id])
    world.take(effects)
    invariants.check(world.state)
    for agent in world.agents.values():
        agent.epoch = 0
    return effects
