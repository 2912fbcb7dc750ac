"""How long one step of the decision core takes at most while a very large run goes through its life.

    python benchmarks/runs.py [--tasks 10000] [--rounds 5] [--json FILE]

Every shape is submitted, decided and ended with the core alone; a step is timed with its rows. Prints, per thing that
happens: steps, CPU of the longest step in milliseconds (the median of the rounds), and CPU per task in microseconds.
The bound is 5 ms for a run of 10,000 tasks.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from outrider_coordinator.core.effects import Effects, PushAssign, rows
from outrider_coordinator.core.events import (
    Ref,
    Report,
    ReportKind,
    ReportsReceived,
    RunCancelRequested,
    RunMember,
    RunSubmitted,
    SessionOpened,
    TasksAdded,
    Ticked,
)
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Condition, Spec
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import Reason
from outrider_coordinator.core.step import Event, new_state, step

Shape = Callable[[int], list[RunMember]]
_SPEC = Spec(b"x" * 200, "m:f", True)


def _ignore(_: object) -> None:
    """A reply nobody waits for."""


def _state() -> State:
    """A state with one agent of two slots."""
    state = new_state(CoreSettings(), coordinator_epoch=1, now_us=1)
    hello = SessionOpened(
        agent_id="a",
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
    return state


class Timed:
    """Steps of one state, timed; what was assigned last."""

    def __init__(self) -> None:
        self.state: State = _state()
        self.now_us = 1
        self.seq = 0
        self.steps_s: list[float] = []
        self.assigned: list[PushAssign] = []

    def do(self, *events: Event) -> Effects:
        """One step and its rows."""
        self.now_us += 1000
        began_s = time.process_time()
        effects = step(self.state, list(events), self.now_us)
        rows(effects)
        self.steps_s.append(time.process_time() - began_s)
        self.assigned += [send for send in effects.sends if isinstance(send, PushAssign)]
        return effects

    def settle(self, *events: Event) -> None:
        """One step, and then as many as there is work left for."""
        self.do(*events)
        while self.state.errands:
            self.do(Ticked())

    def end_first(self, *, fails: bool) -> None:
        """The task assigned first ends."""
        push = self.assigned.pop(0)
        ref = Ref(push.task_id, push.attempt, push.fence)
        kind = ReportKind.FAILED if fails else ReportKind.COMPLETED
        reports = [
            Report(ref, 1, self.now_us, ReportKind.STARTED, False, b""),
            Report(ref, 2, self.now_us, kind, True, b"null", reason=Reason.TASK_ERROR if fails else Reason.NONE),
        ]
        self.settle(ReportsReceived(push.agent_id, push.epoch, "box", self.seq + 1, reports))
        self.seq += 2

    def take(self) -> tuple[int, float, float]:
        """Steps, longest and sum in seconds since the last time this was asked."""
        steps, self.steps_s = self.steps_s, []
        return len(steps), max(steps, default=0.0), sum(steps)


def fan(count: int) -> list[RunMember]:
    """One task, and all others after it."""
    return [_member(0), *(_member(at, "k0") for at in range(1, count))]


def chain(count: int) -> list[RunMember]:
    """One after the other."""
    return [_member(0), *(_member(at, f"k{at - 1}") for at in range(1, count))]


def layers(count: int) -> list[RunMember]:
    """A hundred in a row, each after ten of the row before."""
    members = []
    for at in range(count):
        row, column = divmod(at, 100)
        after = [f"k{(row - 1) * 100 + (column + step) % 100}" for step in range(10)] if row else []
        members.append(_member(at, *after))
    return members


def phases(count: int) -> list[RunMember]:
    """One task, and all others in the phase after it, each with the condition that it may fail."""
    return [_member(0), *(_member(at, "k0", phase=1, conditions=(Condition.ALWAYS,)) for at in range(1, count))]


def _member(at: int, *after: str, phase: int = 0, conditions: tuple[Condition, ...] = ()) -> RunMember:
    return RunMember(f"t{at}", f"k{at}", _SPEC, after, conditions, phase=phase, milestone="m")


def stages(shape: Shape, count: int) -> Iterator[tuple[str, tuple[int, float, float]]]:
    """What happens to a run of this shape: submit, its first task's end, and a cancel of all."""
    for fails, fails_fast in ((False, False), (True, False), (True, True)):
        timed = Timed()
        timed.take()
        timed.settle(RunSubmitted("r", "d", "", "", shape(count), _ignore, fails_fast=fails_fast))
        if not fails:
            yield "submit", timed.take()
        timed.take()
        timed.end_first(fails=fails)
        yield ("fail fast" if fails_fast else "skip" if fails else "make ready"), timed.take()
        if not fails:
            members = [RunMember("added", "added", _SPEC, ("k1",))]
            timed.do(TasksAdded("r", "d", members, _ignore))
            yield "add one", timed.take()
            timed.settle(RunCancelRequested("r", "", _ignore))
            yield "cancel", timed.take()


def main() -> None:
    """Measure every shape and print a table."""
    parser = argparse.ArgumentParser(description="longest step of the decision core under a very large run")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    gc.freeze()
    gc.disable()  # as the daemon, whose collector has nothing old to look at
    figures = {}
    print(f"{'shape':<8} {'stage':<12} {'steps':>6} {'longest step ms':>16} {'us per task':>12}")
    for shape in (fan, chain, layers, phases):
        samples: dict[str, list[tuple[int, float, float]]] = {}
        for _ in range(args.rounds):
            for stage, sample in stages(shape, args.tasks):
                samples.setdefault(stage, []).append(sample)
            gc.collect()
        for stage, taken in samples.items():
            longest_ms = statistics.median(sample[1] for sample in taken) * 1e3
            task_us = statistics.median(sample[2] for sample in taken) / args.tasks * 1e6
            figures[f"{shape.__name__}, {stage}"] = longest_ms
            print(f"{shape.__name__:<8} {stage:<12} {taken[0][0]:>6} {longest_ms:>16.2f} {task_us:>12.1f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
