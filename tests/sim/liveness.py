"""What must come to pass once faults stop and a capable agent is there."""

from __future__ import annotations

from typing import Any

from sim.oracle_records import ONLINE, TERMINAL

S = 1_000_000
ONLINE_WITHIN_US = 30 * S
#: From one outcome to the next: longer than any grace, backoff, breaker and script of one task together. How long all
#: of them take is a matter of how much a plan asks of how few slots.
ENDS_WITHIN_US = 900 * S


def judge(world: Any) -> None:
    """Let a world go on without faults until it is at rest; raises Broken when it does not come to rest."""
    demand, kernel = world.marks.demand, world.kernel
    calm_us = kernel.now_us
    kernel.run_until(calm_us + ONLINE_WITHIN_US, lambda: all(_is_online(world, name) for name in world.machines))
    for name in world.machines:
        demand("online", _is_online(world, name), "agent {} is not online 30 s after faults stopped", name)
    looks = _Rest(world)
    before = -1
    while (left := _open_count(world)) != before:
        before = left
        kernel.run_until(kernel.now_us + ENDS_WITHIN_US, looks.is_over)
    open_tasks = [view.id for view in world.witness.records.tasks.values() if view.state not in TERMINAL]
    demand("ends", not open_tasks, "tasks never end: {}", open_tasks[:5])
    world.witness.records.runs.judge_rest()
    world.witness.records.limits.judge_rest()
    world.witness.rebuilt(world.process.state, world.process.pending_rows(), world.store.tables)
    for name, machine in world.machines.items():
        pending = machine.keeper.outboxes.pending if machine.keeper else -1
        demand("empty", pending == 0, "agent {} has {} reports that nobody takes", name, pending)
        held = list(machine.keeper.runner.board.attempts) if machine.keeper else []
        demand("empty", not held, "agent {} still holds attempts {}", name, held)
    runs = [(run.task_id, run.attempt, run.agent) for run in world.witness.active_runs()]
    demand("quiet", not runs, "user code runs without a live attempt: {}", runs)


def _is_online(world: Any, name: str) -> bool:
    """Both sides say so."""
    keeper, row = world.machines[name].keeper, world.witness.records.agents.get(name)
    return keeper is not None and keeper.session.is_live and row is not None and row.connectivity == ONLINE


def _open_count(world: Any) -> int:
    return sum(view.state not in TERMINAL for view in world.witness.records.tasks.values())


class _Rest:
    """Whether everything is over; looked at rarely, for it looks at everything."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self._next_us = 0

    def is_over(self) -> bool:
        """Whether nothing is open, pending or running."""
        world = self._world
        if world.kernel.now_us < self._next_us:
            return False
        self._next_us = world.kernel.now_us + S
        if any(view.state not in TERMINAL for view in world.witness.records.tasks.values()):
            return False
        keepers = [machine.keeper for machine in world.machines.values()]
        idle = all(keeper and not keeper.outboxes.pending and not keeper.runner.board.attempts for keeper in keepers)
        return idle and not world.witness.active_runs()
