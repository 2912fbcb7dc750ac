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
    "two probes through the breaker",
    "the breaker never opens",
    "forget to give a slot back",
    "one slot too many",
    "take a Hello that comes late",
    "forget exclusive",
    "wait for no lease",
    "let a success win over a cancel",
    "accept more than the queue holds",
    "give two sessions one epoch",
    "leave cursors out",
    "write events backwards",
    "store no waits",
    "store no time of the next try",
    "store no counted tries",
    "forget to release limits",
    "ask no limit",
    "doubt no offer",
    "watch no deadline and no queue timeout",
    "answer nobody who waits",
    "let the older process have its name back",
    "pass a gap and tell nobody",
    "fire beside work that has not ended",
    "skip a time and count nothing",
    "watch no cap",
    "keep what was waited for",
    "forget who got what they waited for",
    "wake nobody who waits for a limit",
    "reuse an outbox seq",
    "drop a report when it is sent",
    "drop everything on Welcome",
    "send what is not synced",
    "use one slot too many",
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
