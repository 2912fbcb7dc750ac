"""The smallest plan that still breaks the same promise: items are left out as long as it does (delta debugging)."""

from __future__ import annotations

from collections.abc import Callable

from sim import workload
from sim.plan import Item, Plan
from sim.simulate import Outcome, run

RUNS_MAX = 300


def shrunk(seed: int, *, brief: bool = False) -> Outcome:
    """The outcome of a seed's smallest plan that still fails; of the whole plan when it does not fail."""
    return smallest(workload.make(seed, brief=brief))


def smallest(plan: Plan, carry_out: Callable[[Plan], Outcome] = run) -> Outcome:
    """Leave out halves, quarters, ... of the items while the same promise breaks."""
    best = carry_out(plan)
    if best.broken is None:
        return best
    wanted, runs, size = best.invariant, 0, max(1, len(plan.items) // 2)
    while size and runs < RUNS_MAX:
        position, found = 0, False
        while position < len(best.plan.items) and runs < RUNS_MAX:
            runs += 1
            tried = carry_out(plan.with_items(_without(best.plan.items, position, size)))
            if tried.broken is not None and tried.invariant == wanted:
                best, found = tried, True
            else:
                position += size
        if not found or size > 1:
            size //= 2
    return best


def _without(items: tuple[Item, ...], position: int, size: int) -> tuple[Item, ...]:
    return items[:position] + items[position + size :]
