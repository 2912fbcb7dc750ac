"""docs/sdk.md does what it says: every block of Python runs, in order, and prints what its comments say."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import Cluster, cluster
from support.source_tree import ROOT

PAGE = ROOT / "docs" / "sdk.md"


def blocks() -> list[tuple[int, str]]:
    """The line before each block, counted from 0, and the block."""
    text = PAGE.read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match.group(1)) for match in found]


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster in a folder with the page's module."""
    (_, module), *_ = blocks()
    assert module.startswith("# work.py")
    (tmp_path / "work.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with cluster(tmp_path) as started:
        monkeypatch.setenv("OUTRIDER_COORDINATOR", started.address)
        yield started
    sys.modules.pop("work")


def test_every_block_of_the_page_works(running: Cluster) -> None:
    """Run as one program; a print that has a comment prints just that."""
    lines = PAGE.read_text().splitlines()
    checked: set[int] = set()

    def printed(*values: object) -> None:
        line = sys._getframe(1).f_lineno
        _, _, expected = lines[line - 1].partition("  # ")
        if expected:
            assert " ".join(map(str, values)) == expected, f"{PAGE.name}:{line}"
            checked.add(line)

    names = {"print": printed, "__name__": "page"}
    for before, block in blocks()[1:]:
        exec(compile("\n" * before + block, str(PAGE), "exec"), names)
    claims = {number for number, line in enumerate(lines, 1) if "print(" in line and "  # " in line}
    assert checked == claims
