"""The table of steps is the only way from state to state, and the page that draws it is up to date."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.source_tree import ROOT, Source, sources

CORE = "coordinator/outrider_coordinator/core"
FIELDS = {"state", "connectivity", "admin"}
#: Where the table is applied: to attempts, agents and breakers, and to tasks.
APPLIED = {f"{CORE}/transitions.py", f"{CORE}/state.py"}


def assigned(source: Source) -> Iterator[tuple[int, str]]:
    """Line and name of every attribute that is assigned to."""
    for part in ast.walk(source.tree):
        if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            yield part.lineno, part.attr


def test_states_change_only_by_the_table() -> None:
    """No module of the core but those that apply the table assigns a state."""
    wrong = [
        f"{source.path}:{line}: {name} is assigned"
        for source in sources(CORE)
        for line, name in assigned(source)
        if name in FIELDS and source.path not in APPLIED
    ]
    assert not wrong, "use State.move or a move_... of core/transitions.py:\n" + "\n".join(wrong)


def test_the_drawing_is_that_of_the_table(tmp_path: Path) -> None:
    """docs/state-machines.md is what its generator writes now."""
    target = tmp_path / "state-machines.md"
    subprocess.run([sys.executable, ROOT / "docs/generate_state_machines.py", target], check=True)
    assert target.read_text() == (ROOT / "docs/state-machines.md").read_text(), "run: make docs"
