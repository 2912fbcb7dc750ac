"""Kept stories of a tiny system, word by word; ``--rewrite`` tells them anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.transcript import told

STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_kept_story_is_told_again(path: Path, pytestconfig: pytest.Config) -> None:
    """Each command has the reaction that the transcript shows."""
    now = told(path.read_text())
    if pytestconfig.getoption("--rewrite"):
        path.write_text(now)
    assert path.read_text() == now
