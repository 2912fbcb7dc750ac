"""Many seeds on all cores, in ranges that can be taken up again, with what they exercised.

Run as ``python -m sim.campaign SEEDS [FIRST]`` from ``tests/``; `make sim` does. It prints a line now and then, the
first failures with their shrunk plans, and the coverage table: how often each feature, fault and invariant was put
to the test.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from sim import workload
from sim.faults import FAULTS
from sim.kept import write_failure
from sim.report import commit, failure
from sim.shrink import shrunk
from sim.simulate import run_seed
from sim.verdicts import INVARIANTS, LIVENESS, PROMISES, SEEN

CHUNK = 50
FAILURES_SHOWN = 3
SAY_EVERY_S = 60.0


@dataclass
class Tally:
    """What a range of seeds came to."""

    seeds: int = 0
    steps: int = 0
    simulated_us: int = 0
    coordinator_events: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    events: list[int] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take another range in."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.simulated_us += other.simulated_us
        self.coordinator_events += other.coordinator_events
        self.counts.update(other.counts)
        self.events += other.events
        self.failed += other.failed


def run_range(first: int, count: int) -> Tally:
    """Run these seeds here."""
    tally = Tally()
    for seed in range(first, first + count):
        outcome = run_seed(seed)
        tally.seeds += 1
        tally.steps += outcome.steps
        tally.simulated_us += outcome.simulated_us
        tally.counts.update(outcome.marks.counts)
        tally.events.append(outcome.core_events + outcome.agent_events)
        tally.coordinator_events += outcome.core_events
        if outcome.broken is not None:
            tally.failed.append((seed, f"{outcome.invariant}: {outcome.broken}"))
    return tally


def run_all(seeds: int, first: int) -> Tally:
    """Run these seeds on all cores, saying now and then how far it is."""
    total, said_s, began_s = Tally(), time.monotonic(), time.monotonic()
    starts = range(first, first + seeds, CHUNK)
    with ProcessPoolExecutor() as pool:
        for tally in pool.map(run_range, starts, [min(CHUNK, first + seeds - start) for start in starts]):
            total.add(tally)
            if time.monotonic() - said_s > SAY_EVERY_S:
                said_s = time.monotonic()
                print(
                    f"{said_s - began_s:7.0f} s: up to seed {first + total.seeds}, {len(total.failed)} failed",
                    flush=True,
                )
    return total


def table(counts: Counter[str]) -> Iterator[tuple[str, int]]:
    """Every feature, fault and invariant with how often it was exercised."""
    for name in workload.FEATURES:
        yield f"feature:{name}", counts[f"feature:{name}"]
    for name in FAULTS:
        yield f"fault:{name}", counts[f"fault:{name}"]
    for name in (*INVARIANTS, *PROMISES, *LIVENESS):
        yield name, counts[name]
    for name in SEEN:
        yield f"saw:{name}", counts[f"saw:{name}"]


def main(arguments: list[str]) -> int:
    """Run a campaign; the exit code is 1 when a seed failed or a row of the table is empty."""
    seeds = int(arguments[0]) if arguments else 1_000
    first = int(arguments[1]) if len(arguments) > 1 else 0
    began_s = time.monotonic()
    total = run_all(seeds, first)
    hours = (time.monotonic() - began_s) / 3600
    for name, count in table(total.counts):
        print(f"  {name:<38} {count:>14,}" + ("" if count else "   EMPTY"))
    print(
        f"commit {commit()}, seeds {first} to {first + seeds - 1}: {len(total.failed)} failed; {hours:.2f} hours, "
        f"{total.simulated_us / 3.6e9:,.1f} simulated hours, {sum(total.events):,} core events "
        f"(median {statistics.median(total.events):.0f} per seed; {total.coordinator_events:,} of the coordinator's), "
        f"{total.steps:,} steps"
    )
    for seed, what in total.failed[:FAILURES_SHOWN]:
        print(f"\nseed {seed}: {what[:300]}")
        smallest = shrunk(seed)
        print(failure(smallest))
        print(f"the plan is in {write_failure(smallest)}")
    for seed, what in total.failed[FAILURES_SHOWN:]:
        print(f"seed {seed}: {what[:160]}")
    empty = [name for name, count in table(total.counts) if not count]
    return 1 if total.failed or empty else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
