"""Seeds of the simulator: whole systems with real cores under faults, judged by an oracle written from the protocol."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from sim import workload
from sim.report import failure
from sim.simulate import run, run_seed

SEEDS, PER_TEST = 2_000, 50


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_seeds_keep_every_promise(first: int) -> None:
    """Under the faults of these seeds no invariant breaks, and once faults stop everything comes to rest."""
    for seed in range(first, first + PER_TEST):
        outcome = run_seed(seed)
        assert outcome.broken is None, failure(outcome)


def test_one_seed_is_one_story() -> None:
    """Running a plan twice tells the same story."""
    plan = workload.make(7)
    assert repr_of(run(plan).story) == repr_of(run(plan).story)


def test_hash_seeds_change_nothing() -> None:
    """A seed's trace is the same whatever PYTHONHASHSEED is."""
    traces = {_trace_under(hash_seed) for hash_seed in ("0", "1", "777")}
    assert len(traces) == 1


def repr_of(story: list[tuple[object, ...]]) -> str:
    """A story as a digest of its words."""
    from sim.story import lines

    return hashlib.sha256("\n".join(lines(story)).encode()).hexdigest()


def _trace_under(hash_seed: str) -> str:
    program = (
        "from sim.simulate import run_seed; from sim.story import lines; import hashlib; "
        "print(hashlib.sha256('\\n'.join(l for s in (3, 11, 42) for l in lines(run_seed(s).story)).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout
