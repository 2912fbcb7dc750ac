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
    kernel.run_while(lambda: not _are_online(world), calm_us + ONLINE_WITHIN_US, S // 10)
    for name in world.machines:
        demand("online", _is_online(world, name), "agent {} is not online 30 s after faults stopped", name)
    before = -1
    while (left := _open_count(world)) != before:
        before = left
        kernel.run_while(lambda: not _is_at_rest(world), kernel.now_us + ENDS_WITHIN_US, S)
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


def _are_online(world: Any) -> bool:
    return all(_is_online(world, name) for name in world.machines)


def _is_online(world: Any, name: str) -> bool:
    """Both sides say so."""
    keeper, row = world.machines[name].keeper, world.witness.records.agents.get(name)
    return keeper is not None and keeper.session.is_live and row is not None and row.connectivity == ONLINE


def _open_count(world: Any) -> int:
    return sum(view.state not in TERMINAL for view in world.witness.records.tasks.values())


def _is_at_rest(world: Any) -> bool:
    """Whether nothing is open, pending or running."""
    if any(view.state not in TERMINAL for view in world.witness.records.tasks.values()):
        return False
    keepers = [machine.keeper for machine in world.machines.values()]
    idle = all(keeper and not keeper.outboxes.pending and not keeper.runner.board.attempts for keeper in keepers)
    return idle and not world.witness.active_runs()
