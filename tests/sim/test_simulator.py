"""Seeds of the simulator: whole systems with real cores under faults, judged by an oracle written from the protocol."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from sim.kept import write_failure
from sim.report import failure
from sim.shrink import shrunk
from sim.simulate import run_seed
from sim.story import lines

#: `make test` asks for 2,000.
SEEDS, PER_TEST = int(os.environ.get("SIM_SEEDS", "300")), 25


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_seeds_keep_every_promise(first: int) -> None:
    """Under the faults of these seeds no invariant breaks, and once faults stop everything comes to rest."""
    for seed in range(first, min(SEEDS, first + PER_TEST)):
        if run_seed(seed, brief=True).broken is not None:
            smallest = shrunk(seed, brief=True)
            pytest.fail(f"{failure(smallest)}\nthe plan is in {write_failure(smallest)}")


def test_one_seed_is_one_story() -> None:
    """Running a plan twice tells the same story."""
    assert digest((7, 8)) == digest((7, 8))


def test_hash_seeds_change_nothing() -> None:
    """A seed's trace is the same whatever PYTHONHASHSEED is."""
    traces = {_digest_under(hash_seed) for hash_seed in ("0", "1", "777")}
    assert len(traces) == 1


def digest(seeds: tuple[int, ...]) -> str:
    """The stories of these seeds, word by word."""
    told = (line for seed in seeds for line in lines(run_seed(seed).story))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _digest_under(hash_seed: str) -> str:
    program = "from sim.test_simulator import digest; print(digest((3, 11, 42)))"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout
