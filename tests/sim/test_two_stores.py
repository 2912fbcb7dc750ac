"""The model store against SQLite: one event script, identical effects and identical memory after every start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outrider_coordinator.core.effects import rows
from outrider_coordinator.core.step import new_state, step
from outrider_coordinator.rpc.schedule_specs import stored_schedule
from outrider_coordinator.store.load import restore
from outrider_coordinator.store.sqlite import SqliteStore
from sim import rebuild, workload, world
from sim.kernel import START_US
from sim.model_coordinator import Process, read_spec
from sim.model_store import ModelStore
from sim.verdicts import Marks

#: Seeds whose coordinators start several times.
SEEDS = (1, 25, 33, 36, 41, 67, 85, 89)


class TwinStore(ModelStore):
    """A model store that writes everything to SQLite too."""

    sqlite: SqliteStore

    def _make_durable(self, batch: Any) -> None:
        if batch.rows:
            self.sqlite.commit(batch.rows)
        super()._make_durable(batch)


class Twins(Process):
    """A coordinator that reads SQLite at its start as well, and steps both memories once."""

    compared = 0

    def __init__(self, kernel: Any, store: Any, settings: Any, *rest: Any) -> None:
        one, other = (_started(reader, settings, kernel.now_us) for reader in (store.tables, store.sqlite.reader))
        found = list(rebuild.differences("state", one[0], other[0]))
        assert not found, found[0]
        assert one[1] == other[1], "a start makes other rows"
        Twins.compared += 1
        super().__init__(kernel, store, settings, *rest)


def _started(reader: Any, settings: Any, now_us: int) -> tuple[Any, list[Any]]:
    """Memory after a start and one step, with the rows and the pushes that this made."""
    state = new_state(settings, coordinator_epoch=1_000, now_us=now_us)
    made = rows(restore(state, reader, read_spec, stored_schedule))
    effects = step(state, [], now_us + 60_000_000)
    return state, [*made, *rows(effects), *(send for send in effects.sends if hasattr(send, "epoch"))]


@pytest.fixture
def twin_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes worlds whose store is a `TwinStore`."""
    opened: list[SqliteStore] = []

    def make(seed: int) -> world.World:
        plan = workload.make(seed)
        # SQLite's file is not put back here.
        items = tuple(item for item in plan.items if item.kind != "old_backup")
        made = world.World(plan.with_items(items), Marks())
        twin = TwinStore(made.kernel, made.witness.durable)
        twin.sqlite = SqliteStore(tmp_path / str(seed))
        opened.append(twin.sqlite)
        made.store = twin
        return made

    monkeypatch.setattr(world, "Process", Twins)
    yield make
    for store in opened:
        store.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_both_stores_give_the_same_memory_and_effects(twin_world: Any, seed: int) -> None:
    """After every start of the script's coordinator both stores hold the same, and lead to the same effects."""
    before = Twins.compared
    made = twin_world(seed)
    with world.Clocks():
        made.begin()
        made.kernel.run_until(START_US + made.plan.quiet_us)
        made.crash(0)
        made.kernel.run_until(made.kernel.now_us + 1_000_000)
    assert Twins.compared > before + 1
    tables, reader = made.store.tables, made.store.sqlite.reader
    ids = tuple(sorted(tables.tasks))
    assert tables.task_states(ids) == reader.task_states(ids)
    assert tables.task_namespaces(ids) == reader.task_namespaces(ids)
    assert tables.outcomes(ids) == reader.outcomes(ids)
    assert tables.cursors() == reader.cursors()
