"""What an attempt takes of its agent's machine: amounts of `cpu`, `memory`, `gpu` and whatever else was declared.

Taken with the offer, given back when the attempt is no longer live; one that is BLOCKED keeps them. Only tasks that
claim something count: what an agent declares is not an upper bound for those that claim nothing.

Invariant: what is used equals the sum over the agent's live attempts, never more than it declared, save where it
declared less when it came back with work that it had been given before. Amounts are kept to a millionth.
"""

from __future__ import annotations

from outrider_coordinator.core.model import Agent, Attempt
from outrider_coordinator.core.rules import Rule

Amounts = tuple[tuple[str, float], ...]

_DIGITS = 6
#: Less than the least amount that counts.
EPSILON = 0.5 * 10**-_DIGITS


def lacking(agent: Agent, amounts: Amounts) -> Rule | None:
    """The first amount that the agent does not have even when it is idle, None when it has all."""
    for name, wanted in amounts:
        there = agent.resources.get(name, 0.0)
        if wanted > there + EPSILON:
            return Rule("RESOURCES", f"it takes {name}={wanted:g}; the agent has {there:g}")
    return None


def in_use(agent: Agent, amounts: Amounts) -> Rule | None:
    """The first amount that others have taken, None when all are free now."""
    for name, wanted in amounts:
        there, used = agent.resources.get(name, 0.0), agent.resources_used.get(name, 0.0)
        if wanted > there - used + EPSILON:
            return Rule("RESOURCES_IN_USE", f"it takes {name}={wanted:g}; {used:g} of {there:g} in use")
    return None


def take(agent: Agent, attempt: Attempt) -> None:
    """A new or resumed attempt takes its amounts."""
    used = agent.resources_used
    for name, amount in attempt.resources:
        used[name] = round(used.get(name, 0.0) + amount, _DIGITS)


def give_back(agent: Agent, attempt: Attempt) -> None:
    """An attempt is live no longer: others may take its amounts."""
    used = agent.resources_used
    for name, amount in attempt.resources:
        left = round(used.get(name, 0.0) - amount, _DIGITS)
        if left > EPSILON:
            used[name] = left
        else:
            used.pop(name, None)


def check(agent: Agent) -> None:
    """The sum over live attempts is what counts as used. Raises AssertionError."""
    found: dict[str, float] = {}
    for attempt in agent.attempts.values():
        for name, amount in attempt.resources:
            found[name] = found.get(name, 0.0) + amount
    for name in sorted(found.keys() | agent.resources_used.keys()):
        taken, counted = found.get(name, 0.0), agent.resources_used.get(name, 0.0)
        story = f"agent {agent.id}: {name} taken by live attempts is {taken}, counted {counted}"
        assert abs(taken - counted) <= len(agent.attempts) * 2 * EPSILON + EPSILON, story
