"""CPU time of one task's life in the decision core alone: submit, place, start, complete, in batched steps.

    python benchmarks/core.py [--tasks 20000] [--batch 100] [--quick] [--json FILE]

No sockets, no disk: what the coordinator's decisions cost in Python. Each size holds the same 10,000 slots full and a
steady queue behind them: every round some tasks end, as many are submitted, and as many start. So what is compared is
how many agents the slots are spread over and how long the queue is. Sizes take turns in every round of samples, so that
a busy machine slows all of them; the table has medians, and ratios to the first size. Every task's reports come in a
frame of their own, as from a large fleet. Only the core's own time counts, not the making of events.

A coordinator that has run for a while remembers as many request ids as it may, and forgets one for each that it learns:
every size begins with a full index of them.

The cycle collector is frozen over what was made before and switched off while it measures: what it costs depends on how
much memory other things hold, and the daemon calms it in the same way.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from outrider_coordinator.core.effects import Effects, PushAssign, rows
from outrider_coordinator.core.events import (
    Ref,
    Report,
    ReportKind,
    ReportsReceived,
    RunMember,
    RunSubmitted,
    SessionOpened,
    Submission,
    TasksSubmitted,
)
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Spec
from outrider_coordinator.core.state import State
from outrider_coordinator.core.step import Event, new_state, next_due_us, step

SLOTS = 10_000
#: Agents and queued tasks.
SIZES = ((10, 1_000), (100, 1_000), (1_000, 1_000), (5_000, 1_000), (10, 100_000), (10, 1_000_000), (5_000, 1_000_000))
QUICK = ((10, 1_000), (5_000, 1_000), (10, 100_000))
SPEC = Spec(b"x" * 200, "m:f", True)


def _ignore(_: object) -> None:
    """A reply nobody waits for."""


@dataclass
class Fleet:
    """A core with agents that end what they are told to, and what they hold in the order they got it."""

    agents: int
    queued: int
    state: State = field(init=False)
    held: list[PushAssign] = field(default_factory=list)
    seqs: dict[str, int] = field(default_factory=dict)
    made: int = 0
    cpu_s: float = 0.0
    longest_s: float = 0.0

    def __post_init__(self) -> None:
        settings = CoreSettings(queue_depth_max=2_000_000, accept_timeout_us=10**12)
        self.state = new_state(settings, coordinator_epoch=1, now_us=1)
        for number in range(settings.request_ids_max):
            self.state.requests.add("d", f"old{number}", f"o{number}", b"d")
        self.step([_hello(f"a{number:05}", SLOTS // self.agents) for number in range(self.agents)])
        while self.made < SLOTS + self.queued:
            self.step([self.submits(min(10_000, SLOTS + self.queued - self.made))])
        self.settle()

    def submits(self, count: int) -> TasksSubmitted:
        """New tasks."""
        first, self.made = self.made, self.made + count
        return TasksSubmitted([Submission(f"t{i}", "d", SPEC, f"r{i}", b"d") for i in range(first, self.made)], _ignore)

    def step(self, events: list[Event]) -> Effects:
        """One step of the core, as the engine takes it."""
        began_s = time.process_time()
        effects = step(self.state, events, self.state.now_us + 1)
        rows(effects)
        took_s = time.process_time() - began_s
        self.cpu_s += took_s
        self.longest_s = max(self.longest_s, took_s)
        self.held += [send for send in effects.sends if isinstance(send, PushAssign)]
        return effects

    def settle(self) -> None:
        """Steps until nothing is left that could be done at once."""
        while (due_us := next_due_us(self.state)) is not None and due_us <= self.state.now_us + 1:
            self.step([])

    def round(self, batch: int) -> None:
        """The oldest attempts start and succeed, a frame of reports each, and as many tasks arrive."""
        ending, self.held = self.held[:batch], self.held[batch:]
        events: list[Event] = [self.submits(batch)]
        now_us = self.state.now_us
        for push in ending:
            ref = Ref(push.task_id, push.attempt, push.fence)
            started = Report(ref, 1, now_us, ReportKind.STARTED, False, b"")
            completed = Report(ref, 2, now_us, ReportKind.COMPLETED, True, b"null")
            seq = self.seqs.get(push.agent_id, 0)
            self.seqs[push.agent_id] = seq + 2
            events.append(ReportsReceived(push.agent_id, push.epoch, "box", seq + 1, [started, completed]))
        self.step(events)

    def life_us(self, tasks: int, batch: int) -> float:
        """Microseconds of CPU per task life."""
        self.cpu_s = 0.0
        for _ in range(tasks // batch):
            self.round(batch)
        return self.cpu_s / (tasks // batch * batch) * 1e6


def _hello(agent_id: str, slots: int) -> SessionOpened:
    return SessionOpened(
        agent_id=agent_id,
        machine_id="m",
        instance_id="i",
        instance_start_ms=1,
        version="1",
        host="h",
        labels={},
        slots=slots,
        prefetch_credit=0,
        parked_max=8,
        held=[],
        outboxes=[],
        reply=_ignore,
    )


def longest_step_ms(nodes: int) -> float:
    """The longest step of a run of this many tasks from its submit to its end: a root, a wide middle, a merge."""
    fleet = Fleet(100, 0)
    fleet.longest_s = 0.0
    keys = [f"k{number}" for number in range(nodes)]
    members = [RunMember(f"n{number}", key, SPEC, (keys[0],) if number else ()) for number, key in enumerate(keys[:-1])]
    members.append(RunMember("last", keys[-1], SPEC, tuple(keys[1:-1])))
    fleet.step([RunSubmitted("run", "d", "", "", members, _ignore)])
    fleet.settle()
    while fleet.state.runs:
        fleet.round(100)
        fleet.settle()
    return fleet.longest_s * 1e3


def main() -> None:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description="CPU per task life in the decision core")
    parser.add_argument("--tasks", type=int, default=5_000, help="lives per sample")
    parser.add_argument("--batch", type=int, default=100, help="lives per step")
    parser.add_argument("--rounds", type=int, default=9, help="samples of each size")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller sizes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sizes = QUICK if args.quick else SIZES
    fleets = {size: Fleet(*size) for size in sizes}
    samples: dict[tuple[int, int], list[float]] = {size: [] for size in sizes}
    gc.collect()
    gc.freeze()
    gc.disable()
    for _ in range(args.rounds):
        for size, fleet in fleets.items():
            fleet.longest_s = 0.0
            samples[size].append(fleet.life_us(args.tasks, args.batch))
    base = statistics.median(samples[sizes[0]])
    figures: dict[str, float] = {}
    print(f"{'agents':>8} {'queued':>10} {'us per task life':>18} {'ratio':>7} {'spread':>7}")
    for (agents, queued), found in samples.items():
        median = statistics.median(found)
        figures[f"{agents} agents, {queued} queued"] = median
        spread = (max(found) - min(found)) / median
        print(f"{agents:>8} {queued:>10} {median:>18.1f} {median / base:>7.2f} {spread:>6.0%}")
    figures["longest step of a 10,000-node run, ms"] = longest_step_ms(10_000)
    print(f"longest step of a 10,000-node run: {figures['longest step of a 10,000-node run, ms']:.1f} ms")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
