"""The benchmarks run; what they measure is for people to read, never for a test to judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_benchmark_of_large_runs_prints_its_stages(tmp_path: Path) -> None:
    """One round over small runs measures every stage of every shape and writes every figure."""
    file = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARKS / "runs.py"), "--rounds", "1", "--tasks", "300", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "longest step ms" in done.stdout
    assert {"fan, submit", "chain, cancel", "layers, skip", "phases, fail fast"} <= json.loads(file.read_text()).keys()


def test_the_throughput_benchmark_prints_its_ratios(tmp_path: Path) -> None:
    """One short round measures the bare pipeline and a real cluster, prints the ratios and writes every figure."""
    file = tmp_path / "figures.json"
    options = ("--rounds", "1", "--tasks", "300", "--bare-tasks", "2000", "--json", str(file))
    command = [sys.executable, str(BENCHMARKS / "throughput.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "ratio" in done.stdout
    assert "one task, p50, ms" in done.stdout
    written = json.loads(file.read_text())
    assert {"bare", "outrider"} <= written.keys()
    assert all(figures["tasks_per_s"] > 0 for name in ("bare", "outrider") for figures in written[name])
