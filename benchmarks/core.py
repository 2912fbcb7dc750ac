"""CPU time of one task's life in the decision core alone: submit, place, start, complete, in batched steps.

    python benchmarks/core.py [--tasks 50000] [--batch 100] [--json FILE]

No sockets, no disk: what the coordinator's decisions cost in Python. Prints microseconds per task life.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from outrider_coordinator.core.effects import PushAssign, rows
from outrider_coordinator.core.events import (
    Ref,
    Report,
    ReportKind,
    ReportsReceived,
    SessionOpened,
    Submission,
    TasksSubmitted,
)
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Spec
from outrider_coordinator.core.state import State
from outrider_coordinator.core.step import new_state, step


def _ignore(_: object) -> None:
    """A reply nobody waits for."""


def _fleet(agents: int) -> State:
    state = new_state(CoreSettings(), coordinator_epoch=1, now_us=1)
    for number in range(agents):
        hello = SessionOpened(
            agent_id=f"a{number}",
            machine_id="m",
            instance_id="i",
            instance_start_ms=1,
            version="1",
            host="h",
            labels={},
            slots=2,
            prefetch_credit=256,
            parked_max=8,
            held=[],
            outboxes=[],
            reply=_ignore,
        )
        step(state, [hello], 1)
    state.durations_us["m:f"] = 100.0
    return state


def _finish(state: State, assigned: list[PushAssign], seqs: dict[str, int], now_us: int) -> list[PushAssign]:
    """Report start and success of everything assigned, one frame per agent."""
    frames: dict[str, list[Report]] = {}
    epochs = {push.agent_id: push.epoch for push in assigned}
    for push in assigned:
        ref = Ref(push.task_id, push.attempt, push.fence)
        frames.setdefault(push.agent_id, []).extend(
            (
                Report(ref, 1, now_us, ReportKind.STARTED, False, b""),
                Report(ref, 2, now_us, ReportKind.COMPLETED, True, b"null"),
            )
        )
    events = []
    for agent_id, reports in frames.items():
        events.append(ReportsReceived(agent_id, epochs[agent_id], "box", seqs.get(agent_id, 0) + 1, reports))
        seqs[agent_id] = seqs.get(agent_id, 0) + len(reports)
    effects = step(state, list(events), now_us)
    rows(effects)
    return [send for send in effects.sends if isinstance(send, PushAssign)]


def life_us(tasks: int, batch: int, agents: int, queued: int = 0) -> float:
    """Microseconds of CPU per task life with ``agents`` agents, while ``queued`` other tasks wait."""
    state = _fleet(agents)
    spec = Spec(b"x" * 200, "m:f", True)
    waiting = Spec(b"x" * 200, "m:f", True, priority=0)
    step(state, [TasksSubmitted([Submission(f"q{i}", "d", waiting) for i in range(queued)], _ignore)], 2)
    seqs: dict[str, int] = {}
    assigned: list[PushAssign] = []
    started = time.process_time()
    for first in range(0, tasks, batch):
        submissions = [Submission(f"t{i}", "d", spec, f"r{i}", b"d") for i in range(first, first + batch)]
        effects = step(state, [TasksSubmitted(submissions, _ignore)], first + 3)
        rows(effects)
        assigned += [send for send in effects.sends if isinstance(send, PushAssign)]
        if assigned:
            assigned = _finish(state, assigned, seqs, first + 3)
    return (time.process_time() - started) / tasks * 1e6


def main() -> None:
    """Measure a few sizes and print a table."""
    parser = argparse.ArgumentParser(description="CPU per task life in the decision core")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sizes = [(1, 0), (10, 0), (1_000, 0)]
    figures = {}
    print(f"{'agents':>8} {'queued':>8} {'us per task life':>18}")
    for agents, queued in sizes:
        tasks = args.tasks if agents < 1_000 else args.tasks // 10
        samples = [life_us(tasks, args.batch, agents, queued) for _ in range(args.rounds)]
        figures[f"{agents} agents, {queued} queued"] = statistics.median(samples)
        print(f"{agents:>8} {queued:>8} {statistics.median(samples):>18.1f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
