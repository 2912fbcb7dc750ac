"""Stories of agents, each kept word by word: who is there, who is trusted, what is lost, and what people are told."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    BreakerReset,
    CancelRequested,
    HeartbeatReceived,
    OutboxFacts,
    PauseNoticed,
    Ref,
    Report,
    ReportKind,
    ReportsReceived,
    SessionEnded,
    Ticked,
)
from outrider_coordinator.core.model import HostFacts
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Constraint, Demands, Operator, Strategy
from outrider_coordinator.core.states import BreakerState, Reason
from support.restart import restart
from support.telling import Story, TellingWorld, begin, check, tell_all
from support.trust_world import CLOSED, breaker_of, fails_here_passes_there, reject

GITHUB = Demands(systems=("github",))


def order(world: TellingWorld, name: str, what: str, **fields: int) -> None:
    """An operator's order."""
    world.do(AgentOrdered(name, what, world.replies.append, **fields))


def comes_and_goes(world: TellingWorld) -> None:
    """An agent says hello, works, is silent, comes back, is superseded, leaves and is removed."""
    hello = {"resources": {"gpu": 2.0}, "task_types": ("etl",), "runners": ("claude",)}
    agent = world.connect("a", 2, labels={"zone": "x"}, boot_id="b1", **hello)
    first, second, third = world.submit(3, demands=Demands(resources=(("gpu", 1.0),)), title="train")
    begin(world, agent)
    tell_all(world)
    facts = HostFacts(free_slots=1, load_average=1.5, cpu_fraction=0.55, memory_fraction=0.2, outbox_pending=3)
    world.do(HeartbeatReceived("a", agent.epoch, facts, workers_changed=True))
    world.say("another process under its name, twice; then the same machine again after a reboot")
    newer = {"instance_id": "j", "instance_start_ms": 2, **hello}
    world.connect("a", 2, labels={"zone": "y"}, boot_id="b1", **newer)
    world.connect("a", 2, boot_id="b1", **hello)
    world.complete(agent, world.ref(agent, first))
    world.say("silent for too long")
    agent.silent = True
    world.wait(9)
    tell_all(world)
    world.wait(3)
    agent.silent = False
    world.connect("a", 2, boot_id="b2", **newer)
    tell_all(world)
    begin(world, agent)
    world.say("it says goodbye with work in hand and later without")
    world.do(SessionEnded("a", agent.epoch, goodbye=True))
    world.connect("a", 2, boot_id="b2", **newer)
    for ref in list(agent.held):
        world.complete(agent, ref)
    while agent.held:
        begin(world, agent)
        for ref in list(agent.held):
            world.complete(agent, ref)
    world.do(SessionEnded("a", agent.epoch, goodbye=True))
    tell_all(world)
    order(world, "a", AgentOrder.REMOVE)
    assert not world.state.agents
    assert {first, second, third} == world.ended.keys()


def is_lost(world: TellingWorld) -> None:
    """Agents are lost with work of every kind: it goes elsewhere after its grace, waits for its lease, or fails."""
    lost, other = world.connect("a", 4), world.connect("b", 1)
    order(world, "b", AgentOrder.PAUSE)
    (plain,) = world.submit()
    (exclusive,) = world.submit(exclusive=True)
    (once,) = world.submit(at_most_once=True)
    (slow,) = world.submit(disconnect_grace_us=400 * SECOND_US)
    for task in (plain, exclusive, once, slow):
        world.report(lost, world.ref(lost, task), ReportKind.TAKEN)
        world.start(lost, world.ref(lost, task))
    order(world, "b", AgentOrder.RESUME)
    world.disconnect(lost)
    world.wait(6)
    tell_all(world)
    world.say("what ran is stopped by its lease, then others may start it")
    for ref in begin(world, other):
        world.fail(other, ref, Reason.WORKER_DIED)
    world.wait(20)
    begin(world, other)
    world.wait(300)
    tell_all(world)
    world.say("it comes back with what it holds: some of it is wanted, some is not")
    world.connect("a", 4)
    world.connect("b", 1)
    tell_all(world)


def alarm(world: TellingWorld) -> None:
    """Half of the fleet goes silent at once: we suspect ourselves, hold verdicts, and go on at a stated pace."""
    agents = [world.connect(name) for name in "abcd"]
    world.submit(4)
    for agent in agents:
        begin(world, agent)
    for agent in agents[:3]:
        world.disconnect(agent)
    world.wait(30)
    world.connect("a")
    world.wait(40)
    tell_all(world)
    world.say("a second time within ten minutes there is no alarm")
    for agent in agents[:1]:
        world.disconnect(agent)
    world.wait(8)
    for name in "abc":
        world.connect(name)
    world.do(PauseNoticed(3 * SECOND_US))
    world.wait(600)
    world.say("all come back before its time")
    for agent in agents:
        world.disconnect(agent)
    for agent in agents:
        world.connect(agent.id)
    world.wait(70)


def identity(world: TellingWorld) -> None:
    """Two machines, two processes and two stores fight over one name; outboxes lose their beginning."""
    world.state.store_id = "s1"
    agent = world.connect("a", 2)
    (task,) = world.submit()
    begin(world, agent)
    world.connect("a", machine_id="other")
    for number in range(2, 6):
        world.connect("a", 2, instance_id=f"p{number}", instance_start_ms=number, previous_instance_id="")
        world.wait(1)
    tell_all(world)
    order(world, "a", AgentOrder.RESUME)
    world.connect("a", 2, instance_id="p1", instance_start_ms=1)
    world.say("outboxes: one has lost its beginning, one is replayed")
    agent.held.clear()
    boxes = [OutboxFacts("box-a", 9, 8), OutboxFacts("old", 1, 2)]
    world.connect("a", 2, instance_id="p9", instance_start_ms=9, outboxes=boxes, store_id="s2", coordinator_epoch=7)
    log = Report(Ref(task, 1, 1), 1, world.now_us, ReportKind.LOG, False, b"hello", "")
    world.do(ReportsReceived("a", agent.epoch, "old", 1, [log, log]))
    world.do(ReportsReceived("a", agent.epoch, "old", 4, [log]))
    world.say("it has seen more starts of this store than we have")
    world.connect("a", 2, instance_id="p9", instance_start_ms=9, store_id="s1", coordinator_epoch=7)
    world.connect("a", 2, instance_id="p9", instance_start_ms=9, store_id="s1", coordinator_epoch=1 << 30)


def drains(world: TellingWorld) -> None:
    """Agents are paused, resumed and drained, with a deadline and without, over a restart of the coordinator."""
    agent, other = world.connect("a", 2), world.connect("b", 1)
    world.submit(3)
    for one in (agent, other):
        begin(world, one)
    order(world, "b", AgentOrder.PAUSE)
    order(world, "a", AgentOrder.DRAIN, timeout_us=20 * SECOND_US)
    tell_all(world)
    world.wait(5)
    restart(world)
    for name, slots in (("a", 2), ("b", 1)):
        world.connect(name, slots)
    world.wait(16)
    tell_all(world)
    for ref in list(agent.held):
        world.fail(agent, ref, agent.reasons[ref], True)
    order(world, "b", AgentOrder.RESUME)
    world.do(SessionEnded("a", agent.epoch, goodbye=True))
    world.connect("a", 2)
    order(world, "nobody", AgentOrder.PAUSE)
    order(world, "a", AgentOrder.REMOVE)
    begin(world, agent)
    order(world, "a", AgentOrder.DRAIN)
    world.wait(30)
    order(world, "a", AgentOrder.REMOVE, force=True)
    tell_all(world)


def breakers(world: TellingWorld) -> None:
    """An agent refuses everything: its breaker opens, is probed twice, fails, waits longer, and closes."""
    agent = world.connect("a", 2, prefetch_credit=2)
    world.submit()
    while breaker_of(world, "a").state is CLOSED:  # type: ignore[union-attr]  # an agent has one
        reject(world, agent)
    tell_all(world)
    world.wait(31)
    reject(world, agent)
    tell_all(world)
    world.wait(61)
    begin(world, agent)
    restart(world)
    world.connect("a", 2, prefetch_credit=2)
    for _ in range(2):
        for ref in [*agent.held, *begin(world, agent)][:1]:
            world.complete(agent, ref)
        world.submit()
    tell_all(world)
    world.say("losses and dead workers count against it too, people may trust it again")
    for _ in range(6):
        for ref in list(agent.held):
            world.start(agent, ref)
            world.fail(agent, ref, Reason.WORKER_DIED, True)
        world.wait(5)
        world.submit()
    world.do(BreakerReset("a", "", "", world.replies.append))
    world.do(BreakerReset("a", "m:f", "", world.replies.append))
    world.do(BreakerReset("b", "", "", world.replies.append))
    tell_all(world)


def types(world: TellingWorld) -> None:
    """What passes elsewhere is held against the agent for that type of work only, until it passes there too."""
    here, there = (world.connect(name, 4, labels={"name": name}) for name in "ab")
    while (found := breaker_of(world, "a", "m:f")) is None or found.state is CLOSED:
        fails_here_passes_there(world, here, there)
    (other,) = world.submit(kind="m:other", demands=Demands((Constraint("name", Operator.IN, ("a",)),)))
    world.complete(here, world.ref(here, other))
    order(world, "b", AgentOrder.PAUSE)
    world.submit(2)
    tell_all(world)
    world.wait(31)
    tell_all(world)
    for _ in range(3):
        for ref in begin(world, here):
            world.complete(here, ref)
        world.submit()
    assert breaker_of(world, "a", "m:f") is None or found.state is not BreakerState.OPEN
    tell_all(world)
    world.say("a task that fails on three agents is at fault itself")
    order(world, "b", AgentOrder.RESUME)
    third = world.connect("c", 4)
    (bad,) = world.submit(max_attempts=9, kind="m:bad")
    for one in (here, there, third):
        for name in "abc":
            order(world, name, AgentOrder.RESUME if name == one.id else AgentOrder.PAUSE)
        world.wait(20)
        world.start(one, world.ref(one, bad))
        world.fail(one, world.ref(one, bad))
    tell_all(world)


def systems(world: TellingWorld) -> None:
    """Three tasks fail on an outside system: it is held for down, a canary goes, and then everybody."""
    agents = [world.connect(name, 4) for name in "abc"]
    world.submit(3, demands=GITHUB, max_attempts=2)
    for agent in agents:
        for ref in begin(world, agent):
            world.fail(agent, ref)
    (waiter,) = world.submit()
    holder = next(agent for agent in agents if begin(world, agent))
    world.block(holder, world.ref(holder, waiter), "gh", "external", system="github")
    world.submit(3, demands=GITHUB, priority=7)
    tell_all(world)
    world.wait(31)
    tell_all(world)
    world.say("the canary fails, and the next one passes")
    for agent in agents:
        for ref in begin(world, agent):
            world.fail(agent, ref)
    restart(world)
    for agent in agents:
        world.connect(agent.id, 4)
    world.wait(61)
    for agent in agents:
        for ref in begin(world, agent):
            world.complete(agent, ref)
    tell_all(world)
    world.do(BreakerReset("", "", "github", world.replies.append))
    world.do(BreakerReset("", "", "mail", world.replies.append))
    tell_all(world)


def offers(world: TellingWorld) -> None:
    """Offers that nothing is heard of are revoked and go elsewhere; cancels wait for who has the attempt."""
    deaf = world.connect("a")
    (task,) = world.submit()
    world.wait(6)
    world.connect("b")
    world.wait(6)
    tell_all(world)
    world.do(CancelRequested([task, "t9"], "no more", world.replies.append))
    tell_all(world)
    world.connect("a")
    for agent in (deaf, world.agents["b"]):
        for ref in list(agent.held):
            world.fail(agent, ref, Reason.CANCEL_REQUESTED)
    (careful,) = world.submit(exclusive=True, disconnect_grace_us=60 * SECOND_US)
    world.wait(12)
    tell_all(world)
    world.disconnect(deaf)
    deaf.held.clear()
    world.connect("a")
    world.do(Ticked())
    assert careful in world.state.tasks


def strategy(world: TellingWorld) -> None:
    """Every way to choose an agent, with labels, affinities, tags and stickiness, and lines that are given back."""
    for number, name in enumerate("abcd"):
        world.connect(name, 2, labels={"zone": "xy"[number % 2]}, prefetch_credit=2)
        facts = HostFacts(cpu_fraction=number / 4)
        world.do(HeartbeatReceived(name, world.agents[name].epoch, facts))
    for chosen in Strategy:
        demands = Demands(strategy=chosen)
        for task in world.submit(3, demands=demands, kind=f"m:{chosen.name}"):
            agent = next(one for one in world.agents.values() if any(ref.task_id == task for ref in one.held))
            world.now_us += 1000 * (1 + len(agent.id))
            world.complete(agent, world.ref(agent, task))
    world.submit(2, demands=Demands(affinities=(("c", 40), ("a", -10)), avoid_tags=("noisy",)), tags=("noisy",))
    world.submit(2, demands=Demands(affinities=(("c", 40),), avoid_tags=("noisy",), spread=True))
    world.submit(
        2, demands=Demands((Constraint("zone", Operator.NOT_IN, ("x",)), Constraint("gpu", Operator.NOT_EXISTS)))
    )
    world.state.durations_us["m:f"] = 1000.0
    world.submit(8)
    tell_all(world)
    world.say("a line is given back once there is room elsewhere")
    for agent in list(world.agents.values()):
        begin(world, agent)
    world.connect("e", 3)
    tell_all(world)


ALL: tuple[Story, ...] = (
    comes_and_goes,
    is_lost,
    alarm,
    identity,
    drains,
    breakers,
    types,
    systems,
    offers,
    strategy,
)


@pytest.mark.parametrize("story", ALL, ids=lambda story: story.__name__)
def test_a_story_of_the_fleet_is_told_again(story: Story, pytestconfig: pytest.Config) -> None:
    """Every row, event, send and reply of it is what was kept."""
    check(story, pytestconfig, CoreSettings(lost_after_us=300 * SECOND_US))
