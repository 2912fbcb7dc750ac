"""Plans that once failed: each was written down when it did, and keeps every promise since it was mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim import kept, workload
from sim.planted import bugs, planted
from sim.report import failure
from sim.simulate import Outcome, run, run_seed
from sim.story import lines

PLANS = sorted(kept.KEPT.glob("*.json"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_kept_plan_keeps_every_promise(path: Path) -> None:
    """What broke under this plan once does not break any more."""
    outcome = run(kept.read(path.read_text()))
    assert outcome.broken is None, failure(outcome)


def test_a_written_plan_is_the_same_plan() -> None:
    """A plan that was written down and read again makes the same things happen."""
    plan = workload.make(5)
    again = kept.read(kept.written(plan, "a test"))
    assert _told(run(again)) == _told(run(plan))


def test_a_failure_leaves_a_plan_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failing seed leaves behind fails again by itself, in the same way."""
    monkeypatch.setattr(kept, "FAILED", tmp_path)
    with planted(bugs()["use one slot too many"]):
        seen = next(outcome for outcome in map(run_seed, range(100)) if outcome.broken is not None)
        path = kept.write_failure(seen)
        again = run(kept.read(path.read_text()))
    assert str(again.broken) == str(seen.broken)
    assert str(seen.broken) in path.with_suffix(".txt").read_text()


def _told(outcome: Outcome) -> list[str]:
    """What happened; the lines of the plan itself say tuples where the other has lists."""
    return [line for line in lines(outcome.story) if " plan " not in line]
