"""Planted bugs: the simulator finds them. `make planted` hunts all of them, this the ones that are found soon."""

from __future__ import annotations

import pytest

from sim.planted import bugs, hunt

SOON = (
    "give attempts up before their grace",
    "jump over an attempt number",
    "answer before the commit",
    "store no outbox positions",
    "send an attempt whose row is not stored",
    "drop a report when it is sent",
    "take a failure for a success of a dependency",
    "two probes through the breaker",
    "use one slot too many",
    "start again what may have started",
    "acknowledge every cancel",
    "give two sessions one epoch",
    "write events backwards",
    "store no waits",
    "ask no limit",
    "answer nobody who waits",
)


@pytest.mark.parametrize("name", SOON)
def test_a_planted_bug_is_found(name: str) -> None:
    """With this bug some seed breaks a promise."""
    assert hunt(name, 100).seeds


def test_enough_is_planted_for_every_invariant() -> None:
    """At least 40 bugs, and at least one for every invariant."""
    planted = bugs().values()
    assert len(planted) >= 40
    assert {f"I{number}" for number in range(1, 22)} <= {bug.invariant for bug in planted}
