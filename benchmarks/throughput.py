"""How much of the bare pipeline Outrider reaches: no-op tasks per second, and the round trip of a single task.

Each round measures the bare pipeline and then Outrider on the same machine: a coordinator with its durable store, one
agent with two workers, one client, all real processes. The figures are medians over the rounds; only their ratios carry
over to another machine.

    python benchmarks/throughput.py [--rounds 3] [--tasks 20000] [--json FILE]
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path

import bare_pipeline
import outrider
from bare_pipeline import PAYLOAD, ROUNDS, WARM_UP_ROUNDS, Figures, percentile
from outrider.local_cluster import local_cluster

BARE_TASKS = 50_000
RESULT_TIMEOUT_S = 120.0
WORK = "noop:nothing"


def measure_outrider(tasks: int) -> Figures:
    """Start a fresh cluster, run ``tasks`` no-ops at once and `ROUNDS` one by one, and stop it."""
    payload = PAYLOAD.decode()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outrider-bench-")))
        here = Path(__file__).parent
        address = stack.enter_context(local_cluster(folder, slots=bare_pipeline.WORKERS, modules=here))
        client = stack.enter_context(outrider.Client(address))
        rounds = [_round(client, payload) for _ in range(WARM_UP_ROUNDS + ROUNDS)][WARM_UP_ROUNDS:]
        _at_once(client, payload, tasks // 10)
        rate = tasks / _at_once(client, payload, tasks)
    return Figures(round(rate), round(percentile(rounds, 0.5), 3), round(percentile(rounds, 0.99), 3))


def _round(client: outrider.Client, payload: str) -> float:
    """Submit one task and wait for its result; how long that took, ms."""
    started = time.perf_counter()
    client.submit(WORK, payload).result(RESULT_TIMEOUT_S)
    return (time.perf_counter() - started) * 1e3


def _at_once(client: outrider.Client, payload: str, tasks: int) -> float:
    """Submit all and wait for all; how long that took, s."""
    started = time.perf_counter()
    handles = [client.submit(WORK, payload) for _ in range(tasks)]
    for handle in handles:
        handle.result(RESULT_TIMEOUT_S)
    return time.perf_counter() - started


def _median(rounds: list[Figures]) -> Figures:
    names = [field.name for field in fields(Figures)]
    return Figures(**{name: statistics.median(getattr(figures, name) for figures in rounds) for name in names})


def _table(bare: Figures, ours: Figures) -> str:
    rows = (
        ("no-op tasks/s", f"{bare.tasks_per_s:,.0f}", f"{ours.tasks_per_s:,.0f}", ours.tasks_per_s / bare.tasks_per_s),
        ("one task, p50, ms", f"{bare.p50_ms:.2f}", f"{ours.p50_ms:.2f}", ours.p50_ms / bare.p50_ms),
        ("one task, p99, ms", f"{bare.p99_ms:.2f}", f"{ours.p99_ms:.2f}", ours.p99_ms / bare.p99_ms),
    )
    lines = [f"{'':20} {'bare pipeline':>14} {'outrider':>12} {'ratio':>8}"]
    lines += [
        f"{name:20} {bare_value:>14} {our_value:>12} {ratio:>8.3f}" for name, bare_value, our_value, ratio in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, and write the JSON when asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=20_000, help="no-op tasks of one round")
    parser.add_argument("--bare-tasks", type=int, default=BARE_TASKS, help="tasks of one round of the bare pipeline")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round here")
    options = parser.parse_args()
    bare, ours = [], []
    for number in range(1, options.rounds + 1):
        bare.append(bare_pipeline.measure(options.bare_tasks))
        ours.append(measure_outrider(options.tasks))
        print(
            f"round {number}: bare {bare[-1].tasks_per_s:,} tasks/s, outrider {ours[-1].tasks_per_s:,} tasks/s",
            flush=True,
        )
    print(_table(_median(bare), _median(ours)))
    if options.json:
        document = {"bare": [asdict(figures) for figures in bare], "outrider": [asdict(figures) for figures in ours]}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
