"""How long a task's waits may last and what happens then, as people write it: ``clarification=10m:move``. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import NamedTuple

from outrider.durations import duration_s
from outrider.errors import InvalidRequest
from outrider.v1 import task_pb2

__all__ = ["KINDS", "WaitBudget"]

#: What a task can wait for: another task or a limit, an outside system, more time, an answer.
KINDS = ("dependency", "external", "complexity", "clarification")
_EXPIRIES = {
    "fail": task_pb2.WAIT_EXPIRY_FAIL,
    "move": task_pb2.WAIT_EXPIRY_MOVE,
    "keep": task_pb2.WAIT_EXPIRY_KEEP,
    "move-or-keep": task_pb2.WAIT_EXPIRY_MOVE_OR_KEEP,
}
#: A hundred years.
_SECONDS_MAX = 3_155_760_000


class WaitBudget(NamedTuple):
    """``seconds`` that a wait may last, None for the coordinator's setting, and what then.

    That is ``fail``, ``move``, ``keep`` or ``move-or-keep``.
    """

    seconds: float | None = None
    on_expiry: str = "fail"

    @classmethod
    def parse(cls, text: str) -> WaitBudget:
        """``10m``, ``10m:move``, ``90:keep`` or ``keep``. Raises `InvalidRequest`."""
        duration, colon, on_expiry = text.partition(":")
        if not colon and duration in _EXPIRIES:
            return cls(None, duration)
        return cls(duration_s(duration), on_expiry if colon else "fail").checked()

    def checked(self) -> WaitBudget:
        """The same. Raises `InvalidRequest` for one that cannot be."""
        if self.on_expiry not in _EXPIRIES:
            raise InvalidRequest(f"a wait over its budget can {', '.join(_EXPIRIES)}, not {self.on_expiry!r}")
        if self.seconds is not None and not 0 < self.seconds <= _SECONDS_MAX:
            raise InvalidRequest(f"a wait lasts more than 0 and at most {_SECONDS_MAX} seconds, not {self.seconds!r}")
        return self


def apply(budgets: Mapping[str, WaitBudget | str | float | dt.timedelta], spec: task_pb2.TaskSpec) -> None:
    """Write budgets by kind into a spec; ``any`` stands for every kind. Raises `InvalidRequest`."""
    for kind, given in budgets.items():
        if kind not in (*KINDS, "any"):
            raise InvalidRequest(f"{kind!r} is no kind of wait; use any, {', '.join(KINDS)}")
        budget = _budget(given)
        for name in KINDS if kind == "any" else (kind,):
            policy = getattr(spec.wait_policies, name)
            policy.on_expiry = _EXPIRIES[budget.on_expiry]
            policy.ClearField("budget_duration")
            if budget.seconds is not None:
                policy.budget_duration.FromTimedelta(dt.timedelta(seconds=budget.seconds))


def _budget(given: WaitBudget | str | float | dt.timedelta) -> WaitBudget:
    if isinstance(given, str):
        return WaitBudget.parse(given)
    if isinstance(given, WaitBudget):
        return given.checked()
    return WaitBudget(given.total_seconds() if isinstance(given, dt.timedelta) else float(given)).checked()
