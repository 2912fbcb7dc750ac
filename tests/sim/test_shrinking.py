"""Shrinking: a failing plan is cut to what it needs."""

from __future__ import annotations

from sim import workload
from sim.planted import bugs, planted
from sim.shrink import smallest
from sim.simulate import run


def test_a_failing_plan_is_cut_to_what_it_needs() -> None:
    """With a planted bug the shrunk plan breaks the same promise with a fraction of the items."""
    with planted(bugs()["use one slot too many"]):
        plans = (workload.make(seed) for seed in range(100))
        plan = next(plan for plan in plans if run(plan).broken is not None)
        outcome = smallest(plan)
    assert outcome.broken is not None
    assert len(outcome.plan.items) <= len(plan.items) // 2
