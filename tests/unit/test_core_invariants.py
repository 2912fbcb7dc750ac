"""Every invariant notices that it is broken: a check that cannot fail proves nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from outrider_coordinator.core import invariants
from outrider_coordinator.core.agents import liveness
from outrider_coordinator.core.events import Ticked
from outrider_coordinator.core.limits.book import Definition, LimitKind, Pool
from outrider_coordinator.core.model import Attempt, Breaker, System, Wait
from outrider_coordinator.core.spec import Claim, Condition, Demands
from outrider_coordinator.core.states import AttemptState, BreakerState, Connectivity, TaskState
from outrider_coordinator.core.waits.blockage import OPEN_MAX, REMEMBERED_MAX
from support.core_world import World, member
from support.telling import begin

Damage = Callable[[World], Any]


def small() -> World:
    """Task t1 runs on agent a, t2 waits blocked there, t3 is queued, t4 waits for t1; a run with two phases."""
    world = World()
    agent = world.connect("a", 2)
    world.submit(demands=Demands(claims=(Claim("lock"),), scopes=("src/*",)), max_attempts=3)
    world.submit()
    begin(world, agent)
    world.block(agent, world.ref(agent, "t2"), "ci", "external", system="ci")
    world.block(agent, world.ref(agent, "t2"), "then", "dependency", required_task_id="t1")
    world.submit(kind="m:other")
    begin(world, agent)
    world.submit()
    world.submit(after=("t1",))
    world.submit_members(member("one"), member("two", phase=1))
    invariants.check(world.state)
    return world


def attempt(world: World, task_id: str = "t1") -> Attempt:
    """The attempt of a task."""
    found = world.state.tasks[task_id].attempt
    assert found is not None
    return found


def stray(world: World, **fields: Any) -> Attempt:
    """An earlier try of task t1, number 7 of 9."""
    world.state.tasks["t1"].attempts_made = 9
    return replace(attempt(world), **{"number": 7, "state": AttemptState.LOST, **fields})


def wait(world: World, key: str) -> Wait:
    """A wait of task t2."""
    found = world.state.tasks["t2"].wait(key)
    assert found is not None
    return found


def sets(get: Callable[[World], Any], **fields: Any) -> Damage:
    """Damage that gives fields of something other values."""

    def damage(world: World) -> None:
        thing = get(world)
        for name, value in fields.items():
            setattr(thing, name, value)

    return damage


def task(name: str) -> Callable[[World], Any]:
    """A task by its id."""
    return lambda world: world.state.tasks[name]


def agent(world: World) -> Any:
    """The agent."""
    return world.state.agents["a"]


def run(world: World) -> Any:
    """The run."""
    return world.state.runs["run"]


def many_waits(count: int, **fields: Any) -> Damage:
    """Task t2 with so many waits."""

    def damage(world: World) -> None:
        made = tuple(Wait(str(number), "clarification", b"", **fields) for number in range(count))
        world.state.tasks["t2"].waits += made

    return damage


def open_breaker(state: BreakerState, **fields: Any) -> Damage:
    """The agent's breaker in another state, as if it had been opened before everything."""
    return sets(lambda world: agent(world).breaker, state=state, opened_fence=0, **fields)


#: What t1 demands, and an outside system besides.
WITH_SYSTEM = Demands(claims=(Claim("lock"),), scopes=("src/*",), systems=("ci",))

BROKEN: dict[str, tuple[Damage, str]] = {
    "terminal": (sets(task("t4"), state=TaskState.SUCCEEDED), "I1: task t4"),
    "attempt without a state": (sets(task("t1"), state=TaskState.QUEUED), "I2: task t1 (QUEUED) has attempt"),
    "state without an attempt": (sets(task("t4"), state=TaskState.RUNNING), "I2: task t4 (RUNNING) has attempt None"),
    "two attempts": (
        lambda world: setattr(world.state.tasks["t1"], "attempt", replace(attempt(world))),
        "I2: agent a holds attempt ('t1', 1), which does not count",
    ),
    "a task that is over": (lambda world: world.state.tasks.pop("t1"), "I15: agent a holds attempt ('t1', 1)"),
    "a live stray": (
        lambda world: setattr(world.state.tasks["t1"], "strays", (stray(world, state=AttemptState.STARTED),)),
        "I2: task t1 (RUNNING) has a stray in STARTED",
    ),
    "one try twice": (
        lambda world: setattr(world.state.tasks["t1"], "strays", (stray(world), stray(world))),
        "I2: task t1 (RUNNING) has one try twice",
    ),
    "the current try twice": (
        lambda world: setattr(world.state.tasks["t1"], "strays", (stray(world, number=1),)),
        "I2: task t1 (RUNNING) has one try twice",
    ),
    "a number too high": (sets(task("t1"), attempts_made=0), "I3: task t1 (RUNNING): a try has no number"),
    "more counted than made": (sets(task("t1"), attempts_counted=2), "I3: task t1 (RUNNING) counted more tries"),
    "too many counted": (
        sets(task("t1"), attempts_counted=3, attempts_made=3),
        "I3: task t1 (RUNNING) counts 3 of 3 tries",
    ),
    "an exclusive stray": (
        lambda world: (
            setattr(world.state.tasks["t1"], "strays", (stray(world),)),
            setattr(world.state.tasks["t1"].spec, "exclusive", True),
        ),
        "I13: task t1 (RUNNING) is exclusive and has strays",
    ),
    "an exclusive stray of one that waits": (
        lambda world: (
            setattr(world.state.tasks["t4"], "attempts_made", 9),
            setattr(world.state.tasks["t4"], "strays", (stray(world),)),
            setattr(world.state.tasks["t4"].spec, "exclusive", True),
        ),
        "I13: task t4 (QUEUED) is exclusive and has strays",
    ),
    "a stray of once": (
        lambda world: (
            setattr(world.state.tasks["t1"], "strays", (stray(world),)),
            setattr(world.state.tasks["t1"].spec, "at_most_once", True),
        ),
        "I12: task t1 (RUNNING) runs at most once and has strays",
    ),
    "an early start": (
        sets(task("t1"), waiting_for={"t2": Condition.ALWAYS}),
        "I9: task t1 (RUNNING) waits for ['t2']",
    ),
    "an unknown attempt": (
        lambda world: agent(world).attempts.pop(("t1", 1)),
        "task t1 (RUNNING): agent a does not know its attempt",
    ),
    "an offer to one that refuses it": (
        lambda world: (
            setattr(world.state.tasks["t1"], "refusals", (("a", b""),)),
            setattr(attempt(world), "state", AttemptState.OFFERED),
        ),
        "task t1 (RUNNING) was offered again to one that refuses it",
    ),
    "too many open waits": (many_waits(OPEN_MAX - 1), f"I16: task t2 has {OPEN_MAX + 1} open waits"),
    "too many waits": (
        many_waits(REMEMBERED_MAX + OPEN_MAX - 1, resolution=b"x"),
        f"I16: task t2 has {REMEMBERED_MAX + OPEN_MAX + 1} waits",
    ),
    "an open wait of nobody": (
        lambda world: setattr(world.state.tasks["t4"], "waits", (Wait("k", "clarification", b""),)),
        "task t4 wait 'k' is open and nobody runs",
    ),
    "a wait that is kept for nothing": (
        lambda world: setattr(world.state.tasks["t4"], "waits", (Wait("k", "clarification", b"", is_open=False),)),
        "task t4 wait 'k' is closed and kept for nothing",
    ),
    "a wait that its system forgot": (
        lambda world: world.state.system_waiters.clear(),
        "task t2 wait 'ci': looked for by its system: False, must be True",
    ),
    "a wait that its system remembers": (
        lambda world: setattr(wait(world, "ci"), "resolution", b"x"),
        "task t2 wait 'ci': looked for by its system: True, must be False",
    ),
    "a wait that its task forgot": (
        lambda world: world.state.waiters.clear(),
        "task t2 wait 'then' is looked for by nobody",
    ),
    "slots": (sets(agent, slots_used=1), "I11: agent a holds 2 slots, counts 1"),
    "parked": (sets(agent, parked=2), "I11: agent a parks 1, counts 2"),
    "a strange one ahead": (
        sets(agent, ahead={("x", 1): None}),
        "I11: agent a has ('x', 1) ahead and does not hold it",
    ),
    "one that goes on and is gone": (
        lambda world: agent(world).resuming.update({("t2", 1): attempt(world)}),
        "I11: ('t2', 1) goes on on agent a and is gone",
    ),
    "one that goes on with a slot": (
        lambda world: agent(world).resuming.update({("t1", 1): attempt(world)}),
        "I11: ('t1', 1) goes on on agent a and holds a slot already",
    ),
    "one that could go on": (
        lambda world: (
            agent(world).resuming.update({("t2", 1): attempt(world, "t2")}),
            setattr(agent(world), "slots", 3),
        ),
        "I11: ('t2', 1) goes on on agent a while a slot is free",
    ),
    "resources": (sets(agent, resources_used={"gpu": 1.0}), "gpu"),
    "members": (sets(run, open_count=1), "run run counts 1 open tasks, has 2"),
    "a run that is over": (sets(run, open_count=0, members={}), "run run has no open task and is still in memory"),
    "phases": (sets(run, phase_open={0: 1}), "run run counts 1 in phases"),
    "a phase that begins early": (
        lambda world: world.state.tasks["r-two"].waiting_for.clear(),
        "I9: run run: r-two does not wait for its phase",
    ),
    "a phase that began early": (
        sets(task("r-two"), attempts_made=1),
        "I9: run run: r-two of phase 1 began in phase 0",
    ),
    "a queue that lost one": (lambda world: world.state.queue.remove(world.state.tasks["t4"]), "in the queue, "),
    "a need that counts wrong": (
        lambda world: setattr(world.state.tasks["t4"].strand.group.need, "waiting", 7),
        "counted 7, are ",
    ),
    "a need that sleeps for ever": (
        lambda world: [reach.asleep.clear() for reach in world.state.fleet.reaches.values()],
        "sleeps for ever",
    ),
    "needs that are awake": (
        lambda world: setattr(world.state.queue, "active", 3),
        "needs are awake with tasks, counted 3",
    ),
    "an entry that is gone": (
        lambda world: world.state.tasks["t4"].strand.line.fresh.clear(),
        "task t4 has no entry in its strand",
    ),
    "counts": (lambda world: world.state.counts.__setitem__(int(TaskState.BLOCKED), 9), "BLOCKED: counted 9, are 1"),
    "a probe of a breaker that is closed": (
        open_breaker(BreakerState.CLOSED, probe=("t1", 1)),
        "I10: the breaker of agent 'a' is CLOSED and has leased a probe",
    ),
    "a probe that is over": (
        open_breaker(BreakerState.HALF_OPEN, probe=("x", 1)),
        "I10: the breaker of agent 'a' leased ('x', 1), which is not live",
    ),
    "a probe of nobody": (
        open_breaker(BreakerState.HALF_OPEN, probe=("t1", 1)),
        "I10: the breaker of agent 'a': nobody knows of ('t1', 1)",
    ),
    "a lease of nobody": (
        lambda world: world.state.probes.update({("t1", 1): [agent(world).breaker]}),
        "I10: leases of [('t1', 1)] are held by no breaker",
    ),
    "an offer through an open breaker": (
        open_breaker(BreakerState.OPEN),
        "I10: ('t1', 1) was offered though the breaker of agent 'a' is OPEN",
    ),
    "an offer that is no probe": (
        open_breaker(BreakerState.HALF_OPEN),
        "I10: ('t1', 1) was offered and is no probe, though the breaker of agent 'a' is HALF_OPEN",
    ),
    "an offer to a system that is down": (
        lambda world: (
            setattr(
                world.state.tasks["t1"].spec, "demands", world.state.tasks["t1"].spec.demands._replace(systems=("ci",))
            ),
            world.state.systems.update({"ci": System(Breaker(system="ci", state=BreakerState.OPEN))}),
        ),
        "I10: ('t1', 1) was offered though the breaker of system 'ci' is OPEN",
    ),
    "a limit that is not held": (
        lambda world: world.state.limits.pools["default", "lock"].holders.clear(),
        "I21: limit ('default', 'lock') is held by",
    ),
    "a limit that counts wrong": (
        lambda world: setattr(world.state.limits.pools["default", "lock"].held, "units", 5),
        "I21: limit ('default', 'lock') has",
    ),
    "a limit that is over": (
        lambda world: setattr(
            world.state.limits.pools["default", "lock"], "definition", Definition(LimitKind.SEMAPHORE, 0, 0.0, 0)
        ),
        "I21: limit ('default', 'lock') is held beyond",
    ),
    "a limit for nothing": (
        lambda world: world.state.limits.pools.update({("default", "free"): Pool()}),
        "limit ('default', 'free') is kept for nothing",
    ),
    "scopes": (lambda world: world.state.limits.scopes.clear(), "I21: write scopes held are"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_invariant_that_is_broken_is_named(name: str) -> None:
    """The message says which invariant, and of what."""
    damage, message = BROKEN[name]
    world = small()
    damage(world)
    with pytest.raises(AssertionError, match=re.escape(message)):
        invariants.check(world.state)


@pytest.mark.parametrize(
    ("count", "fields"), [(OPEN_MAX - 2, {}), (REMEMBERED_MAX + OPEN_MAX - 2, {"resolution": b"x"})]
)
def test_as_many_waits_as_there_may_be_break_nothing(count: int, fields: dict[str, Any]) -> None:
    """The bound itself is allowed."""
    world = small()
    many_waits(count, **fields)(world)
    invariants.check(world.state)


def test_two_attempts_that_write_the_same_are_found() -> None:
    """Also when the books agree with each other (I21)."""
    world = small()
    record = world.state.tasks["t2"]
    record.spec.demands = Demands(scopes=("src/x",))
    world.state.limits.scopes["default"][attempt(world, "t2").key] = ("src/x",)
    with pytest.raises(AssertionError, match="may both write"):
        invariants.check(world.state)


def probed(world: World) -> Breaker:
    """Two probes out through one half-open breaker: t1 has it leased, t2 has not."""
    known: Breaker = agent(world).breaker
    known.state, known.probe, known.opened_fence = BreakerState.HALF_OPEN, ("t1", 1), 0
    world.state.probes[("t1", 1)] = [known]
    for task_id in ("t1", "t2", "t3"):
        attempt(world, task_id).is_probe = True
    return known


def test_two_probes_at_once_are_one_too_many() -> None:
    """One at a time goes through a half-open breaker (I10)."""
    world = small()
    probed(world)
    with pytest.raises(
        AssertionError, match=r"I10: \('t2', 1\) and \('t1', 1\) are probes of the breaker of agent 'a'"
    ):
        invariants.check(world.state)


@pytest.mark.parametrize("excuse", ["long", "back"])
def test_a_probe_that_is_none_any_more_is_excused(excuse: str) -> None:
    """One that has been out for long, or whose agent was out of contact meanwhile, does not count."""
    world = small()
    probed(world)
    late_us = world.state.settings.probe_time_us
    if excuse == "long":
        world.state.now_us = attempt(world, "t2").offered_us + late_us
    else:
        agent(world).session_start_us = attempt(world, "t2").offered_us + 1
    invariants.check(world.state)
    world.state.now_us -= 1
    agent(world).session_start_us = 0
    with pytest.raises(AssertionError, match="I10"):
        invariants.check(world.state)


def test_work_of_other_kinds_does_not_concern_the_breaker_of_one() -> None:
    """A breaker for a kind of work is about that kind, from the fence on at which it opened."""
    world = small()
    known = Breaker("a", "m:other", state=BreakerState.OPEN, opened_fence=attempt(world, "t3").fence + 1)
    agent(world).type_breakers["m:other"] = known
    invariants.check(world.state)
    known.opened_fence -= 1
    with pytest.raises(AssertionError, match=r"I10: \('t3', 1\)"):
        invariants.check(world.state)


def test_a_cancelled_task_may_have_used_up_its_tries() -> None:
    """It is over as soon as its agent says so, and starts no more."""
    world = small()
    record = world.state.tasks["t1"]
    world.state.move(record, TaskState.CANCELLING, world.do(Ticked()))
    record.attempts_counted = record.attempts_made = 3
    invariants.check(world.state)


def test_an_agent_that_is_away_need_not_take_up_again() -> None:
    """A parked attempt that was answered goes on once its agent is there, not before."""
    world = small()
    agent(world).resuming[("t2", 1)] = attempt(world, "t2")
    agent(world).slots = 3
    liveness.moved(world.state, agent(world), Connectivity.SUSPECT)
    invariants.check(world.state)


def test_a_probe_that_is_excused_hides_no_other() -> None:
    """Whichever is looked at first."""
    world = small()
    probed(world)
    attempt(world, "t2").offered_us -= world.state.settings.probe_time_us
    with pytest.raises(AssertionError, match=r"I10: \('t3', 1\) and \('t1', 1\) are probes"):
        invariants.check(world.state)
