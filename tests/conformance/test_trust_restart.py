"""Trust after a restart: what a start reads from the store is what memory knew (I20)."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core import invariants
from outrider_coordinator.core.effects import Effects, rows
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import BreakerState
from outrider_coordinator.core.step import new_state
from outrider_coordinator.store.load import restore
from outrider_coordinator.store.sqlite import SqliteStore
from support.core_world import World
from support.trust_walk import SETTINGS, walked


class StoredWorld(World):
    """A world whose every step is committed."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.specs: dict[str, Any] = {}
        super().__init__(SETTINGS)

    def take(self, effects: Effects) -> None:
        """Commit what a step writes, then carry it out."""
        self.specs |= {task.id: task.spec for task in effects.tasks.values()}
        self.store.commit(rows(effects))
        super().take(effects)

    def restarted(self) -> State:
        """What a start would know."""
        state = new_state(SETTINGS, coordinator_epoch=2, now_us=self.now_us)
        restore(state, self.store.reader, lambda row: self.specs[row.id])
        return state


def trust(state: State) -> dict[tuple[str, str, str], tuple[Any, ...]]:
    """The durable part of every breaker that is not CLOSED."""
    known = [agent.breaker for agent in state.agents.values()]
    known += [one for agent in state.agents.values() for one in agent.type_breakers.values()]
    known += [system.breaker for system in state.systems.values()]
    return {
        one.key: (one.state, one.opened_count, one.reset_us, one.opened_fence, one.culprit, one.probe)
        for one in known
        if one.state is not BreakerState.CLOSED
    }


@pytest.mark.parametrize("seed", range(6))
def test_a_restart_trusts_nobody_more_and_nobody_less(store: SqliteStore, seed: int) -> None:
    """Breakers, their leases and what tasks have failed on come back as they were, and the invariants hold."""
    world = StoredWorld(store)
    walked(seed, world)
    again = world.restarted()
    assert trust(again) == trust(world.state)
    assert {key: [one.key for one in known] for key, known in again.probes.items()} == {
        key: sorted(one.key for one in known) for key, known in world.state.probes.items()
    }
    failed_on = {task.id: sorted(task.failed_on) for task in world.state.tasks.values()}
    assert {task.id: sorted(task.failed_on) for task in again.tasks.values()} == failed_on
    invariants.check(again)
