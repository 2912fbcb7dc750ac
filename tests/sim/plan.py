"""What a seed does to the system, written down before it happens: settings, features, work and faults as data.

A plan is made from a seed alone and can be cut: `shrink` leaves items out and runs it again. Times count from the
start of the simulation, in microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Item(NamedTuple):
    """One thing that somebody does, or that goes wrong, at a time."""

    at_us: int
    kind: str
    data: Mapping[str, Any]

    def __str__(self) -> str:
        words = " ".join(f"{name}={value!r}" for name, value in self.data.items())
        return f"@{self.at_us / 1e6:.3f} {self.kind} {words}".rstrip()


@dataclass(frozen=True)
class AgentPlan:
    """One agent's machine: ``drift`` is how much faster its clock runs (0.01 = 1 %)."""

    name: str
    slots: int
    prefetch_credit: int
    parked_max: int
    labels: Mapping[str, str] = field(default_factory=dict)
    drift: float = 0.0
    hello: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Everything that a seed decides in advance."""

    seed: int
    features: tuple[str, ...]
    faults: tuple[str, ...]
    settings: Mapping[str, Any]
    agents: tuple[AgentPlan, ...]
    items: tuple[Item, ...]
    quiet_us: int
    """When faults stop."""

    def with_items(self, items: tuple[Item, ...]) -> Plan:
        """The same with other items."""
        return Plan(self.seed, self.features, self.faults, self.settings, self.agents, items, self.quiet_us)
