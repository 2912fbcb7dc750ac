"""What a failing seed says: seed and commit, the promise that broke, the plan and the end of the story."""

from __future__ import annotations

import subprocess
import traceback
from pathlib import Path

from sim.simulate import Outcome
from sim.story import lines

STORY_LINES = 60


def failure(outcome: Outcome) -> str:
    """For people; empty when nothing broke."""
    if outcome.broken is None:
        return ""
    plan = outcome.plan
    parts = [
        f"seed {plan.seed} at commit {commit()}: {outcome.broken}",
        f"features: {' '.join(plan.features)}",
        f"faults: {' '.join(plan.faults)}",
        "the end of the story:",
        *lines(outcome.story)[-STORY_LINES:],
    ]
    if outcome.invariant not in str(outcome.broken):
        parts += traceback.format_exception(outcome.broken)
    return "\n".join(parts)


def commit() -> str:
    """Short hash of the tree's commit; "unknown" outside a repository."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
