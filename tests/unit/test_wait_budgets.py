"""Budgets of waits as people write them, and as the coordinator takes them."""

from __future__ import annotations

import pytest

from outrider.errors import InvalidRequest
from outrider.v1 import task_pb2
from outrider.wait_budgets import KINDS, WaitBudget, apply
from outrider_coordinator.core.spec import WaitExpiry
from outrider_coordinator.rpc.specs import SpecReader

READER = SpecReader(1 << 20)


@pytest.mark.parametrize(
    ("text", "seconds", "on_expiry"),
    [
        ("10m", 600, WaitExpiry.FAIL),
        ("10m:move", 600, WaitExpiry.MOVE),
        ("90:keep", 90, WaitExpiry.KEEP),
        ("1s:move-or-keep", 1, WaitExpiry.MOVE_OR_KEEP),
        ("move-or-keep", 0, WaitExpiry.MOVE_OR_KEEP),
    ],
)
def test_a_budget_arrives_as_it_was_written(text: str, seconds: int, on_expiry: WaitExpiry) -> None:
    """What is written for any kind is the policy of each kind at the coordinator."""
    spec = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function="m:f"))
    apply({"any": text}, spec)
    facts = READER.read(spec, "spec", "default")
    assert {tuple(getattr(facts.waits, kind)) for kind in KINDS} == {(seconds * 1_000_000, on_expiry)}


@pytest.mark.parametrize("text", ["10m:wander", "0s:move", "soon"])
def test_a_budget_that_cannot_be_is_refused(text: str) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidRequest):
        WaitBudget.parse(text)


@pytest.mark.parametrize("text", ["1s:move", "1s:move-or-keep"])
def test_what_runs_at_most_once_cannot_move(text: str) -> None:
    """The coordinator refuses a policy that could start it again."""
    spec = task_pb2.TaskSpec(function=task_pb2.PythonFunction(function="m:f"), at_most_once=True)
    apply({"external": text}, spec)
    with pytest.raises(InvalidRequest, match="cannot MOVE"):
        READER.read(spec, "spec", "default")
