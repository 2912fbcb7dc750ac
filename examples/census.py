"""A census of a Python source tree, taken by two agents on this machine.

    python examples/census.py [TREE]

Starts a coordinator and two agents, sends them the tree's files in batches, merges the parts in the last task of a
graph, shows how it goes, prints a report, and stops everything again. TREE is the running interpreter's standard
library unless it is given. Exit code 0 means that the report is complete.
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import census_work
import outrider
from outrider.client import RunBuilder
from outrider.local_cluster import local_cluster

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


def graph(client: outrider.Client, tree: Path, work: list[list[str]]) -> RunBuilder:
    """One task per batch of files, and one that merges what they return."""
    run = client.run(f"census of {tree}")
    keys = [
        run.add(f"part-{number:04d}", census_work.count_batch, str(tree), batch) for number, batch in enumerate(work, 1)
    ]
    run.add("merge", census_work.merge_inputs, after=keys, inputs_argument="inputs")
    return run


def take_census(client: outrider.Client, tree: Path, work: list[list[str]]) -> Census:
    """Submit the graph, show its progress, and collect the total and the parts."""
    started = time.perf_counter()
    handle = graph(client, tree, work).submit()
    show_progress(handle, len(work))
    total = handle.result("merge")
    wall_s = time.perf_counter() - started
    parts = [handle.result(key) for key in handle.tasks if key != "merge"]
    return Census(total, parts, next(iter(handle.tasks.values())).id, wall_s)


def show_progress(handle: outrider.RunHandle, parts: int) -> None:
    """Say how far the run is, as it goes: a line drawn again on a terminal, a line per tenth in a pipe."""
    seen, told, began = set(), 0, time.perf_counter()
    is_live = sys.stderr.isatty()
    for event in handle.events():
        if event.type not in ("TASK_SUCCEEDED", "TASK_FAILED", "TASK_CANCELLED", "TASK_SKIPPED"):
            continue
        seen.add(event.task_id)
        tenth = len(seen) * 10 // (parts + 1)
        if is_live or tenth > told:
            told = tenth
            text = f"{len(seen)} of {parts + 1} tasks done after {time.perf_counter() - began:.1f} s"
            print(f"\r{text}" if is_live else text, end="" if is_live else "\n", file=sys.stderr, flush=True)
    if is_live:
        print(file=sys.stderr)


def report(census: Census, tree: Path) -> Iterator[str]:
    """The report, line by line."""
    total = census.total
    yield f"{tree}"
    yield f"  {total['files']:,} files, {total['lines']:,} lines, {total['functions']:,} functions"
    mean = total["complexity"] / total["functions"] if total["functions"] else 0.0
    yield f"  mean cyclomatic complexity {mean:.2f}"
    yield "most complex functions"
    for complexity, path, line, name in total["most_complex"]:
        yield f"  {complexity:4}  {name}  {path}:{line}"
    yield "who did it"
    files, seconds = Counter[str](), Counter[str]()
    for part in census.parts:
        files[part["agent"]] += part["files"]
        seconds[part["agent"]] += part["seconds"]
    for agent in sorted(files):
        share = files[agent] / max(1, total["files"])
        yield f"  {agent}: {files[agent]:,} files ({share:.0%}) in {seconds[agent]:.1f} s of work"
    worked = sum(seconds.values())
    speedup = worked / census.wall_s
    yield f"{len(census.parts)} tasks: {worked:.1f} s of work in {census.wall_s:.1f} s, {speedup:.1f} at once"
    if total["unparsable"]:
        yield f"{len(total['unparsable'])} files could not be parsed"
        for path, reason in total["unparsable"]:
            yield f"  {path}: {reason}"


def main() -> int:
    """Take the census and print the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tree", nargs="?", type=Path, default=Path(sysconfig.get_paths()["stdlib"]))
    parser.add_argument("--agents", type=int, default=2)
    options = parser.parse_args()
    tree: Path = options.tree.resolve()
    if not tree.is_dir():
        parser.error(f"{tree} is no folder; give the folder of a source tree")
    paths = python_files(tree)
    if not paths:
        parser.error(f"there is no Python file below {tree}; give another tree")
    slots = max(1, len(os.sched_getaffinity(0)) // options.agents)
    with tempfile.TemporaryDirectory(prefix="census-") as folder:
        cluster = local_cluster(Path(folder), agents=options.agents, slots=slots, modules=Path(__file__).parent)
        with cluster as address, outrider.Client(address) as client:
            print(f"coordinator at {address}, {options.agents} agents with {slots} slots each", file=sys.stderr)
            census = take_census(client, tree, batches(tree, paths))
            print("\n".join(report(census, tree)))
            show_one(client, census.first_task_id)
    return 0


def show_one(client: outrider.Client, task_id: str) -> None:
    """What there is to see of one task, while its cluster is still there."""
    print(f"one task, {task_id} (with a cluster that stays: outrider task show {task_id[:16]})")
    for event in client.task(task_id).events():
        if event.type != "TASK_PROGRESS":
            print(f"  {event.time:%H:%M:%S.%f} {event.type} {event.agent}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
