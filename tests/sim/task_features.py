"""What features add to the spec of a task: a function each, and what named limits are said to be."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

S = 1_000_000
Task = dict[str, Any]


def _retries(dice: random.Random, spec: Task) -> None:
    spec["retry"] = {"max_attempts": dice.choice((1, 2, 4)), "initial_us": dice.choice((100_000, 1_500_000))}


def _timeouts(dice: random.Random, spec: Task) -> None:
    spec["timeout"] = dice.choice((300_000, 1_500_000, 6_000_000))


def _priorities(dice: random.Random, spec: Task) -> None:
    spec["priority"] = dice.choice((0, 2, 5, 7, 10))


def _not_before(dice: random.Random, spec: Task) -> None:
    spec["not_before_after_us"] = dice.randrange(10 * S)


def _queue_timeouts(dice: random.Random, spec: Task) -> None:
    spec["queue_timeout"] = dice.choice((500_000, 4_000_000, 20_000_000))


def _exclusive(dice: random.Random, spec: Task) -> None:
    spec["exclusive"] = True


def _at_most_once(dice: random.Random, spec: Task) -> None:
    spec["at_most_once"] = True
    spec.pop("retry", None)


def _deadlines(dice: random.Random, spec: Task) -> None:
    spec["deadline_duration"] = dice.choice((1_500_000, 6_000_000, 20_000_000))


def _stalls(dice: random.Random, spec: Task) -> None:
    spec["stall_timeout"] = dice.choice((500_000, 3_000_000))


def _limits(dice: random.Random, spec: Task) -> None:
    names = dice.sample(("lock", "other", "semaphore", "rate"), dice.choice((1, 1, 2)))
    spec["limits"] = [(name, name in ("lock", "other") and dice.random() < 0.4) for name in names]


def _scopes(dice: random.Random, spec: Task) -> None:
    spec["write_scopes"] = dice.sample(("src/a.py", "src/b.py", "src/**", "docs/**"), dice.choice((1, 2)))


def _systems(dice: random.Random, spec: Task) -> None:
    spec["systems"] = ["api:x"]


def _resources(dice: random.Random, spec: Task) -> None:
    spec["resources"] = {"gpu": dice.choice((0.5, 1.0, 2.0))}


def _strategies(dice: random.Random, spec: Task) -> None:
    spec["placement"] = {
        "strategy": dice.randrange(6),
        "spread": dice.random() < 0.3,
        "sticky": dice.random() < 0.3,
        "affinity": dice.choice(("", "", "a", "b")),
    }


def _preemption(dice: random.Random, spec: Task) -> None:
    if dice.random() < 0.4:
        spec["priority"] = 10
    else:
        spec["preemptible"] = True


def _wait_budgets(dice: random.Random, spec: Task) -> None:
    budget_us = dice.choice((100_000, 300_000, 1_000_000, 3_000_000, 6_000_000))
    spec["wait_policies"] = {"budget_us": budget_us, "on_expiry": dice.choice((1, 2, 3, 4))}


def _types(dice: random.Random, spec: Task) -> None:
    spec["type"] = dice.choice(("one", "two"))


def _graces(dice: random.Random, spec: Task) -> None:
    spec["disconnect_grace"] = dice.choice((0, 500_000, 12_000_000, 30_000_000))


#: What the limits of `_limits` are said to be; the others are locks.
LIMITS: tuple[Task, ...] = (
    {"name": "semaphore", "counts": 1, "capacity": 2},
    {"name": "semaphore", "counts": 1, "capacity": 1},
    {"name": "rate", "counts": 2, "per_second": 4.0, "burst": 2},
)

#: Features that add something to a task's spec.
TASK_FEATURES: dict[str, Callable[[random.Random, Task], None]] = {
    "retries": _retries,
    "timeouts": _timeouts,
    "priorities": _priorities,
    "not_before": _not_before,
    "queue_timeouts": _queue_timeouts,
    "graces": _graces,
    "exclusive": _exclusive,
    "at_most_once": _at_most_once,
    "deadlines": _deadlines,
    "stalls": _stalls,
    "limits": _limits,
    "scopes": _scopes,
    "systems": _systems,
    "resources": _resources,
    "strategies": _strategies,
    "preemption": _preemption,
    "wait_budgets": _wait_budgets,
    "types": _types,
}
