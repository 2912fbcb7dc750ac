"""Random walks of the core under faults: invariants after every step, liveness at the end."""

from __future__ import annotations

import random
from typing import Any

import pytest

from outrider_coordinator.core.attempts.stopping import STOPS, stop_attempt
from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.events import Answered, CancelRequested, Ref
from outrider_coordinator.core.settings import CoreSettings, Preemption
from outrider_coordinator.core.spec import SECOND_US, Demands, Strategy
from outrider_coordinator.core.states import AttemptState, Reason, TaskState
from support.core_world import ModelAgent, World

SEEDS = 100
STEPS = 120
STRATEGIES = [strategy for strategy in Strategy if strategy]
REASONS = (Reason.TASK_ERROR, Reason.TIMED_OUT, Reason.WORKER_DIED, Reason.AGENT_STOPPED)


class Walk:
    """One seeded walk: every method is a thing that may happen."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        placement, preemption = self.random.choice(STRATEGIES), self.random.choice(list(Preemption))
        settings = CoreSettings(breaker_failures=50, placement=placement, preemption=preemption, aging_us=SECOND_US)
        self.world = World(settings)
        self.tasks: list[str] = []
        self.runs = 0

    def agent(self) -> ModelAgent | None:
        """A connected agent, if any."""
        there = [agent for agent in self.world.agents.values() if agent.epoch]
        return self.random.choice(there) if there else None

    def held(self, *states: AttemptState) -> tuple[ModelAgent, Ref] | None:
        """An attempt in one of these states on a connected agent, if any."""
        found = [
            (agent, ref)
            for agent in self.world.agents.values()
            if agent.epoch
            for ref, state in agent.held.items()
            if state in states
        ]
        return self.random.choice(found) if found else None

    def submit(self) -> None:
        """One to three tasks with random policy, sometimes after others."""
        after = tuple(self.random.sample(self.tasks, 1)) if self.tasks and self.random.random() < 0.3 else ()
        fields: dict[str, Any] = {"max_attempts": self.random.choice((0, 1, 3)), "priority": self.random.randrange(11)}
        if self.random.random() < 0.1:
            fields["deadline_us"] = self.random.randint(1, 60) * SECOND_US
        fields["exclusive"] = self.random.random() < 0.1
        fields["at_most_once"] = fields["max_attempts"] < 2 and self.random.random() < 0.1
        if self.random.random() < 0.5:
            fields |= self.placing()
        self.tasks += self.world.submit(self.random.randint(1, 3), after=after, **fields)

    def placing(self) -> dict[str, Any]:
        """Demands and wishes of every kind, and whether it may be stopped for others."""
        draw = self.random.random
        demands = Demands(
            resources=(("gpu", self.random.choice((0.5, 1.0, 2.0))),) if draw() < 0.5 else (),
            runner="r" if draw() < 0.2 else "",
            strategy=self.random.choice((Strategy.DEFAULT, *STRATEGIES)),
            affinities=((self.random.choice("abc"), self.random.choice((-100, -1, 1, 100))),) if draw() < 0.3 else (),
            avoid_tags=("t",) if draw() < 0.3 else (),
            spread=draw() < 0.3,
            sticky=draw() < 0.3,
        )
        kind, submitter = self.random.choice(("m:f", "m:g")), self.random.choice(("", "one", "other"))
        return {"demands": demands, "preemptible": draw() < 0.5, "tags": ("t",), "kind": kind, "submitter": submitter}

    def connect(self) -> None:
        """An agent says hello, new or again."""
        name = self.random.choice("abc")
        offers: dict[str, Any] = {"resources": {"gpu": self.random.choice((0.0, 1.0, 2.0))}, "runners": ("r",)}
        self.world.connect(name, 2, prefetch_credit=self.random.choice((0, 3)), **offers)

    def disconnect(self) -> None:
        """A stream ends; sometimes the agent forgets what it had."""
        agent = self.agent()
        if agent is not None:
            self.world.disconnect(agent)
            if self.random.random() < 0.3:
                agent.held.clear()

    def start(self) -> None:
        """An offered attempt starts."""
        found = self.held(AttemptState.OFFERED)
        if found:
            self.world.start(*found)

    def finish(self) -> None:
        """An attempt ends, well or not."""
        found = self.held(AttemptState.STARTED, AttemptState.OFFERED)
        if not found:
            return
        agent, ref = found
        carried = agent.held[ref] is AttemptState.OFFERED and self.random.random() < 0.7
        start = (self.world.now_us - 1, b"began") if carried else None
        if self.random.random() < 0.6:
            self.world.complete(agent, ref, start=start)
        else:
            self.world.fail(agent, ref, self.random.choice(REASONS), self.random.random() < 0.8, start=start)

    def block(self) -> None:
        """A running attempt asks, or waits for another task."""
        found = self.held(AttemptState.STARTED)
        if not found:
            return
        if self.tasks and self.random.random() < 0.4:
            required = self.random.choice(self.tasks)
            self.world.block(*found, f"d{required}", "dependency", required_task_id=required)
        else:
            self.world.block(*found, "q")

    def wake(self) -> None:
        """What was answered goes on; what was not gets an answer."""
        found = self.held(AttemptState.BLOCKED)
        if not found:
            return
        agent, ref = found
        task = self.world.state.tasks.get(ref.task_id)
        waits = [wait for wait in task.waits if wait.is_open] if task else []
        if task is None or task.attempt is None or task.attempt.number != ref.attempt or not waits:
            self.world.fail(agent, ref)
            return
        self.world.do(Answered(task.id, waits[0].key, b"x", self.world.replies.append))
        self.world.unblock(agent, ref, waits[0].key)

    def cancel(self) -> None:
        """Somebody cancels a task."""
        if self.tasks:
            self.world.do(CancelRequested([self.random.choice(self.tasks)], "", self.world.replies.append))

    def obey(self) -> None:
        """An agent kills what it was told to."""
        for agent in self.world.agents.values():
            for ref in agent.cancelled:
                if agent.epoch and ref in agent.held:
                    reason = agent.reasons[ref]
                    self.world.fail(agent, ref, reason, reason is not Reason.CANCEL_REQUESTED)
            agent.cancelled.clear()

    def stop(self) -> None:
        """The core stops an attempt for a reason of its own."""
        live = [task for task in self.world.state.tasks.values() if task.attempt is not None]
        if live:
            task, effects = self.random.choice(live), Effects()
            assert task.attempt is not None
            stop_attempt(self.world.state, effects, task, task.attempt, self.random.choice(list(STOPS)))
            self.world.take(effects)

    def wait(self) -> None:
        """Time passes."""
        self.world.wait(self.random.choice((0.1, 1, 4, 9)))

    def welcome(self, name: str) -> None:
        """An agent says hello in the end, with everything that anybody asks for."""
        self.world.connect(name, 2, resources={"gpu": 2.0}, runners=("r",))

    def settle(self) -> None:
        """Faults stop: every agent is there and does what it is told, until nothing is left to do."""
        for name in "abc":
            self.welcome(name)
        for _ in range(400):
            if not self.world.state.tasks:
                return
            self.obey()
            for happening in (self.start, self.finish, self.wake):
                happening()
            if not any(agent.held for agent in self.world.agents.values()):
                self.world.wait(9)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_walk_keeps_the_invariants_and_ends(seed: int) -> None:
    """Under random faults no invariant breaks, and once faults stop every task becomes terminal."""
    walk = Walk(seed)
    happenings = (
        [walk.submit] * 3
        + [walk.start, walk.finish] * 4
        + [walk.connect, walk.disconnect, walk.block, walk.wake, walk.obey, walk.wait, walk.cancel, walk.stop]
    )
    for _ in range(STEPS):
        walk.random.choice(happenings)()
    walk.settle()
    left = {task.id: task.state.name for task in walk.world.state.tasks.values()}
    assert not left
    assert set(walk.tasks) == set(walk.world.ended)
    assert all(isinstance(state, TaskState) for state in walk.world.ended.values())
