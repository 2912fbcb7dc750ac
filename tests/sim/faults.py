"""What goes wrong: each kind of fault, how a plan draws it, and how it is done to a world.

A fault has a beginning and, where it lasts, an end that the plan names too; whatever still lasts when faults stop is
healed by `heal`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from sim.network import DOWN, UP
from sim.plan import Item

S = 1_000_000
Draw = Callable[[random.Random, list[str]], dict[str, Any]]


def _nobody(dice: random.Random, agents: list[str]) -> dict[str, Any]:
    return {}


def _agent(dice: random.Random, agents: list[str]) -> dict[str, Any]:
    return {"agent": dice.choice(agents)}


def _lasting(low_s: float, high_s: float, base: Draw = _nobody) -> Draw:
    def draw(dice: random.Random, agents: list[str]) -> dict[str, Any]:
        return base(dice, agents) | {"for_us": int(dice.uniform(low_s, high_s) * S)}

    return draw


def _cut(dice: random.Random, agents: list[str]) -> dict[str, Any]:
    ways = dice.choice(((UP,), (DOWN,), (UP, DOWN)))
    return _agent(dice, agents) | {
        "ways": ways,
        "for_us": int(dice.choice((0.5, 4, 9, 30)) * dice.uniform(0.7, 1.3) * S),
    }


def _pause(dice: random.Random, agents: list[str]) -> dict[str, Any]:
    """Sometimes for longer than any lease."""
    return _agent(dice, agents) | {"for_us": int(dice.choice((0.5, 4, 18, 24)) * dice.uniform(0.7, 1.3) * S)}


def _step(dice: random.Random, agents: list[str]) -> dict[str, Any]:
    return _agent(dice, agents) | {"by_us": dice.choice((-3600, 3600, -30, 30)) * S}


def _late(dice: random.Random, agents: list[str]) -> dict[str, Any]:
    return _agent(dice, agents) | {"for_us": int(dice.uniform(0.3, 5) * S)}


def _coordinator_step(dice: random.Random, agents: list[str]) -> dict[str, Any]:
    year_s = 365 * 24 * 3600
    far_s = 10 * year_s
    return {"by_us": dice.choice((-20, 20, -3600, 3600, -far_s, far_s, -far_s, far_s)) * S}


#: Kind of fault and how its facts are drawn.
FAULTS: dict[str, Draw] = {
    "coordinator_crash": _lasting(0.05, 4),
    "coordinator_crash_after_reply": _lasting(0.05, 2),
    "coordinator_power_loss": _lasting(0.5, 6),
    "coordinator_pause": _lasting(0.3, 12),
    "commit_error_unapplied": _lasting(0.05, 1),
    "commit_error_applied": _lasting(0.05, 1),
    "store_slow": _lasting(1, 8),
    "store_full": _lasting(1, 8),
    "keeper_crash": _lasting(0.05, 5, _agent),
    "keeper_pause": _pause,
    "keeper_stop": _lasting(0.5, 4, _agent),
    "power_loss": _lasting(0.5, 20, _agent),
    "rollback": _lasting(0.1, 4, _agent),
    "link_crash": _agent,
    "reset": _agent,
    "cut": _cut,
    "away": _lasting(3, 40, _agent),
    "half_open": _agent,
    "late_frames": _late,
    "late_hello": _late,
    "duplicates": _lasting(1, 10, _agent),
    "slow_network": _lasting(1, 10, _agent),
    "replies_lost": _lasting(1, 10),
    "disk_slow": _lasting(1, 8, _agent),
    "disk_full": _lasting(1, 8, _agent),
    "worker_kill": _agent,
    "workers_unborn": _lasting(1, 6, _agent),
    "wall_step": _step,
    "coordinator_clock": _coordinator_step,
    "clone": _lasting(1, 15, _agent),
    "impostor": _lasting(1, 6, _agent),
    "old_backup": _lasting(0.1, 4),
}


#: The first of these only takes the image that the later ones go back to.
IMAGES = ("rollback", "old_backup")


def draw(kinds: tuple[str, ...], dice: random.Random, agents: list[str], end_us: int, count: int) -> list[Item]:
    """So many faults of these kinds, somewhere before ``end_us``."""
    items: list[Item] = []
    for _ in range(count):
        kind = dice.choice(kinds)
        item = Item(dice.randrange(S // 2, end_us), kind, FAULTS[kind](dice, agents))
        if kind in IMAGES and all(other.kind != kind for other in items):
            items.append(item._replace(at_us=dice.randrange(S // 2, item.at_us + 1)))
        items.append(item)
    return items


class Faults:
    """Does faults to a world."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self._dice = world.kernel.stream("faults")

    def do(self, kind: str, data: Mapping[str, Any]) -> None:
        """Let it happen, and end in its time."""
        self._world.marks.saw(f"fault:{kind}")
        getattr(self, f"_{kind}")(**data)

    def heal(self) -> None:
        """Faults stop: whatever lasts is over."""
        world = self._world
        world.clients.loses_replies = 0.0
        world.store.is_slow = world.store.is_full = False
        world.store.next_error = ""
        for machine in world.machines.values():
            machine.disk.is_slow = machine.disk.is_full = False
            machine.unborn_chance = 0.0
            if machine.keeper is not None:
                machine.keeper.pool.unborn_chance = 0.0
            machine.wire.duplicates, machine.wire.holds_next = 0.0, False
            machine.wire.latency_us = world.latency_us
            for way in (UP, DOWN):
                machine.wire.set_cut(way, False)

    def _later(self, delay_us: int, action: Callable[..., None], *arguments: Any) -> None:
        self._world.kernel.after(delay_us, action, *arguments)

    def _set(self, thing: Any, name: str, value: Any) -> None:
        setattr(thing, name, value)

    # --- the coordinator -------------------------------------------------------------------------------------------

    def _coordinator_crash(self, for_us: int) -> None:
        self._world.crash(for_us)

    def _coordinator_power_loss(self, for_us: int) -> None:
        """Its machine is gone, and nobody closes its connections."""
        if self._world.process is not None:
            self._world.process.vanish()
            self._world.crash(for_us)

    def _coordinator_crash_after_reply(self, for_us: int) -> None:
        """Right after the next thing that it tells anybody."""
        self._world.crash_after_release = for_us

    def _coordinator_pause(self, for_us: int) -> None:
        if self._world.process is not None:
            self._world.process.pausable.pause(self._world.kernel.now_us + for_us)

    def _commit_error_unapplied(self, for_us: int) -> None:
        self._world.store.next_error = "unapplied"
        self._world.down_us = for_us

    def _commit_error_applied(self, for_us: int) -> None:
        self._world.store.next_error = "applied"
        self._world.down_us = for_us

    def _store_slow(self, for_us: int) -> None:
        self._world.store.is_slow = True
        self._later(for_us, self._set, self._world.store, "is_slow", False)

    def _store_full(self, for_us: int) -> None:
        self._world.store.is_full = True
        self._later(for_us, self._set, self._world.store, "is_full", False)

    def _old_backup(self, for_us: int) -> None:
        """The coordinator's disk goes back to a backup; the first time one is made."""
        self._world.go_back(for_us)

    # --- agents ----------------------------------------------------------------------------------------------------

    def _keeper_crash(self, agent: str, for_us: int) -> None:
        self._world.machines[agent].kill_keeper(for_us)

    def _keeper_pause(self, agent: str, for_us: int) -> None:
        keeper = self._world.machines[agent].keeper
        if keeper is not None:
            keeper.pause(self._world.kernel.now_us + for_us)

    def _keeper_stop(self, agent: str, for_us: int) -> None:
        """SIGTERM."""
        keeper = self._world.machines[agent].keeper
        if keeper is not None:
            keeper.act(keeper.leave, "stopped", for_us, 1_000_000)

    def _power_loss(self, agent: str, for_us: int) -> None:
        self._world.machines[agent].lose_power(for_us)

    def _rollback(self, agent: str, for_us: int) -> None:
        """The machine goes back to an image of its disk; the first time one is taken."""
        machine = self._world.machines[agent]
        if machine.disk.has_image:
            machine.lose_power(for_us)
            machine.disk.roll_back()
            self._world.marks.saw("saw:disk rolled back")
        else:
            machine.disk.take_image()

    def _link_crash(self, agent: str) -> None:
        keeper = self._world.machines[agent].keeper
        if keeper is not None:
            keeper.link.die()

    def _clone(self, agent: str, for_us: int) -> None:
        """Somebody starts a copy of the machine, disk and all."""
        self._world.double(agent, for_us, is_clone=True)

    def _impostor(self, agent: str, for_us: int) -> None:
        """Another machine asks for the agent's name."""
        self._world.double(agent, for_us, is_clone=False)

    def _disk_slow(self, agent: str, for_us: int) -> None:
        disk = self._world.machines[agent].disk
        disk.is_slow = True
        self._later(for_us, self._set, disk, "is_slow", False)

    def _disk_full(self, agent: str, for_us: int) -> None:
        disk = self._world.machines[agent].disk
        disk.is_full = True
        self._later(for_us, self._set, disk, "is_full", False)

    def _worker_kill(self, agent: str) -> None:
        keeper = self._world.machines[agent].keeper
        busy = [worker for worker in keeper.pool.workers.values() if worker.running_key] if keeper else []
        if busy:
            self._dice.choice(busy).kill()

    def _workers_unborn(self, agent: str, for_us: int) -> None:
        machine = self._world.machines[agent]
        machine.unborn_chance = 0.8
        if machine.keeper is not None:
            machine.keeper.pool.unborn_chance = 0.8
            for worker in list(machine.keeper.pool.workers.values()):
                worker.kill()
        self._later(for_us, self._born_again, machine)

    def _born_again(self, machine: Any) -> None:
        machine.unborn_chance = 0.0
        if machine.keeper is not None:
            machine.keeper.pool.unborn_chance = 0.0

    def _wall_step(self, agent: str, by_us: int) -> None:
        """Somebody sets the clock of an agent's machine."""
        self._world.machines[agent].wall_offset_us += by_us

    def _coordinator_clock(self, by_us: int) -> None:
        """Somebody sets the clock of the coordinator's machine, now and for the next starts."""
        self._world.step_clock(by_us)

    # --- the network -----------------------------------------------------------------------------------------------

    def _reset(self, agent: str) -> None:
        for connection in list(self._world.machines[agent].wire.connections):
            connection.reset()

    def _cut(self, agent: str, ways: tuple[str, ...], for_us: int) -> None:
        wire = self._world.machines[agent].wire
        for way in ways:
            wire.set_cut(way, True)
            self._later(for_us, wire.set_cut, way, False)

    def _away(self, agent: str, for_us: int) -> None:
        """The machine is taken off the network, which says so to those it talked to, and comes back."""
        self._reset(agent)
        self._cut(agent, (UP, DOWN), for_us)

    def _late_frames(self, agent: str, for_us: int) -> None:
        """What the link sends is held up; then it loses its stream, and all of that arrives behind its next Hello."""
        keeper = self._world.machines[agent].keeper
        connection = keeper.link.connection if keeper is not None else None
        if connection is not None:
            connection.lanes[UP].is_held = True
            self._later(for_us, self._lose, connection)
            self._later(for_us + 20 * S, connection.lanes[UP].let_go)

    def _late_hello(self, agent: str, for_us: int) -> None:
        """The link's next stream is held up from its Hello on and given up; all of that comes behind a newer Hello."""
        wire = self._world.machines[agent].wire
        wire.holds_next = True
        self._later(for_us, self._lose_late, wire)
        self._reset(agent)

    def _lose_late(self, wire: Any) -> None:
        wire.holds_next = False
        for connection in list(wire.connections):
            if connection.is_late:
                self._lose(connection)
                self._later(20 * S, connection.lanes[UP].let_go)

    def _lose(self, connection: Any) -> None:
        if connection.lanes[DOWN].is_open:
            connection.link_gone()
            connection.link.ended("UNAVAILABLE", "", "lost")

    def _half_open(self, agent: str) -> None:
        """The link loses its stream; the coordinator hears nothing of that."""
        keeper = self._world.machines[agent].keeper
        if keeper is not None and keeper.link.connection is not None:
            connection = keeper.link.connection
            connection.link_gone()
            keeper.link.ended("UNAVAILABLE", "", "half open")

    def _duplicates(self, agent: str, for_us: int) -> None:
        wire = self._world.machines[agent].wire
        wire.duplicates = 0.3
        self._later(for_us, self._set, wire, "duplicates", 0.0)

    def _slow_network(self, agent: str, for_us: int) -> None:
        wire = self._world.machines[agent].wire
        wire.latency_us = (50_000, 1_500_000)
        self._later(for_us, self._set, wire, "latency_us", self._world.latency_us)

    def _replies_lost(self, for_us: int) -> None:
        self._world.clients.loses_replies = 0.4
        self._later(for_us, self._set, self._world.clients, "loses_replies", 0.0)
