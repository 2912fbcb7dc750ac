"""The index over agents decides what looking at every agent would decide, after any history."""

from __future__ import annotations

import random
from typing import Any

import pytest

from outrider_coordinator.core.events import AgentOrder, AgentOrdered, HeartbeatReceived, Ticked
from outrider_coordinator.core.model import Agent, HostFacts
from outrider_coordinator.core.placement import fleet
from outrider_coordinator.core.placement.eligibility import closed_to_kind, closed_to_work, fits, mismatch
from outrider_coordinator.core.placement.fleet import Lot, Ranking
from outrider_coordinator.core.placement.resources import in_use
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Constraint, Demands, Operator, Strategy
from outrider_coordinator.core.states import AttemptState, Reason, TaskState
from support.core_world import World

DEMANDS = (
    Demands(),
    Demands((Constraint("zone", Operator.IN, ("a",)),)),
    Demands((Constraint("zone", Operator.NOT_EXISTS),)),
    Demands(resources=(("gpu", 1.0),)),
    Demands(resources=(("gpu", 0.5),), runner="r"),
    Demands((Constraint("nowhere", Operator.EXISTS),)),
)


def brute_force(agents: dict[str, Agent], demands: Demands, kind: str) -> tuple[float, int, str] | None:
    """The least loaded agent that no rule refuses, found by asking every one."""
    keys = [
        (agent.slots_used / agent.slots, agent.pressure, agent.id)
        for agent in agents.values()
        if mismatch(agent, demands) is None
        and closed_to_work(agent) is None
        and closed_to_kind(agent, kind) is None
        and in_use(agent, demands.resources) is None
        and agent.free_slots
    ]
    return min(keys, default=None)


class Scan:
    """A world whose every offer is checked against a look at all agents."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(CoreSettings(breaker_failures=3, accept_timeout_us=10**9))
        self.tasks: list[str] = []

    def submit_one(self) -> None:
        """One task: it goes to the agent that a look at all of them names, or waits when that names none."""
        demands = self.random.choice(DEMANDS)
        kind = f"m:f{self.random.randrange(2)}"
        self.world.do(Ticked())  # what is due by now is not the task's doing
        expected = brute_force(self.world.state.agents, demands, kind)
        (task,) = self.world.submit(demands=demands, kind=kind, max_attempts=2)
        self.tasks.append(task)
        attempt = self.world.state.tasks[task].attempt
        if not any(other.id != task for other in self.world.state.queue):
            assert (attempt.agent_id if attempt else None) == (expected[2] if expected else None)

    def check_nobody_waits_for_nothing(self) -> None:
        """No queued task could be taken by any agent."""
        for task in self.world.state.queue:
            assert brute_force(self.world.state.agents, task.spec.demands, task.spec.kind) is None, task.id

    def connect(self) -> None:
        """An agent says hello, with what it offers this time."""
        zone: dict[str, str] = self.random.choice(({}, {"zone": "a"}, {"zone": "b"}))
        offers: dict[str, Any] = {"labels": zone, "resources": {"gpu": float(self.random.randrange(3))}}
        runners = self.random.choice(((), ("r",)))
        self.world.connect(self.random.choice("abcdef"), self.random.randint(1, 3), runners=runners, **offers)

    def disconnect(self) -> None:
        """A stream ends."""
        agent = self._agent()
        if agent is not None:
            self.world.disconnect(agent)

    def end(self) -> None:
        """An attempt ends, well or not."""
        found = [(agent, ref) for agent in self.world.agents.values() if agent.epoch for ref in agent.held]
        if found:
            agent, ref = self.random.choice(found)
            if self.random.random() < 0.7:
                self.world.complete(agent, ref)
            else:
                self.world.fail(agent, ref, self.random.choice((Reason.TASK_ERROR, Reason.WORKER_DIED)))

    def block(self) -> None:
        """An attempt starts and waits: it gives its slot back and keeps the rest."""
        found = [
            (agent, ref)
            for agent in self.world.agents.values()
            if agent.epoch
            for ref, state in agent.held.items()
            if state is AttemptState.OFFERED
        ]
        if found:
            agent, ref = self.random.choice(found)
            self.world.start(agent, ref)
            self.world.block(agent, ref, "q")

    def order(self) -> None:
        """An operator pauses or resumes."""
        agent = self._agent()
        if agent is not None:
            order = self.random.choice((AgentOrder.PAUSE, AgentOrder.RESUME))
            self.world.do(AgentOrdered(agent.id, order, self.world.replies.append))

    def beat(self) -> None:
        """A heartbeat says how busy the machine is."""
        agent = self._agent()
        if agent is not None:
            facts = HostFacts(cpu_fraction=self.random.random(), is_leaving=self.random.random() < 0.1)
            self.world.do(HeartbeatReceived(agent.id, agent.epoch, facts))

    def wait(self) -> None:
        """Time passes."""
        self.world.wait(self.random.choice((0.5, 2, 31)))

    def _agent(self) -> Any:
        there = [agent for agent in self.world.agents.values() if agent.epoch]
        return self.random.choice(there) if there else None


@pytest.mark.parametrize("seed", range(60))
def test_the_index_decides_as_a_scan_of_all_agents(seed: int) -> None:
    """Each offer goes to the least loaded agent of all that may take it, and nothing waits that could run."""
    scan = Scan(seed)
    happenings = [scan.submit_one] * 6 + [scan.end] * 4 + [scan.connect] * 2
    happenings += [scan.disconnect, scan.block, scan.order, scan.beat, scan.wait]
    for _ in range(120):
        scan.random.choice(happenings)()
        scan.check_nobody_waits_for_nothing()


@pytest.mark.parametrize("strategy", [strategy for strategy in Strategy if strategy])
def test_every_strategy_fills_every_slot_and_offers_only_where_it_may(strategy: Strategy) -> None:
    """As many tasks run as there are slots on agents that may take them, whatever chooses between these."""
    world = World()
    for number in range(20):
        world.connect(f"a{number}", 1 + number % 3, labels={"zone": "ab"[number % 2]})
    demands = Demands((Constraint("zone", Operator.IN, ("a",)),), strategy=strategy)
    tasks = world.submit(40, demands=demands)
    held = {agent.id: len(agent.held) for agent in world.agents.values() if agent.held}
    room = {f"a{number}": 1 + number % 3 for number in range(0, 20, 2)}
    assert held == room
    assert sum(world.state_of(task) is TaskState.QUEUED for task in tasks) == 40 - sum(room.values())


def test_a_forgotten_change_is_found() -> None:
    """The invariants tell when an agent got better and nobody said so."""
    world = World()
    world.connect("a", 1)
    world.submit(2)
    agent = world.state.agents["a"]
    agent.slots = 2
    with pytest.raises(AssertionError, match="nobody said so"):
        fleet.check(world.state.fleet, world.state.agents, fits)


def test_dead_keys_do_not_pile_up() -> None:
    """However often agents change, an index holds few entries for each."""
    agents = {f"a{number}": Agent(f"a{number}", "m", slots=2) for number in range(50)}
    loads = dict.fromkeys(agents, 0)
    ranking = Ranking(lambda agent: (loads[agent.id], agent.id))
    chance = random.Random(1)
    for _ in range(20_000):
        agent = agents[chance.choice(list(agents))]
        loads[agent.id] = chance.randrange(100)
        ranking.note(agent)
    assert len(ranking.heap) + len(ranking.fresh) <= 2 * len(agents) + 64
    lot = Lot(lambda agent: (0, agent.id) if loads[agent.id] % 2 else None)
    for agent in agents.values():
        lot.note(agent)
        lot.note(agent)
    drawn = {agent.id for _ in range(500) if (agent := lot.draw(agents, chance.randrange))}
    assert drawn == {agent_id for agent_id, load in loads.items() if load % 2}
