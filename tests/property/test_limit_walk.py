"""Random walks with limits under faults: nothing is held twice, nothing too fast, nobody waits for ever (I21).

What may be held is judged here from what was submitted, offered and granted, not from the books of the core.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from outrider_coordinator.core.effects import Effects, LoadOutcomes
from outrider_coordinator.core.events import Answered, AttemptsReturned, CancelRequested, End, OutcomesLoaded, Ref
from outrider_coordinator.core.model import Task
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Claim, Demands
from outrider_coordinator.core.states import AttemptState, EventType, Reason
from outrider_coordinator.core.step import Event
from support.core_world import ModelAgent, World
from support.limit_world import RATE, SEMAPHORE, define

SEEDS = 80
STEPS = 150
LOCKS, UNITS, RATES = ("x", "y"), ("s", "t"), {"r": (5, 2)}
SCOPES = ("src/**", "src/a/*.py", "docs/*", "*/a/**", "web:src/**")
CAPACITY = 4


class JudgedWorld(World):
    """A world with a store, and with somebody who looks after every step."""

    judge: Callable[[], None] | None = None

    def do(self, *events: Event, after_us: int = 0) -> Effects:
        """One step."""
        effects = super().do(*events, after_us=after_us)
        if self.judge is not None:
            self.judge()
        for send in effects.sends:
            if isinstance(send, LoadOutcomes):
                super().do(OutcomesLoaded({task_id: self._end(task_id) for task_id in send.task_ids}))
        return effects

    def _end(self, task_id: str) -> End | None:
        return End(self.ended[task_id], "default") if task_id in self.ended else None


class LimitWalk:
    """One seeded walk: every method is a thing that may happen."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = JudgedWorld(CoreSettings(breaker_failures=50))
        self.tasks: list[str] = []
        self.capacity = dict.fromkeys(UNITS, CAPACITY)
        self.excess = dict.fromkeys(UNITS, 0)
        self.uses: dict[str, list[tuple[int, int]]] = {key: [] for key in RATES}
        self.seen = 0
        self.granted: set[tuple[str, str, int]] = set()
        for key, (per_second, burst) in RATES.items():
            define(self.world, key, RATE, per_second, burst)
        for key in UNITS:
            define(self.world, key, SEMAPHORE, CAPACITY)
        self.world.judge = self.judge

    # --- what may happen

    def claim(self) -> Claim:
        """A claim that can be met."""
        key = self.random.choice((*LOCKS, *LOCKS, *UNITS, *RATES))
        if key in LOCKS:
            return Claim(key, shared=self.random.random() < 0.4)
        return Claim(key, units=self.random.randint(1, 3 if key in UNITS else 2))

    def submit(self) -> None:
        """One to three tasks that claim some limits and scopes, sometimes after others."""
        after = tuple(self.random.sample(self.tasks, 1)) if self.tasks and self.random.random() < 0.2 else ()
        claims = {claim.key: claim for claim in (self.claim() for _ in range(self.random.randrange(4)))}
        scopes = self.random.sample(SCOPES, self.random.choice((0, 0, 1, 2)))
        fields: dict[str, Any] = {"max_attempts": self.random.choice((1, 3)), "priority": self.random.randrange(11)}
        demands = Demands(claims=tuple(sorted(claims.values())), scopes=tuple(sorted(scopes)))
        self.tasks += self.world.submit(self.random.randint(1, 3), after=after, demands=demands, **fields)

    def connect(self) -> None:
        """An agent says hello, new or again."""
        self.world.connect(self.random.choice("abc"), 3, prefetch_credit=self.random.choice((0, 3)))

    def disconnect(self) -> None:
        """A stream ends; sometimes the agent forgets what it had."""
        there = [agent for agent in self.world.agents.values() if agent.epoch]
        if there:
            agent = self.random.choice(there)
            self.world.disconnect(agent)
            if self.random.random() < 0.3:
                agent.held.clear()

    def held(self, *states: AttemptState) -> tuple[ModelAgent, Ref] | None:
        """An attempt in one of these states on a connected agent, if any."""
        agents = [agent for agent in self.world.agents.values() if agent.epoch]
        found = [(agent, ref) for agent in agents for ref, state in agent.held.items() if state in states]
        return self.random.choice(found) if found else None

    def start(self) -> None:
        """An offered attempt starts."""
        found = self.held(AttemptState.OFFERED)
        if found:
            self.world.start(*found)

    def give_back(self) -> None:
        """An agent refuses an offer."""
        found = self.held(AttemptState.OFFERED)
        if found:
            agent, ref = found
            del agent.held[ref]
            self.world.do(AttemptsReturned(agent.id, agent.epoch, [ref], revoked=self.random.random() < 0.5))

    def finish(self) -> None:
        """An attempt ends, well or not."""
        found = self.held(AttemptState.STARTED)
        if found and self.random.random() < 0.6:
            self.world.complete(*found)
        elif found:
            self.world.fail(*found, self.random.choice((Reason.TASK_ERROR, Reason.WORKER_DIED)))

    def block(self) -> None:
        """A running attempt waits for a limit, another task or a person."""
        found = self.held(AttemptState.STARTED)
        if not found:
            return
        agent, ref = found
        what = self.random.random()
        if what < 0.6:
            claim = self.claim()
            self.world.block(agent, ref, f"l-{self.world.state.now_us}-{claim.key}", "resource", claim=claim)
        elif what < 0.8:
            required = self.random.choice(self.tasks)
            self.world.block(agent, ref, f"d-{required}", "dependency", required_task_id=required)
        else:
            self.world.block(agent, ref, "q")

    def wake(self) -> None:
        """What was resolved goes on, or fails when it was told of a deadlock; questions are answered."""
        found = self.held(AttemptState.BLOCKED)
        if not found:
            return
        agent, ref = found
        task = self.world.state.tasks.get(ref.task_id)
        if task is None or task.attempt is None or task.attempt.number != ref.attempt:
            self.world.fail(agent, ref)
            return
        for wait in [wait for wait in task.waits if wait.is_open]:
            if wait.kind == "clarification" and not wait.is_resolved:
                self.world.do(Answered(task.id, wait.key, b"x", self.world.replies.append))
            elif wait.is_resolved:
                self.world.unblock(agent, ref, wait.key)

    def give_up(self) -> None:
        """A blocked attempt waits no longer and goes on without."""
        found = self.held(AttemptState.BLOCKED)
        task = self.world.state.tasks.get(found[1].task_id) if found else None
        if found and task is not None:
            for wait in [wait for wait in task.waits if wait.is_open]:
                self.world.unblock(*found, wait.key)

    def cancel(self) -> None:
        """Somebody cancels a task."""
        if self.tasks:
            self.world.do(CancelRequested([self.random.choice(self.tasks)], "", self.world.replies.append))

    def obey(self) -> None:
        """Agents kill what they were told to."""
        for agent in self.world.agents.values():
            for ref in agent.cancelled:
                if agent.epoch and ref in agent.held:
                    self.world.fail(agent, ref, Reason.CANCEL_REQUESTED, False)
            agent.cancelled.clear()

    def wait(self) -> None:
        """Time passes."""
        self.world.wait(self.random.choice((0.1, 1, 4, 9)))

    def change(self) -> None:
        """Somebody changes a semaphore under its holders."""
        key = self.random.choice(UNITS)
        self.excess[key] = self.held_units(key)
        self.capacity[key] = self.random.randint(1, 6)
        define(self.world, key, SEMAPHORE, self.capacity[key])

    # --- what must hold

    def live(self) -> list[tuple[Task, list[Claim]]]:
        """Tasks with a live attempt, and what that has been given."""
        found = []
        for task in self.world.state.tasks.values():
            attempt = task.attempt
            if attempt is not None:
                gained = [wait.claim for wait in task.waits if wait.claim and wait.held_by == attempt.number]
                found.append((task, [*task.spec.demands.claims, *gained]))
        return found

    def held_units(self, key: str) -> int:
        """Units of a semaphore that live attempts hold."""
        return sum(claim.units for _, claims in self.live() for claim in claims if claim.key == key)

    def judge(self) -> None:
        """I21, from what was submitted, offered and granted."""
        for key in LOCKS:
            sides = [
                all(claim.shared for claim in claims if claim.key == key)
                for _, claims in self.live()
                if any(claim.key == key for claim in claims)
            ]
            assert all(sides) or len(sides) <= 1, f"I21: lock {key} is held by {len(sides)}, {sides.count(False)} alone"
        for key in UNITS:
            units = self.held_units(key)
            self.excess[key] = min(self.excess[key], units)
            assert units <= max(self.capacity[key], self.excess[key]), f"I21: {units} units of {key} are held"
        self.judge_rates()

    def judge_rates(self) -> None:
        """No stretch of time saw more units of a rate than its burst and what came back since."""
        for event in self.world.log[self.seen :]:
            if event.type == EventType.TASK_ASSIGNED:
                self.use(event.time_us, self.world.specs[event.task_id].demands.claims)
        self.seen = len(self.world.log)
        for task, _ in self.live():
            for wait in task.waits:
                mark = (task.id, wait.key, wait.held_by)
                if wait.claim is not None and wait.held_by and mark not in self.granted:
                    self.granted.add(mark)
                    self.use(self.world.now_us, (wait.claim,))

    def use(self, time_us: int, claims: tuple[Claim, ...]) -> None:
        """Units of rates were given out."""
        for claim in claims:
            if claim.key in RATES:
                per_second, burst = RATES[claim.key]
                uses = self.uses[claim.key]
                uses.append((time_us, claim.units))
                total = 0
                for then_us, units in reversed(uses):
                    total += units
                    allowed = burst + (time_us - then_us) * per_second / SECOND_US
                    assert total <= allowed + 1e-6, f"I21: {total} units of {claim.key} in {time_us - then_us} us"

    def settle(self) -> None:
        """Faults stop: every agent is there and does what it is told, until nothing is left to do."""
        for key in UNITS:
            self.excess[key], self.capacity[key] = self.held_units(key), CAPACITY
            define(self.world, key, SEMAPHORE, CAPACITY)
        for name in "abc":
            self.world.connect(name, 3)
        for _ in range(600):
            if not self.world.state.tasks:
                return
            for happening in (self.obey, self.start, self.wake, self.finish):
                happening()
            if not self.held(AttemptState.OFFERED, AttemptState.STARTED):
                self.world.wait(3)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_limits_are_never_exceeded_and_nobody_waits_for_ever(seed: int) -> None:
    """Under random faults I21 holds after every step, and once faults stop every task ends and every limit is free."""
    walk = LimitWalk(seed)
    happenings = (
        [walk.submit] * 3
        + [walk.start, walk.finish] * 4
        + [walk.block, walk.wake] * 2
        + [walk.connect, walk.disconnect, walk.give_back, walk.give_up, walk.obey, walk.wait, walk.cancel, walk.change]
    )
    for _ in range(STEPS):
        walk.random.choice(happenings)()
    walk.settle()
    left = {task.id: (task.state.name, task.waits) for task in walk.world.state.tasks.values()}
    assert not left
    book = walk.world.state.limits
    assert {name for _, name in book.pools} == {*UNITS, *RATES}
    assert all(not pool.holders for pool in book.pools.values())
    assert not book.scopes
    assert not book.waits
