"""A census of a Python source tree, taken by two agents on this machine.

    python examples/census.py [TREE]

Starts a coordinator and two agents, sends them the tree's files in batches, merges the parts in the last task of a graph,
shows how it goes, prints a report, and stops everything again. TREE is the running interpreter's standard library unless
it is given. Exit code 0 means that the report is complete.
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import census_work
from outrider.local_cluster import local_cluster

import outrider

#: A batch takes a fraction of a second, and there are enough of them to keep two agents busy to the end.
BATCH_BYTES = 256 * 1024
BATCHES_MAX = 2000
SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "node_modules", ".git", ".venv"}


@dataclass(frozen=True)
class Census:
    """What came back: the merged total, the parts, their task ids by key, and how long it took, s."""

    total: census_work.Part
    parts: list[census_work.Part]
    first_task_id: str
    wall_s: float


def python_files(tree: Path) -> list[str]:
    """Every Python file below ``tree``, relative to it, in a fixed order; links are not followed."""
    found = []
    for folder, folders, names in os.walk(tree):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        paths = (Path(folder, name) for name in names if name.endswith(".py"))
        found += [str(path.relative_to(tree)) for path in paths if not path.is_symlink()]
    return sorted(found)


def batches(tree: Path, paths: list[str]) -> list[list[str]]:
    """Neighbours together, until a batch has its share of bytes."""
    sizes = [(tree / path).stat().st_size for path in paths]
    share = max(BATCH_BYTES, sum(sizes) // BATCHES_MAX)
    found: list[list[str]] = [[]]
    filled = 0
    for path, size in zip(paths, sizes, strict=True):
        if filled >= share:
            found.append([])
            filled = 0
        found[-1].append(path)
        filled += size
    return [batch for batch in found if batch]


def take_census(client: outrider.Client, tree: Path, work: list[list[str]]) -> Census:
    """Submit the graph, show its progress, and collect the total and the parts."""
    started = time.perf_counter()
    run = client.run(f"census of {tree}")
    keys = [f"part-{number:04d}" for number in range(1, len(work) + 1)]
    for key, batch in zip(keys, work, strict=True):
        run.add(key, census_work.count_batch, str(tree), batch)
    run.add("merge", census_work.merge_inputs, after=keys, inputs_argument="inputs")
    handle = run.submit()
    show_progress(handle, len(keys))
    total = handle.result("merge")
    wall_s = time.perf_counter() - started
    return Census(total, [handle.result(key) for key in keys], handle.tasks[keys[0]].id, wall_s)
