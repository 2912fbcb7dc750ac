"""Random walks of schedules: crashes, restarts, clocks that step, orders, work that ends or does not.

The oracle knows only what was durable: rows of tasks and schedules, in the order written. It is not told how the core
decides.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.records import DeleteSchedule, InsertTask, PutSchedule
from outrider_coordinator.core.schedules.book import Missed, Overlap, Schedule, Times, interval, single_time
from outrider_coordinator.core.schedules.events import ScheduleCreated, ScheduleOrder, ScheduleOrdered, WallClockMoved
from outrider_coordinator.core.schedules.firing import CLOCK_STEP_US, restore
from outrider_coordinator.core.spec import SECOND_US
from support.clockwork import HOUR_US, START_US, Clockwork, one_task
from support.core_world import World

SEEDS = 80
STEPS = 60


@dataclass
class Kind:
    """What one schedule was made of, which is what its row's body stands for."""

    times: Times
    overlap: Overlap
    missed: Missed


@dataclass
class Durable:
    """What a crash leaves: rows of schedules by name, and the work of every one of them.

    ``eras`` stands beside ``tasks``: it rises when the wall clock is set by more than may be taken for a small step.
    """

    schedules: dict[str, PutSchedule] = field(default_factory=dict)
    tasks: list[InsertTask] = field(default_factory=list)
    eras: list[int] = field(default_factory=list)
    era: int = 0

    def take(self, rows: list[Any]) -> None:
        """The rows of one commit."""
        for row in rows:
            if isinstance(row, PutSchedule):
                self.schedules[row.name] = row
            elif isinstance(row, DeleteSchedule):
                self.schedules.pop(row.name, None)
            elif isinstance(row, InsertTask):
                self.tasks.append(row)
                self.eras.append(self.era)


class Walk:
    """One seeded walk: every method is a thing that may happen."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clockwork = Clockwork()
        self.durable = Durable()
        self.commit(self.clockwork.world)
        self.kinds: dict[bytes, Kind] = {}
        self.offset_us = 0
        self.made = 0
        #: Schedules that were never paused or replaced while no clock was stepped: every time of theirs counts.
        self.strict: dict[str, int] = {}

    def commit(self, world: World) -> None:
        """Take whatever this world writes from now on for durable."""
        take = world.take

        def taken(effects: Effects) -> None:
            take(effects)
            self.durable.take(world.written)

        world.take = taken  # type: ignore[method-assign] # its instance, for this walk

    def step(self, *events: Any, after_us: int = 0) -> None:
        """One step and what it leaves over, committed."""
        world = self.clockwork.world
        world.do(*events, after_us=after_us)
        book = world.state.schedules
        while (first := book.first()) is not None and first.wake_us <= world.now_us:
            world.do()

    def create(self) -> None:
        """A schedule of random times and policies."""
        self.made += 1
        name, now_us = f"s{self.made}", self.clockwork.world.now_us
        every_us = self.random.choice((1, 7, 60)) * SECOND_US
        grid = interval(0, every_us)
        times = self.random.choice(
            (
                interval(now_us, every_us),
                Times(grid.following, grid.latest),
                single_time(now_us + self.offset_us + every_us),
            )
        )
        kind = Kind(times, self.random.choice(list(Overlap)), self.random.choice(list(Missed)))
        self.kinds[name.encode()] = kind
        self.step(ScheduleCreated(self.schedule(name, now_us, kind), False, lambda value: None))
        if kind.overlap is Overlap.ALLOW and kind.missed is Missed.ALL and not self.offset_us:
            self.strict[name] = now_us

    def schedule(self, name: str, created_us: int, kind: Kind) -> Schedule:
        """As the shell makes it of a request or a row."""
        return Schedule("default", name, name.encode(), "", kind.times, one_task, kind.overlap, kind.missed, created_us)

    def order(self) -> None:
        """Somebody holds one, lets it go on, or forgets it."""
        if self.durable.schedules:
            name = self.random.choice(sorted(self.durable.schedules))
            order = self.random.choice((ScheduleOrder.PAUSE, ScheduleOrder.RESUME, ScheduleOrder.DELETE))
            self.strict.pop(name, None)
            self.step(ScheduleOrdered("default", name, order, lambda value: None))

    def moment(self) -> None:
        """A little time passes."""
        self.step(after_us=self.random.randrange(1, 3 * SECOND_US))

    def nap(self) -> None:
        """The coordinator is held up for a while."""
        self.step(after_us=self.random.randrange(10, 95) * SECOND_US)

    def set_clock(self) -> None:
        """The wall clock is stepped, by little or by years."""
        self.strict.clear()
        before_us = self.offset_us
        self.offset_us = self.random.choice((0, 1, -1, 40, -40)) * self.random.choice((1, 1, 500)) * HOUR_US // 10
        self.durable.era += abs(self.offset_us - before_us) > CLOCK_STEP_US
        self.step(WallClockMoved(self.offset_us))

    def work(self) -> None:
        """An agent is there, or ends what it holds."""
        world = self.clockwork.world
        agent = world.agents.get("a")
        if agent is None or not agent.epoch:
            world.connect("a", 4)
        else:
            for ref in list(agent.held)[:2]:
                world.complete(agent, ref)
        self.step()

    def restart(self) -> None:
        """The coordinator is killed and starts again with what is durable; its work has ended meanwhile."""
        world = self.clockwork.world
        self.clockwork = Clockwork()
        again: World = self.clockwork.world
        self.commit(again)
        self.durable.era += self.offset_us != 0
        # The new line of time begins at the wall clock.
        again.now_us = again.state.now_us = max(START_US, world.now_us + self.offset_us + SECOND_US)
        self.offset_us = 0
        restored = []
        for row in self.durable.schedules.values():
            schedule = self.schedule(row.name, row.created_us, self.kinds[row.body])
            schedule.is_paused, schedule.next_us, schedule.last_us = row.is_paused, row.next_us, row.last_us
            schedule.last_id, schedule.queued_us = row.last_id, row.queued_us
            schedule.fired_count, schedule.skipped_count = row.fired_count, row.skipped_count
            restored.append(schedule)
        effects = Effects()
        restore(again.state, effects, restored)
        again.take(effects)
        self.step()

    def judge(self) -> None:
        """What must hold of the rows, whatever happened."""
        in_eras = Counter(zip((task.request_id for task in self.durable.tasks), self.durable.eras, strict=True))
        assert not [fired for fired, count in in_eras.items() if count > 1], "a time was fired twice"
        fired = Counter(task.request_id for task in self.durable.tasks)
        for request_id in fired:
            _, name, due = request_id.split(":")
            times = self.kinds[name.encode()].times
            assert times.following(int(due) - 1) == int(due), f"{request_id} is no time of it"
        ids = {task.id: task.request_id for task in self.durable.tasks}
        for name, row in self.durable.schedules.items():
            count = sum(times for request_id, times in fired.items() if request_id.split(":")[1] == name)
            assert row.fired_count == count, f"{name} counts {row.fired_count} and submitted {count}"
            assert row.last_id in ids or not row.last_id
            if name in self.strict:
                self.judge_strictly(row)

    def judge_strictly(self, row: PutSchedule) -> None:
        """Every time up to now was fired or skipped."""
        times, now_us = self.kinds[row.body].times, self.clockwork.world.now_us
        passed, at_us = 0, self.strict[row.name]
        while (following := times.following(at_us)) is not None and following <= now_us:
            passed, at_us = passed + 1, following
        assert row.fired_count + row.skipped_count == passed, f"{row.name}: {row} of {passed}"
        assert row.skipped_count == 0


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_walk_fires_each_time_at_most_once_and_loses_none(seed: int) -> None:
    """Each time of a schedule is submitted once or skipped and counted, at a time that is its own, whatever happens."""
    walk = Walk(seed)
    acts = [walk.create, walk.moment, walk.moment, walk.moment, walk.nap, walk.work, walk.restart]
    if seed % 2:
        acts += [walk.order, walk.set_clock]
    for _ in range(STEPS):
        walk.random.choice(acts)()
        walk.judge()


@pytest.mark.parametrize("seed", range(0, SEEDS, 4))
def test_the_same_walk_makes_the_same_rows(seed: int) -> None:
    """Ids, times and counts follow from the seed alone."""
    rows = []
    for _ in range(2):
        walk = Walk(seed)
        for _ in range(STEPS):
            walk.random.choice([walk.create, walk.moment, walk.nap, walk.work, walk.set_clock])()
        rows.append((walk.durable.schedules, walk.durable.tasks))
    assert rows[0] == rows[1]
