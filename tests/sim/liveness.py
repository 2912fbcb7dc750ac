"""What must come to pass once faults stop and a capable agent is there."""

from __future__ import annotations

from typing import Any

from sim.oracle_records import ONLINE, TERMINAL

S = 1_000_000
ONLINE_WITHIN_US = 30 * S
#: Longer than any grace, backoff, breaker and script of a plan together.
ENDS_WITHIN_US = 900 * S


def judge(world: Any) -> None:
    """Let a world go on without faults until it is at rest; raises Broken when it does not come to rest."""
    demand, kernel = world.marks.demand, world.kernel
    calm_us = kernel.now_us
    kernel.run_until(calm_us + ONLINE_WITHIN_US)
    for name, machine in world.machines.items():
        row = world.witness.records.agents.get(name)
        live = machine.keeper is not None and machine.keeper.session.is_live
        there = row is not None and row.connectivity == ONLINE
        demand("online", live and there, "agent {} is not online 30 s after faults stopped", name)
    looks = _Rest(world)
    kernel.run_until(calm_us + ENDS_WITHIN_US, looks.is_over)
    open_tasks = [view.id for view in world.witness.records.tasks.values() if view.state not in TERMINAL]
    demand("ends", not open_tasks, "tasks never end: {}", open_tasks[:5])
    for name, machine in world.machines.items():
        pending = machine.keeper.outboxes.pending if machine.keeper else -1
        demand("empty", pending == 0, "agent {} has {} reports that nobody takes", name, pending)
        held = list(machine.keeper.runner.board.attempts) if machine.keeper else []
        demand("empty", not held, "agent {} still holds attempts {}", name, held)
    runs = [(run.task_id, run.attempt, run.agent) for run in world.witness.active_runs()]
    demand("quiet", not runs, "user code runs without a live attempt: {}", runs)


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
