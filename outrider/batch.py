"""Many calls as one task: what `map(batch=N)` runs on the agent. For items so small that a task each would not pay."""

from __future__ import annotations

import importlib
from typing import Any


def call_many(function: str, calls: list[list[Any]]) -> list[Any]:
    """Call ``module:qualified.name`` once per item with its positional arguments; the results, in order.

    The first exception ends the batch.
    """
    module, _, name = function.partition(":")
    called: Any = importlib.import_module(module)
    for part in name.split("."):
        called = getattr(called, part)
    return [called(*arguments) for arguments in calls]
