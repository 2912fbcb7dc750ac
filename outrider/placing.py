"""Where a task may run and would like to run, as people write it, in a TaskSpec. Pure.

Owns the words for strategies, label conditions and amounts. Each refusal says how to write it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from outrider.errors import InvalidRequest
from outrider.v1 import task_pb2

STRATEGIES = {
    "least-loaded": task_pb2.PLACEMENT_STRATEGY_LEAST_LOADED,
    "round-robin": task_pb2.PLACEMENT_STRATEGY_ROUND_ROBIN,
    "random": task_pb2.PLACEMENT_STRATEGY_RANDOM,
    "performance": task_pb2.PLACEMENT_STRATEGY_PERFORMANCE,
    "two-choices": task_pb2.PLACEMENT_STRATEGY_TWO_CHOICES,
}
_SCALES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(i?)B?")
_CONDITION = re.compile(r"(!?)([^=!,\s]{1,63})(?:(!?=)([^=!\s]+))?")
_LABEL = task_pb2.LabelConstraint


def strategy(name: str) -> task_pb2.PlacementStrategy.ValueType:
    """A strategy by name. Raises `InvalidRequest`."""
    number = STRATEGIES.get(name.lower().replace("_", "-"))
    if number is None:
        raise InvalidRequest(f"strategy {name!r} is none; use one of {', '.join(STRATEGIES)}")
    return number


def amount(value: float | str) -> float:
    """An amount of a resource: a number, or text like ``2``, ``0.5``, ``512M`` or ``4GiB``. Raises `InvalidRequest`."""
    if isinstance(value, str):
        found = _AMOUNT.fullmatch(value)
        if found is None:
            raise InvalidRequest(f"{value!r} is no amount; write 2, 0.5, 512M or 4GiB")
        number, letter, binary = found.groups()
        scale = 1024 ** "KMGT".find(letter) * 1024 if binary and letter else _SCALES[letter]
        value = float(number) * scale
    if not (math.isfinite(value) and value > 0):
        raise InvalidRequest(f"an amount of a resource is above 0, not {value!r}")
    return float(value)


def add_conditions(conditions: Iterable[str], spec: task_pb2.TaskSpec) -> None:
    """Label conditions: ``zone=a``, ``zone=a,b`` (one of), ``zone!=a,b``, ``gpu`` (present), ``!gpu`` (absent)."""
    for text in conditions:
        found = _CONDITION.fullmatch(text)
        if found is None or (found[1] and found[3]):
            raise InvalidRequest(f"{text!r} is no label condition; write zone=a, zone=a,b, zone!=a, gpu or !gpu")
        absent, key, comparison, values = found.groups()
        if comparison:
            operator = _LABEL.OPERATOR_IN if comparison == "=" else _LABEL.OPERATOR_NOT_IN
            spec.constraints.add(key=key, operator=operator, values=values.split(","))
        else:
            spec.constraints.add(key=key, operator=_LABEL.OPERATOR_NOT_EXISTS if absent else _LABEL.OPERATOR_EXISTS)


def add_resources(resources: Mapping[str, float | str], spec: task_pb2.TaskSpec) -> None:
    """What it takes of its agent's machine, by name."""
    for name, value in resources.items():
        spec.resources[name] = amount(value)


def add_affinities(weights: Mapping[str, int], spec: task_pb2.TaskSpec) -> None:
    """How much it would like to be on named agents, -100 to 100."""
    for agent_id, weight in weights.items():
        if not (weight and abs(weight) <= 100):
            raise InvalidRequest(f"the affinity to {agent_id!r} is {weight}; a weight is -100 to 100, and not 0")
        spec.placement.affinities.add(agent_id=agent_id, weight=weight)
