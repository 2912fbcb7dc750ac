"""Breakers under random work: never two probes, never stuck without one, whatever ends them."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.states import BreakerState
from support.trust_walk import walked

SEEDS = 56


@pytest.mark.parametrize("seed", range(SEEDS))
def test_probes_are_leased_one_at_a_time_and_given_back(seed: int) -> None:
    """No walk has two probes of one breaker (I10, checked after every step), and none is stuck without a probe."""
    walk = walked(seed)
    walk.settle()
    left = {known.name: known.state.name for known in walk.breakers() if known.state is not BreakerState.CLOSED}
    assert left == {}
    assert walk.world.state.tasks == {}
    assert walk.world.state.probes == {}


def test_the_walks_go_everywhere() -> None:
    """Each kind of breaker was seen in each state, and leased: the walks above mean something."""
    seen = set().union(*(walked(seed).seen for seed in range(20)))
    assert seen == {(kind, state) for kind in ("agent", "type", "system") for state in BreakerState}
