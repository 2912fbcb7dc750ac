"""How long one step of the decision core takes at most when very much happens at once.

    python benchmarks/steps.py [--rounds 5] [--json FILE]

Each case is a state in which something has to be done for thousands: classes of tasks that wait for one limit,
schedules whose time has come, agents that fall silent. Steps are taken as the engine takes them, until nothing is left
to do at once; each is timed with its rows. Prints, per case: steps, CPU of the longest step in milliseconds (the median
of the rounds, and the least) and of all of them. The bound is 5 ms for a step; the least of the rounds is what the step
costs when nothing else has the machine's caches. Runs of 10,000 tasks have cases of their own in runs.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from outrider_coordinator.core import pacing
from outrider_coordinator.core.effects import PushAssign, rows
from outrider_coordinator.core.events import (
    Ref,
    Report,
    ReportKind,
    ReportsReceived,
    RunMember,
    RunSubmitted,
    SessionEnded,
    SessionOpened,
    Submission,
    TasksSubmitted,
    Ticked,
)
from outrider_coordinator.core.schedules.book import Missed, Overlap, Schedule
from outrider_coordinator.core.schedules.events import ScheduleCreated
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Claim, Demands, Spec
from outrider_coordinator.core.state import State
from outrider_coordinator.core.step import Event, new_state, next_due_us, step
from outrider_coordinator.cron import cron_times

PLAIN = Spec(b"x" * 200, "m:f", True)
Case = Callable[[], Iterator[float]]


def _ignore(_: object) -> None:
    """A reply nobody waits for."""


class Timed:
    """A state, the CPU of each step since the last `take`, and what was assigned and has not ended."""

    def __init__(self, agents: int, slots: int) -> None:
        self.state: State = new_state(CoreSettings(), coordinator_epoch=1, now_us=1)
        self.steps_s: list[float] = []
        self.assigned: list[PushAssign] = []
        self.seqs: dict[str, int] = {}
        for number in range(agents):
            self.do(_hello(f"a{number:05}", slots))
        self.settle()

    def happen(self, events: list[Event]) -> None:
        """Facts that came at one time: a step takes as many as it takes in the daemon."""
        while events:
            count = pacing.fitting(events)
            self.do(*events[:count])
            events = events[count:]

    def do(self, *events: Event) -> None:
        """One step and its rows."""
        now_us = self.state.now_us + 1
        began_s = time.process_time()
        effects = step(self.state, list(events), now_us)
        rows(effects)
        self.steps_s.append(time.process_time() - began_s)
        self.assigned += [send for send in effects.sends if isinstance(send, PushAssign)]

    def settle(self) -> None:
        """Steps as long as something is to be done at once."""
        while (due_us := next_due_us(self.state)) is not None and due_us <= self.state.now_us + 1:
            self.do(Ticked())

    def wait(self, seconds: float) -> None:
        """Time passes, with a step each time that one is due."""
        until_us = self.state.now_us + int(seconds * SECOND_US)
        while (due_us := next_due_us(self.state)) is not None and due_us <= until_us:
            self.state.now_us = max(self.state.now_us, due_us - 1)
            self.do(Ticked())
        self.state.now_us = until_us

    def submit(self, count: int, name: str, spec_of: Callable[[int], Spec]) -> None:
        """Tasks, a hundred in each step."""
        for first in range(0, count, 100):
            numbers = range(first, min(count, first + 100))
            made = [Submission(f"{name}{at}", "d", spec_of(at), "", b"") for at in numbers]
            self.do(TasksSubmitted(made, _ignore))
            self.settle()

    def start(self, pushes: list[PushAssign]) -> None:
        """Attempts report that they run."""
        for push in pushes:
            ref = Ref(push.task_id, push.attempt, push.fence)
            self._report(push, Report(ref, 1, 1, ReportKind.STARTED, False, b""))
            self.settle()

    def end(self, push: PushAssign) -> None:
        """One attempt succeeds."""
        ref = Ref(push.task_id, push.attempt, push.fence)
        self._report(push, Report(ref, 9, self.state.now_us, ReportKind.COMPLETED, True, b"null"))
        self.settle()

    def _report(self, push: PushAssign, report: Report) -> None:
        seq = self.seqs.get(push.agent_id, 0) + 1
        self.seqs[push.agent_id] = seq
        self.do(ReportsReceived(push.agent_id, push.epoch, "box", seq, [report]))

    def take(self) -> list[float]:
        """Seconds of each step since this was asked last."""
        steps_s, self.steps_s = self.steps_s, []
        return steps_s


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


def limit_changes_hands() -> Iterator[float]:
    """10,000 classes of tasks wait for one limit; its holder ends, ten times."""
    timed = Timed(10, 10)
    timed.submit(10_000, "t", lambda at: Spec(b"", f"m:f{at}", True, demands=Demands(claims=(Claim("file:a"),))))
    timed.take()
    for _ in range(10):
        timed.end(timed.assigned.pop())
    yield from timed.take()


def scopes_become_free() -> Iterator[float]:
    """5,000 tasks with write scopes of their own wait for one whose scope has them all; it ends."""
    timed = Timed(10, 10)
    timed.submit(1, "all", lambda _: Spec(b"", "m:f", True, demands=Demands(scopes=("src/**",))))
    timed.submit(5_000, "t", lambda at: Spec(b"", "m:f", True, demands=Demands(scopes=(f"src/d{at}/*.py",))))
    timed.take()
    timed.end(timed.assigned.pop(0))
    yield from timed.take()


def schedules_fire() -> Iterator[float]:
    """10,000 schedules with a cron line are due at one time."""
    timed = Timed(10, 10)
    for number in range(10_000):
        times = cron_times("*/5 * * * *", "UTC")
        timed.do(ScheduleCreated(_schedule(f"s{number}", times, _one_task), False, _ignore))
    timed.take()
    timed.wait(301)
    yield from timed.take()


def schedules_fire_runs() -> Iterator[float]:
    """Twenty schedules submit a run of 1,000 tasks at one time, each task after ten others."""
    timed = Timed(10, 10)
    times, work = cron_times("*/5 * * * *", "UTC"), _large_run()
    for number in range(20):
        timed.do(ScheduleCreated(_schedule(f"s{number}", times, work), False, _ignore))
    timed.take()
    timed.wait(301)
    yield from timed.take()


def _schedule(name: str, times: object, work: object) -> Schedule:
    return Schedule("d", name, name.encode(), "", times, work, Overlap.SKIP, Missed.ONCE, 1)  # type: ignore[arg-type]  # made above


def _one_task(request_id: str, new_id: Callable[[], str]) -> TasksSubmitted:
    return TasksSubmitted([Submission(new_id(), "d", PLAIN, request_id, b"")], _ignore)


def _large_run() -> Callable[[str, Callable[[], str]], RunSubmitted]:
    members = [
        RunMember("", f"k{at}", PLAIN, tuple(f"k{before}" for before in range(max(0, at - 10), at)))
        for at in range(1000)
    ]

    def work(request_id: str, new_id: Callable[[], str]) -> RunSubmitted:
        made = [member._replace(task_id=new_id()) for member in members]
        return RunSubmitted(new_id(), "d", "", "", made, _ignore, request_id=request_id)

    return work


def half_the_fleet_goes_silent() -> Iterator[float]:
    """2,500 of 5,000 agents are cut off, twice within ten minutes: the second time nothing is held back."""
    timed = Timed(5_000, 2)
    timed.submit(20_000, "t", lambda _: PLAIN)
    timed.start(timed.assigned)
    timed.take()
    for lost in (range(2_500), range(2_500, 3_750)):
        names = [f"a{number:05}" for number in lost]
        timed.happen([SessionEnded(name, timed.state.agents[name].epoch, False) for name in names])
        timed.wait(310)
    yield from timed.take()


def a_large_agent_is_lost() -> Iterator[float]:
    """An agent that runs 1,000 attempts is cut off, another takes its work; it comes back without it."""
    timed = Timed(2, 1_000)
    timed.submit(2_000, "t", lambda _: PLAIN)
    timed.start(timed.assigned)
    timed.take()
    agent = timed.state.agents["a00000"]
    timed.do(SessionEnded(agent.id, agent.epoch, False))
    timed.wait(310)
    timed.do(_hello("a00000", 1_000))
    timed.settle()
    yield from timed.take()


CASES: tuple[Case, ...] = (
    limit_changes_hands,
    scopes_become_free,
    schedules_fire,
    schedules_fire_runs,
    half_the_fleet_goes_silent,
    a_large_agent_is_lost,
)


def main() -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    gc.freeze()
    gc.disable()  # as the daemon, whose collector has nothing old to look at
    figures = {}
    print(f"{'case':<28} {'steps':>6} {'longest ms':>11} {'least ms':>9} {'in all ms':>10}")
    for case in CASES:
        if args.only not in case.__name__:
            continue
        taken: list[list[float]] = []
        for _ in range(args.rounds):
            taken.append(list(case()))
            gc.collect()
        longest_ms = [max(steps_s) * 1e3 for steps_s in taken]
        sum_ms = statistics.median(sum(steps_s) for steps_s in taken) * 1e3
        name = case.__name__.replace("_", " ")
        figures[name] = statistics.median(longest_ms)
        print(f"{name:<28} {len(taken[0]):>6} {figures[name]:>11.2f} {min(longest_ms):>9.2f} {sum_ms:>10.1f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
