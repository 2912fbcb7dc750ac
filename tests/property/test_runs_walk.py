"""Random graphs with conditions, phases and policies, restarted from disk at any moment, against a plain reading.

The oracle knows nothing of the core: it goes through a graph in an order in which it can run and says how each task
must end, given how each attempt that ran has ended.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from outrider_coordinator.core import invariants
from outrider_coordinator.core.effects import Effects, rows
from outrider_coordinator.core.events import RunCancelRequested, RunMember, Ticked
from outrider_coordinator.core.records import InsertTask
from outrider_coordinator.core.spec import Condition, Spec
from outrider_coordinator.core.states import AttemptState, EventType, Reason, TaskState
from outrider_coordinator.core.step import new_state
from outrider_coordinator.store.load import restore
from outrider_coordinator.store.sqlite import SqliteStore
from support.core_world import ModelAgent, World, member

SEEDS = 26
STEPS_MAX = 3000
SPEC = Spec(b"", "m:f", True)


class DurableWorld(World):
    """A world whose steps are committed, and which can be started again from what is on disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.store = SqliteStore(folder)

    def take(self, effects: Effects) -> None:
        """Commit what a step wrote, then let its sends out."""
        written = rows(effects)
        if written:
            self.store.commit(written)
        self.log.extend(effects.events)
        self._note_ends(effects)
        for send in effects.sends:
            self._deliver(send)

    def restart(self) -> None:
        """Only what is on disk is left; agents come back with what they hold."""
        self.state = new_state(self.state.settings, coordinator_epoch=self.state.epoch + 1, now_us=self.now_us)
        self.take(restore(self.state, self.store.reader, lambda row: SPEC))
        invariants.check(self.state)
        for agent in self.agents.values():
            agent.epoch = 0
            self.connect(agent.id, agent.slots)


def graph(chance: random.Random, count: int) -> list[RunMember]:
    """A random graph, its tasks in an order in which they could run."""
    members: list[RunMember] = []
    phase = 0
    for at in range(count):
        phase += chance.random() < 0.15
        after = chance.sample(range(at), min(at, chance.choice((0, 0, 1, 1, 2, 3))))
        conditions = tuple(chance.choice(tuple(Condition)) for _ in after)
        keys = tuple(f"k{other}" for other in after)
        members.append(member(f"k{at}", phase=phase, conditions=conditions)._replace(after_keys=keys))
    chance.shuffle(members)
    return members


def expected(members: list[RunMember], ran: dict[str, TaskState]) -> dict[str, TaskState]:
    """How every task of a run that goes on must end, when those that ran ended so. No task is looked at too early."""
    ends: dict[str, TaskState] = {}
    for one in sorted(members, key=lambda one: (one.phase, int(one.key[1:]))):
        met = all(
            condition is Condition.ALWAYS or (condition is Condition.SUCCESS) == (ends[key] is TaskState.SUCCEEDED)
            for key, condition in zip(one.after_keys, one.conditions, strict=True)
        )
        ends[one.key] = ran[one.key] if met else TaskState.SKIPPED
    return ends


class Walk:
    """One seeded life of a run."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.chance = random.Random(seed)
        self.world = DurableWorld(folder)
        self.world.connect("a", self.chance.choice((1, 3)))
        self.world.connect("b", 2)
        self.fails = {f"k{at}": self.chance.random() < 0.35 for at in range(400)}
        self.ran: dict[str, TaskState] = {}

    def live(self, seed_steps: int = STEPS_MAX) -> None:
        """Until the run is over."""
        for _ in range(seed_steps):
            if not self.world.state.runs:
                return
            choice = self.chance.random()
            if choice < 0.03:
                self.world.restart()
            elif choice < 0.1:
                self.world.do(Ticked(), after_us=1000)
            else:
                self.work()
        raise AssertionError("the run does not end")

    def work(self) -> None:
        """Some attempt starts, ends, or obeys."""
        held = [(agent, ref) for agent in self.world.agents.values() for ref in agent.held]
        if not held:
            self.world.do(Ticked())
            return
        agent, ref = self.chance.choice(held)
        if ref in agent.cancelled:
            self.world.fail(agent, ref, agent.reasons[ref], recoverable=False)
        elif agent.held[ref] is AttemptState.OFFERED:
            self.world.start(agent, ref)
        else:
            self.end(agent, ref)

    def end(self, agent: ModelAgent, ref: Any) -> None:
        """An attempt ends as was drawn for its task."""
        key = ref.task_id.partition("-")[2]
        fails = self.fails[key]
        self.ran[key] = TaskState.FAILED if fails else TaskState.SUCCEEDED
        self.world.fail(agent, ref, recoverable=False) if fails else self.world.complete(agent, ref)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_runs_end_as_their_graph_says(seed: int, tmp_path: Path) -> None:
    """Every task ends once, as a plain reading of the graph says; no attempt starts before its time (I9, I18)."""
    walk = Walk(seed, tmp_path)
    members = graph(walk.chance, walk.chance.choice((3, 12, 40, 300)))
    ids = walk.world.submit_members(*members, max_parallel=walk.chance.choice((0, 0, 1, 3)))
    walk.live()
    wanted = expected(members, walk.ran)
    assert {key: walk.world.ended[ids[key]] for key in ids} == wanted
    assert sum(event.type == EventType.RUN_ENDED for event in walk.world.log) == 1
    _check_order(walk.world, members, ids)


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_a_run_that_stops_leaves_nothing_open(seed: int, tmp_path: Path) -> None:
    """Failing fast or cancelled, over restarts in the middle: everything ends, and nothing starts after the stop."""
    walk = Walk(seed, tmp_path)
    is_cancel = walk.chance.random() < 0.5
    members = graph(walk.chance, walk.chance.choice((12, 300)))
    ids = walk.world.submit_members(*members, fails_fast=not is_cancel)
    if is_cancel:
        for _ in range(walk.chance.randrange(20)):
            walk.work()
        walk.world.do(RunCancelRequested("run", "", walk.world.replies.append))
    walk.live()
    assert set(walk.world.ended) == set(ids.values())
    failed = [key for key in ids if walk.world.ended[ids[key]] is TaskState.FAILED]
    stopped = [event for event in walk.world.log if event.reason == Reason.RUN_FAILED]
    assert is_cancel or bool(failed) == bool(stopped) or len(failed) == 1


def _check_order(world: DurableWorld, members: list[RunMember], ids: dict[str, str]) -> None:
    """Attempts were offered only when everything they wait for had ended."""
    ended: dict[str, int] = {}
    offered: dict[str, int] = {}
    for event in world.log:
        if EventType.TASK_SUCCEEDED <= event.type <= EventType.TASK_SKIPPED:
            ended[event.task_id] = event.cursor
        elif event.type == EventType.TASK_ASSIGNED:
            offered.setdefault(event.task_id, event.cursor)
    for one in members:
        began = offered.get(ids[one.key])
        before = {ids[key] for key in one.after_keys} | {ids[other.key] for other in members if other.phase < one.phase}
        assert began is None or all(ended[other] < began for other in before), f"I9: {one.key} began too early"


def test_rows_of_a_run_are_written_together(tmp_path: Path) -> None:
    """Whenever a large run's submit is cut off, its rows are all there or none is."""
    world = DurableWorld(tmp_path)
    members = [member(f"k{at}")._replace(task_id=f"r-k{at}") for at in range(500)]
    committed: list[int] = []
    commit = world.store.commit

    def counting(written: Any) -> None:
        committed.append(sum(isinstance(row, InsertTask) for row in written))
        commit(written)

    world.store.commit = counting  # type: ignore[method-assign]  # to see what one transaction holds
    world.submit_members(*members)
    assert [count for count in committed if count] == [500]
