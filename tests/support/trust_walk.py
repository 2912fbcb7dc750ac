"""Random work under a core with nervous breakers: everything that can become of an attempt becomes of some."""

from __future__ import annotations

import random

from outrider_coordinator.core.attempts import stopping
from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    AttemptsReturned,
    BreakerReset,
    CancelRequested,
    Ref,
    SessionEnded,
)
from outrider_coordinator.core.model import Breaker
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Demands
from outrider_coordinator.core.states import AttemptState, BreakerState, Intent, Reason
from support.core_world import ModelAgent, World

STEPS = 250
SETTINGS = CoreSettings(
    breaker_failures=2,
    breaker_samples_min=3,
    breaker_reset_us=3 * SECOND_US,
    breaker_reset_max_us=10 * SECOND_US,
    probe_time_us=20 * SECOND_US,
    system_failures=2,
)
REASONS = (Reason.TASK_ERROR, Reason.TASK_ERROR, Reason.TIMED_OUT, Reason.WORKER_DIED, Reason.AGENT_STOPPED)
KINDS, SYSTEMS = ("m:f", "m:g"), ("github", "npm")


class Walk:
    """One seeded walk; agent a does everything wrong more often than the others."""

    def __init__(self, seed: int, world: World | None = None) -> None:
        self.random = random.Random(seed)
        self.world = world or World(SETTINGS)
        self.tasks: list[str] = []
        self.seen: set[tuple[str, BreakerState]] = set()

    def held(self, *states: AttemptState) -> tuple[ModelAgent, Ref] | None:
        """An attempt in one of these states on a connected agent."""
        agents = [agent for agent in self.world.agents.values() if agent.epoch]
        found = [(agent, ref) for agent in agents for ref, state in agent.held.items() if state in states]
        return self.random.choice(found) if found else None

    def submit(self) -> None:
        """Some work, which may need outside systems."""
        names = tuple(name for name in SYSTEMS if self.random.random() < 0.3)
        fields = {"kind": self.random.choice(KINDS), "demands": Demands(systems=names)}
        self.tasks += self.world.submit(self.random.randint(1, 3), max_attempts=self.random.choice((0, 5)), **fields)

    def start(self) -> None:
        """An attempt begins."""
        if found := self.held(AttemptState.OFFERED):
            self.world.start(*found)

    def finish(self) -> None:
        """An attempt ends, on agent a mostly badly."""
        if found := self.held(AttemptState.STARTED, AttemptState.OFFERED):
            agent, ref = found
            if self.random.random() < (0.8 if agent.id == "a" else 0.2):
                self.world.fail(agent, ref, self.random.choice(REASONS))
            else:
                self.world.complete(agent, ref)

    def hand_back(self) -> None:
        """An agent refuses what it was offered, or gives it back as it was asked to."""
        if found := self.held(AttemptState.OFFERED):
            agent, ref = found
            del agent.held[ref]
            revoked = self.random.random() < 0.5
            self.world.do(AttemptsReturned(agent.id, agent.epoch, [ref], revoked=revoked))

    def stop(self) -> None:
        """The coordinator wants an attempt elsewhere, or somebody cancels its task; the agent obeys."""
        found = self.held(AttemptState.STARTED)
        if not found:
            return
        agent, ref = found
        task = self.world.state.tasks.get(ref.task_id)
        if task is None or task.attempt is None or task.attempt.number != ref.attempt:
            return
        if self.random.random() < 0.5:
            self.world.do(CancelRequested([task.id], "", self.world.replies.append))
            self.world.fail(agent, ref, Reason.CANCEL_REQUESTED, False)
        else:
            effects = self.world.do()
            stopping.stop_attempt(self.world.state, effects, task, task.attempt, Intent.PREEMPT)
            self.world.fail(agent, ref, Reason.PREEMPTED, False)

    def block(self) -> None:
        """An attempt waits for a system, or for somebody."""
        found = self.held(AttemptState.STARTED)
        if found and self.random.random() < 0.6:
            self.world.block(*found, f"x{self.world.now_us}", "external", system=self.random.choice(SYSTEMS))
        elif found:
            self.world.block(*found, "q")

    def wake(self) -> None:
        """A blocked attempt goes on."""
        if found := self.held(AttemptState.BLOCKED):
            agent, ref = found
            task = self.world.state.tasks.get(ref.task_id)
            waits = [wait for wait in task.waits if wait.is_open] if task else []
            if not waits:
                self.world.fail(agent, ref)
            for wait in waits:
                self.world.unblock(agent, ref, wait.key)

    def come_and_go(self) -> None:
        """An agent connects, loses contact, forgets what it had, or leaves."""
        agent = self.world.agents.get(self.random.choice("abc"))
        if agent is None or not agent.epoch:
            self.world.connect(agent.id if agent else self.random.choice("abc"), 3)
        elif self.random.random() < 0.7:
            self.world.disconnect(agent)
            if self.random.random() < 0.4:
                agent.held.clear()
        else:
            epoch, agent.epoch = agent.epoch, 0
            agent.held.clear()
            self.world.do(SessionEnded(agent.id, epoch, goodbye=True))

    def operate(self) -> None:
        """An operator resets or removes something."""
        agent_id = self.random.choice("abc")
        if self.random.random() < 0.5:
            self.world.do(BreakerReset("", "", self.random.choice(SYSTEMS), self.world.replies.append))
        elif self.random.random() < 0.8:
            kind = self.random.choice(("", *KINDS))
            self.world.do(BreakerReset(agent_id, kind, "", self.world.replies.append))
        elif (agent := self.world.agents.pop(agent_id, None)) is not None:
            self.world.do(AgentOrdered(agent.id, AgentOrder.REMOVE, self.world.replies.append, force=True))

    def wait(self) -> None:
        """Time passes."""
        self.world.wait(self.random.choice((0.1, 1, 4, 9)))

    def breakers(self) -> list[Breaker]:
        """All there are."""
        state = self.world.state
        own = [agent.breaker for agent in state.agents.values()]
        types = [known for agent in state.agents.values() for known in agent.type_breakers.values()]
        return own + types + [system.breaker for system in state.systems.values()]

    def check(self) -> None:
        """No attempt is leased by a breaker that does not let it through, and every lease is known."""
        leases = [known.probe for known in self.breakers() if known.probe is not None]
        assert sorted(set(leases)) == sorted(self.world.state.probes)
        for known in self.breakers():
            self.seen.add(("system" if known.system else "type" if known.kind else "agent", known.state))

    def settle(self) -> None:
        """Faults stop and there is work of every kind for every agent: all breakers close."""
        for name in "abc":
            self.world.connect(name, 3)
        for _ in range(150):
            if not self.world.state.tasks and all(known.state is BreakerState.CLOSED for known in self.breakers()):
                return
            for kind in KINDS:
                self.world.submit(4, kind=kind, demands=Demands(systems=SYSTEMS))
                self.world.submit(4, kind=kind)
            while found := self.held(AttemptState.OFFERED, AttemptState.STARTED, AttemptState.BLOCKED):
                self.world.complete(*found)
            self.world.wait(9)


def walked(seed: int, world: World | None = None) -> Walk:
    """A walk before its settling."""
    walk = Walk(seed, world)
    happenings = (
        [walk.submit, walk.start, walk.finish] * 4
        + [walk.hand_back, walk.stop, walk.block, walk.wake, walk.wait] * 2
        + [walk.come_and_go, walk.operate]
    )
    for name in "abc":
        walk.world.connect(name, 3)
    for _ in range(STEPS):
        walk.random.choice(happenings)()
        walk.check()
    return walk
