"""A small world with one schedule in it, driven by the test's own clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.events import RunMember, RunSubmitted, Submission, TasksSubmitted, Ticked
from outrider_coordinator.core.schedules.book import Missed, Overlap, Schedule, Times, interval
from outrider_coordinator.core.schedules.events import (
    ScheduleCreated,
    ScheduleOrdered,
)
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Spec
from outrider_coordinator.core.states import EventType
from support.core_world import World

HOUR_US = 3600 * SECOND_US
#: A second after a full hour, some time after the epoch.
START_US = 24_000 * HOUR_US + SECOND_US


def one_task(request_id: str, new_id: Callable[[], str]) -> TasksSubmitted:
    """Work that is one task."""
    submission = Submission(new_id(), "default", Spec(b"", "m:f", True), request_id, b"digest")
    return TasksSubmitted([submission], lambda value: None)


def one_run(request_id: str, new_id: Callable[[], str]) -> RunSubmitted:
    """Work that is a graph of two tasks."""
    spec = Spec(b"", "m:f", True)
    members = [RunMember(new_id(), "a", spec, ()), RunMember(new_id(), "b", spec, ("a",))]
    return RunSubmitted(new_id(), "default", "", "", members, lambda value: None, request_id, b"digest")


def hourly() -> Times:
    """By the wall clock, at every full hour."""
    grid = interval(0, HOUR_US)
    return Times(grid.following, grid.latest)


class Clockwork:
    """A world with one schedule, which is not connected to any agent unless the test does so."""

    def __init__(self, settings: CoreSettings | None = None) -> None:
        self.world = World(settings)
        self.world.now_us = self.world.state.now_us = START_US
        self.effects: list[Effects] = []

    def create(self, times: Times, *, replace: bool = False, name: str = "s", **facts: Any) -> Any:
        """Make a schedule; what the core answers."""
        fields = {
            "body": b"spec",
            "submitter": "",
            "work": one_task,
            "overlap": Overlap.ALLOW,
            "missed": Missed.ONCE,
            "created_us": self.world.now_us,
        }
        schedule = Schedule("default", name, times=times, **{**fields, **facts})
        return self.ask(lambda reply: ScheduleCreated(schedule, replace, reply))

    def every(self, seconds: int, **facts: Any) -> Any:
        """Make an interval schedule."""
        return self.create(interval(self.world.now_us, seconds * SECOND_US), **facts)

    def order(self, order: str, name: str = "s") -> Any:
        """Pause, resume or delete."""
        return self.ask(lambda reply: ScheduleOrdered("default", name, order, reply))

    def ask(self, make: Callable[[Any], Any]) -> Any:
        """One event and its answer."""
        answers: list[Any] = []
        self.step(make(answers.append))
        return answers[0]

    def step(self, *events: Any, after_us: int = 0) -> Effects:
        """One step, and as many more as there is left to do at this time."""
        effects = self.world.do(*events, after_us=after_us)
        self.effects.append(effects)
        book = self.world.state.schedules
        while book.entering or ((first := book.first()) is not None and first.wake_us <= self.world.now_us):
            self.effects.append(self.world.do(Ticked()))
        return effects

    def wait(self, seconds: float) -> None:
        """Time passes without anything in between: timers are as late as that."""
        self.step(Ticked(), after_us=int(seconds * SECOND_US))

    def tick(self, seconds: int) -> None:
        """Time passes second by second."""
        for _ in range(seconds):
            self.wait(1)

    @property
    def schedule(self) -> Schedule:
        """The schedule as it is."""
        return self.world.state.schedules.schedules["default", "s"]

    def counts(self) -> tuple[int, int]:
        """Times fired and skipped."""
        return self.schedule.fired_count, self.schedule.skipped_count

    def events(self, kind: EventType) -> list[str]:
        """Texts of the events of a kind, in order."""
        return [event.text for event in self.world.log if event.type == kind]


def end(clockwork: Clockwork) -> None:
    """Let the agent end what it holds."""
    world = clockwork.world
    agent = world.agents["a"]
    (ref,) = agent.held
    world.complete(agent, ref)
    clockwork.step(Ticked())
