"""Planted bugs: the simulator finds them. `make planted` hunts all of them, this the ones that are found soon."""

from __future__ import annotations

from collections import Counter

import pytest

from sim.planted import bugs, hunt

SOON = (
    "forget nothing that ended",
    "let a late success overwrite the outcome",
    "give attempts up before their grace",
    "jump over an attempt number",
    "try for ever",
    "store no outbox positions",
    "answer before the commit",
    "store no new tasks",
    "let the next batch leave with this one",
    "send an attempt whose row is not stored",
    "take a failure for a success of a dependency",
    "offer to paused agents",
    "two probes through the breaker",
    "the breaker never opens",
    "forget to give a slot back",
    "one slot too many",
    "acknowledge every cancel",
    "tell no agent of a cancel",
    "accept more than the queue holds",
    "start with the same epoch",
    "give two sessions one epoch",
    "pass a failure on twice",
    "leave cursors out",
    "write events backwards",
    "store no waits",
    "store no time of the next try",
    "store no counted tries",
    "forget to release limits",
    "ask no limit",
    "watch no deadline and no queue timeout",
    "answer nobody who waits",
    "reuse an outbox seq",
    "drop a report when it is sent",
    "drop everything on Welcome",
    "send what is not synced",
)


@pytest.mark.parametrize("name", SOON)
def test_a_planted_bug_is_found(name: str) -> None:
    """With this bug some seed breaks a promise."""
    assert hunt(name, 100).seeds


def test_enough_is_planted_for_every_invariant() -> None:
    """At least 40 bugs, and at least two for every invariant."""
    planted = Counter(bug.invariant for bug in bugs().values())
    assert planted.total() >= 40
    assert [number for number in range(1, 22) if planted[f"I{number}"] < 2] == []
