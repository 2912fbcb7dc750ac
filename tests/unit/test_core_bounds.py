"""Bounds of the core's memory and work (I16): what is beyond them is left out, forgotten or refused, never kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from outrider_coordinator.core import invariants, state
from outrider_coordinator.core.effects import PushRevoke
from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    AttemptsReturned,
    CancelRequested,
    HeartbeatReceived,
    Ticked,
)
from outrider_coordinator.core.limits import deadlock
from outrider_coordinator.core.limits.scopes import overlap
from outrider_coordinator.core.model import HostFacts
from outrider_coordinator.core.placement import fleet, queue, strategies
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Claim, Constraint, Demands, Operator, Strategy
from outrider_coordinator.core.states import AttemptState, EventType, Reason, TaskState
from outrider_coordinator.core.step import next_due_us
from support.core_world import ModelAgent, World
from support.limit_world import SEMAPHORE, define, held, start, want, want_task
from support.limit_world import submit as submit_claims
from support.telling import begin


def zone(name: str) -> Demands:
    """Only where the label says so."""
    return Demands((Constraint("zone", Operator.IN, (name,)),))


# --- what is learned -------------------------------------------------------------------------------------------------


def test_durations_are_learned_of_so_many_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind beyond them is not learned, one that is known goes on being learned."""
    monkeypatch.setattr(state, "KINDS_MAX", 2)
    world = World()
    for kind, duration in (("a", 100), ("b", 100), ("c", 100), ("a", 200)):
        world.state.learn_duration(kind, duration)
    assert world.state.durations_us == {"a": 120.0, "b": 100}


@pytest.mark.parametrize("module", ["KINDS_PER_AGENT_MAX", "KINDS_MAX"])
def test_agents_are_measured_in_so_many_kinds(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """PERFORMANCE remembers so many kinds of one agent, and of the fleet; others are placed by load."""
    monkeypatch.setattr(strategies, module, 1)
    world = World()
    agent = world.connect("a")
    for kind in ("one", "two"):
        (task,) = world.submit(kind=kind, demands=Demands(strategy=Strategy.PERFORMANCE))
        world.start(agent, world.ref(agent, task))
        world.now_us += SECOND_US
        world.complete(agent, world.ref(agent, task))
    assert list(world.state.agents["a"].measured) == ["one"]


# --- who could take what ---------------------------------------------------------------------------------------------


def test_what_nobody_asks_for_any_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rankings of agents are kept for demands in use, and beyond a bound for no others; who is asked for is found."""
    monkeypatch.setattr(fleet, "REACHES_MAX", 4)
    monkeypatch.setattr(queue, "CLASSES_KEPT", 1)
    world = World()
    agents = [world.connect(f"a{number}", labels={"zone": f"z{number % 5}"}) for number in range(10)]
    for number in range(20):
        tasks = world.submit(2, demands=zone(f"z{number % 5}"))
        for agent in agents:
            for ref in list(agent.held):
                assert ref.task_id in tasks
                world.complete(agent, ref)
    assert len(world.state.fleet.reaches) <= 5
    assert all(len(agent.reaches) <= 5 for agent in world.state.agents.values())
    assert len(world.state.queue.classes) <= 2
    assert len(world.state.queue.needs) <= 2


def test_agents_that_can_take_nothing_leave_the_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    """RANDOM draws among those with room: the others leave when they are drawn, in any order, and come back."""
    world = World()
    agents = [world.connect(name, 2) for name in "abcde"]
    tasks = world.submit(10, demands=Demands(strategy=Strategy.RANDOM))
    assert all(len(agent.held) == 2 for agent in agents)
    (waits,) = world.submit(demands=Demands(strategy=Strategy.RANDOM))
    assert world.state_of(waits) is TaskState.QUEUED
    world.complete(agents[3], world.ref(agents[3], next(ref.task_id for ref in agents[3].held)))
    assert waits in held(world, agents[3])
    assert len(set(tasks)) == 10


@pytest.mark.parametrize("strategy", [Strategy.RANDOM, Strategy.TWO_CHOICES])
@pytest.mark.parametrize("wishes", [(), (("b", 50),)])
def test_chance_passes_over_those_that_are_not_trusted_with_a_kind(strategy: Strategy, wishes: Any) -> None:
    """A breaker for the kind keeps its work away from an agent however often that is drawn."""
    world = World()
    agents = {name: world.connect(name, 50) for name in "abc"}
    for name in "ac":
        breaker = strategies.breaker.of_type(world.state.agents[name], "m:f")
        strategies.breaker.trip(world.state, world.do(Ticked()), breaker, Reason.TASK_ERROR)
    world.submit(40, demands=Demands(strategy=strategy, affinities=wishes))
    assert [len(agents[name].held) for name in "abc"] == [0, 40, 0]
    (other,) = world.submit(kind="m:other", demands=Demands(strategy=strategy, affinities=(("a", 90),)))
    assert held(world, agents["a"]) == [other]


# --- lines -----------------------------------------------------------------------------------------------------------


def lined_up(slots: int, count: int) -> tuple[World, ModelAgent, list[str]]:
    """An agent with one slot in use and a line of short tasks behind it."""
    world = World()
    agent = world.connect("a", 1, prefetch_credit=9)
    world.state.durations_us["m:f"] = 1000.0
    tasks = world.submit(1 + count)
    begin_first = next(ref for ref in agent.held if ref.task_id == tasks[0])
    world.start(agent, begin_first)
    assert len(world.state.agents["a"].ahead) == count
    world.connect("b", slots)
    return world, agent, tasks


def revoked(world: World) -> list[str]:
    """Tasks that were asked back."""
    return [send.task_id for send in world.sent if isinstance(send, PushRevoke)]


@pytest.mark.parametrize(("slots", "count", "expected"), [(1, 3, 1), (2, 3, 2), (9, 3, 3)])
def test_a_line_is_asked_back_as_far_as_there_is_room(slots: int, count: int, expected: int) -> None:
    """The last of the line first, one for each free slot elsewhere, and none twice."""
    world, _, tasks = lined_up(slots, count)
    assert revoked(world) == tasks[::-1][:expected]
    world.submit(kind="m:other", demands=zone("nowhere"))
    assert len(revoked(world)) == expected


def test_room_is_filled_from_the_longest_line_of_those_that_are_there() -> None:
    """An agent out of contact cannot give anything back; once the room is taken nobody else is asked."""
    world = World()
    world.state.durations_us["m:f"] = 1000.0
    agents = [world.connect(name, 1, prefetch_credit=9) for name in "abc"]
    world.submit(3)
    for agent in agents:
        begin(world, agent)
    world.submit(9)
    assert [len(world.state.agents[name].ahead) for name in "abc"] == [3, 3, 3]
    world.disconnect(agents[0])
    world.connect("d", 2)
    assert len(revoked(world)) == 2
    assert {send.agent_id for send in world.sent if isinstance(send, PushRevoke)} == {"b"}


def test_one_line_fills_the_room_of_several_agents() -> None:
    """When the first free agent has enough the next one is given the rest."""
    world, _, tasks = lined_up(0, 4)
    assert revoked(world) == []
    world.now_us += 1
    world.state.agents["b"].slots = 1
    world.state.fleet.changed(world.state.agents["b"])
    world.connect("c", 2)
    assert revoked(world) == tasks[::-1][:3]


def test_a_line_gives_back_nothing_that_only_fits_there() -> None:
    """What waits for a label stays; what is behind it may go."""
    world = World()
    world.state.durations_us["m:f"] = 1000.0
    agent = world.connect("a", 1, prefetch_credit=9, labels={"zone": "x"})
    world.submit(1)
    begin(world, agent)
    (free,) = world.submit(1)
    world.submit(2, demands=zone("x"))
    world.connect("b", 4)
    assert revoked(world) == [free]


# --- globs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("a**b", "a*xb", True),
        ("a***b", "c*", False),
        ("[!a-fc-d]", "e", False),
        ("[!a-fc-d]", "g", True),
        ("[!b-ca]", "a", False),
        ("[]x]", "]", True),
        ("[!]x]", "]", False),
        ("[z-a]", "z", False),
        ("[ab", "[ab", True),
        ("[ab", "a", False),
        ("web:src/*", "api:src/x", False),
        ("src/", "src/a/b", True),
        ("./src//x", "src/x", True),
    ],
)
def test_globs_meet_where_some_path_is_in_both(left: str, right: str, expected: bool) -> None:
    """Stars that touch are one star; sets, ranges and what they leave out; repositories; slashes."""
    assert overlap(left, right) is expected
    assert overlap(right, left) is expected


# --- preemption ------------------------------------------------------------------------------------------------------


def test_another_victim_is_found_when_the_first_is_gone() -> None:
    """The agent of a victim is removed: somebody else has to make room, and only then."""
    world = World()
    first, second = world.connect("a"), world.connect("b")
    world.submit(2, priority=1, preemptible=True)
    for agent in (first, second):
        begin(world, agent)
    world.submit(priority=10)
    (victim,) = [agent for agent in (first, second) if agent.cancelled]
    world.wait(2)
    assert len([*first.cancelled, *second.cancelled]) == 1
    world.do(AgentOrdered(victim.id, AgentOrder.REMOVE, world.replies.append, force=True))
    (other,) = [agent for agent in (first, second) if agent is not victim]
    assert len(other.cancelled) == 1


def test_nobody_is_stopped_for_what_waits_for_a_system_or_is_being_cancelled() -> None:
    """A slot would not help it, or comes anyway."""
    world = World()
    agent = world.connect("a", 4)
    down = [world.ref(agent, task) for task in world.submit(3, demands=Demands(systems=("ci",)), priority=2)]
    for ref in down:
        world.start(agent, ref)
    for ref in down:
        world.fail(agent, ref)
    world.submit(4, preemptible=True, priority=2)
    begin(world, agent)
    world.submit(priority=10, demands=Demands(systems=("ci",)))
    assert not agent.cancelled
    youngest = list(agent.held)[-1]
    world.do(CancelRequested([youngest.task_id], "", world.replies.append))
    world.submit(priority=10)
    assert agent.cancelled == [youngest]
    assert not world.of(EventType.TASK_PREEMPTED)


# --- deadlocks -------------------------------------------------------------------------------------------------------


def test_many_waits_are_judged_some_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest follow at once: a cycle among the last is found too."""
    monkeypatch.setattr(deadlock, "SEARCHES_MAX", 1)
    world = World()
    agent = world.connect("a", 9)
    first, second = start(world, agent, "x"), start(world, agent, "y")
    others = [start(world, agent, f"z{number}") for number in range(3)]
    for ref_task, wanted in zip(others, ("x", "x", "y"), strict=True):
        want(world, agent, ref_task, wanted)
    want(world, agent, first, "y")
    want(world, agent, second, "x")
    world.state.opened_waits[:] = [*others, first]
    world.do(Ticked())
    assert world.state.opened_waits
    world.wait(3)
    assert len(world.of(EventType.TASK_DEADLOCK)) == 1


def test_what_waits_for_too_much_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle behind more tasks than are looked at stays; it is found once it is smaller."""
    world = World()
    agent = world.connect("a", 9)
    first, second = start(world, agent, "x"), start(world, agent, "y")
    monkeypatch.setattr(deadlock, "TASKS_MAX", 1)
    want(world, agent, first, "y")
    want(world, agent, second, "x")
    assert not world.of(EventType.TASK_DEADLOCK)
    monkeypatch.setattr(deadlock, "TASKS_MAX", 2)
    world.wait(3)
    assert len(world.of(EventType.TASK_DEADLOCK)) == 1


def test_an_attempt_in_its_own_way_is_told() -> None:
    """It holds one unit of two and waits for two more: nobody else can ever end that."""
    world = World()
    define(world, "db", SEMAPHORE, 2)
    agent = world.connect("a", 2)
    task = start(world, agent, "db")
    want(world, agent, task, Claim("db", units=2))
    (told,) = world.of(EventType.TASK_DEADLOCK)
    assert told.text == f"deadlock: {task} waits for db held by itself"
    assert len(agent.answers) == 1


def test_a_cycle_is_not_seen_where_the_limit_is_free_or_the_scopes_are_apart() -> None:
    """What could be had is no edge: a queued task that only waits for a slot waits for nobody."""
    world = World()
    agent = world.connect("a", 2)
    first = start(world, agent, "x")
    (waits,) = submit_claims(world, "free", "x")
    scoped, apart = world.submit(demands=Demands(scopes=("a/*",))), world.submit(demands=Demands(scopes=("b/*",)))
    begin(world, agent)
    want_task(world, agent, first, waits)
    assert len(world.of(EventType.TASK_DEADLOCK)) == 1
    want_task(world, agent, scoped[0], apart[0])
    assert len(world.of(EventType.TASK_DEADLOCK)) == 1


# --- odds and ends ---------------------------------------------------------------------------------------------------


def test_the_next_step_is_due_at_once_while_something_is_left() -> None:
    """By the first timer or offer otherwise; never without either."""
    world = World()
    assert next_due_us(world.state) is None
    world.connect("a")
    assert next_due_us(world.state) == world.now_us + 6 * SECOND_US
    world.submit()
    assert next_due_us(world.state) == world.now_us + 5 * SECOND_US
    world.state.placement_is_due = True
    assert next_due_us(world.state) == world.now_us
    world.do(Ticked())
    world.state.errands.append(None)  # type: ignore[arg-type]  # any errand is one
    assert next_due_us(world.state) == world.now_us


def test_a_heartbeat_without_news_of_workers_keeps_what_was_known() -> None:
    """Lists of workers are long: they are said when they change."""
    world = World()
    agent = world.connect("a")
    for changed, workers, expected in ((True, (b"w",), (b"w",)), (False, (), (b"w",)), (True, (), ())):
        world.do(HeartbeatReceived("a", agent.epoch, HostFacts(workers=workers), workers_changed=changed))
        assert world.state.agents["a"].facts.workers == expected


def test_a_heartbeat_of_an_older_session_says_nothing_of_the_agent() -> None:
    """Only that it lives: the lease it was answered with counts."""
    world = World()
    agent = world.connect("a")
    world.do(HeartbeatReceived("nobody", agent.epoch, HostFacts()))
    world.do(HeartbeatReceived("a", agent.epoch + 1, HostFacts(cpu_fraction=1.0)), after_us=9)
    known = world.state.agents["a"]
    assert (known.facts.cpu_fraction, known.lease_us) == (0.0, world.now_us)
    assert known.last_heard_us < world.now_us


def test_the_queue_forgets_what_left_it() -> None:
    """Entries of cancelled tasks go once they are many, and those that stay keep their order."""
    world = World()
    keep = world.submit(3)
    many = world.submit(10_020, submitter="x")
    stay = [*keep, *world.submit(2)]
    world.do(CancelRequested(many, "", world.replies.append))
    assert (
        sum(len(strand.line) for group in world.state.queue.classes.values() for strand in group.strands.values()) < 99
    )
    agent = world.connect("a", 9)
    assert [ref.task_id for ref in agent.held] == stay


def test_retries_wait_their_turn_and_are_then_forgotten() -> None:
    """The book of those that wait for the retry budget keeps nobody whose turn has come."""
    budget = World(CoreSettings(retry_floor=1)).state.retries
    turns = [budget.take(f"t{number}", 0, 0) for number in range(4)]
    assert turns == [0, 60 * SECOND_US, 120 * SECOND_US, 180 * SECOND_US]
    assert list(budget.delayed) == ["t1", "t2", "t3"]
    assert budget.take("late", 500 * SECOND_US, 0) == 500 * SECOND_US, "it is later than its turn anyway"
    budget.take("t9", 0, 130 * SECOND_US)
    assert list(budget.delayed) == ["t3", "t9"]


def test_invariants_notice_what_is_broken() -> None:
    """A check that cannot fail proves nothing."""
    breaks: list[Callable[[World], object]] = [
        lambda world: setattr(world.state.tasks["t1"], "attempts_counted", 9),
        lambda world: setattr(world.state.agents["a"], "slots_used", 5),
        lambda world: world.state.counts.__setitem__(2, 9),
    ]
    for damage in breaks:
        world = World()
        world.connect("a")
        world.submit(2)
        damage(world)
        with pytest.raises(AssertionError):
            invariants.check(world.state)


def test_a_refused_offer_frees_what_was_counted() -> None:
    """An attempt given back in line leaves its place in it."""
    world, agent, tasks = lined_up(1, 2)
    last = world.ref(agent, tasks[-1])
    del agent.held[last]
    world.do(AttemptsReturned("a", agent.epoch, [last], revoked=True))
    assert len(world.state.agents["a"].ahead) == 1
    assert AttemptState.OFFERED in agent.held.values()
