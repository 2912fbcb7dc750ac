"""One placement pass: what it costs, what an agent is told of its new attempt, and whose line is shortened."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.effects import Effects, PushAssign, PushRevoke
from outrider_coordinator.core.events import Answered
from outrider_coordinator.core.model import NO_TRACE
from outrider_coordinator.core.placement import matching
from outrider_coordinator.core.placement.eligibility import fits
from outrider_coordinator.core.spec import SECOND_US, Claim, Constraint, Demands, Operator
from outrider_coordinator.core.states import EventType, Reason
from support.core_world import World
from support.limit_world import held
from support.telling import begin


def waiting(world: World, *demands: Demands) -> None:
    """Tasks that nobody has looked at yet, one of each of these demands, and then four agents with two slots."""
    for one in demands:
        world.submit(demands=one)
    for name in "abcd":
        world.connect(name, 0)
    for agent in world.state.agents.values():
        agent.slots = 2
        world.state.fleet.changed(agent)


def placed(world: World, units: int) -> int:
    """How many offers a pass of so many units makes."""
    before = world.state.retries.dispatched
    matching.place(world.state, Effects(), units)
    return world.state.retries.dispatched - before


# --- what a pass costs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("units", "offers"), [(1, 1), (2, 2), (3, 3), (9, 4)])
def test_an_offer_is_a_unit(units: int, offers: int) -> None:
    """So many and no more; what is left has the next step, and nothing is left when all are placed."""
    world = World()
    waiting(world, *[Demands()] * 4)
    assert placed(world, units) == offers
    assert world.state.placement_is_due is (offers < 4)


def test_a_need_that_finds_nobody_is_a_unit_too() -> None:
    """However many tasks wait with it."""
    world = World()
    nowhere = Demands((Constraint("x", Operator.EXISTS),))
    waiting(world, nowhere, nowhere, Demands(), Demands())
    (need,) = (one for one in world.state.queue.needs.values() if one.demands is nowhere)
    world.state.queue.wake(need)
    assert placed(world, 2) == 1


def test_to_read_all_agents_for_new_demands_costs_as_many_units_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each set of demands, and nothing where they are known."""
    monkeypatch.setattr(matching, "AGENTS_READ", 2)
    world = World()
    gpu = Demands(runner="r")
    waiting(world)
    for agent in world.state.agents.values():
        agent.runners = ("r",)
        world.state.fleet.joined(agent, fits)
    for name in "abcd":
        world.state.agents[name].slots = 0
    for demands in (Demands(), Demands(), Demands(), gpu, gpu, gpu):
        world.submit(demands=demands)
    for need in world.state.queue.needs.values():
        need.index = None
    world.state.fleet.reaches.clear()
    for agent in world.state.agents.values():
        agent.slots, agent.reaches = 2, []
        world.state.fleet.changed(agent)
    assert world.state.retries.dispatched == 0
    for need in world.state.queue.needs.values():
        world.state.queue.wake(need)
    assert placed(world, 5) == 3, "one and two for reading, then one each"
    assert placed(world, 2) == 1, "one and two for reading"
    assert placed(world, 2) == 2
    assert not world.state.queue


@pytest.mark.parametrize(("units", "offers"), [(7, 4), (6, 3), (3, 2)])
def test_to_compare_write_scopes_costs_units(monkeypatch: pytest.MonkeyPatch, units: int, offers: int) -> None:
    """One for each that is held: the fourth task is compared with three."""
    monkeypatch.setattr(matching, "SCOPES_READ", 1)
    world = World()
    waiting(world, *[Demands(scopes=(f"{name}/*",)) for name in "abcdef"])
    assert placed(world, units) == offers


def test_what_has_no_write_scope_is_compared_with_none() -> None:
    """A limit that it claims is looked up, which costs nothing to speak of."""
    world = World()
    waiting(world, *[Demands(claims=(Claim(name),)) for name in "abcd"])
    assert placed(world, 3) == 3


def test_scopes_that_must_wait_cost_what_was_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """With those that are held and those that are kept for tasks before: the third is not looked at any more."""
    monkeypatch.setattr(matching, "SCOPES_READ", 1)
    world = World()
    waiting(world, Demands(scopes=("a/*",)))
    placed(world, 9)
    agent = world.state.agents["a"]
    agent.slots, slots = 0, agent.slots
    for name in "xyz":
        world.submit(demands=Demands(scopes=(f"a/{name}",)))
    agent.slots = slots
    queue = world.state.queue
    queue.ask_again()
    queue.let_go(9)
    world.state.limits.reserved_scopes.clear()
    placed(world, 4)
    assert len(queue.held) == 2


# --- what an agent is told -------------------------------------------------------------------------------------------


def test_an_assignment_says_what_its_agent_has_to_know() -> None:
    """And nothing of what the task does not have: no dependencies, no deadline, no waits of before."""
    world = World()
    world.connect("a")
    (task,) = world.submit(title="of a title")
    (told,) = world.assigned
    record = world.state.tasks[task]
    assert record.attempt is not None
    assert told == PushAssign(
        world.agents["a"].epoch,
        "a",
        task,
        1,
        record.attempt.fence,
        b"",
        (),
        False,
        "default",
        "",
        NO_TRACE,
        "of a title",
        SECOND_US,
        SECOND_US,
        SECOND_US,
        0,
        None,
    )


def test_an_assignment_with_a_deadline_says_what_is_left_of_it() -> None:
    """To the microsecond, from the time it is made."""
    world = World()
    world.submit(deadline_us=9 * SECOND_US)
    world.now_us += 2 * SECOND_US
    world.connect("a")
    assert world.assigned[0].remaining_us == 7 * SECOND_US


def test_an_assignment_names_what_the_task_depends_on() -> None:
    """By the keys of its run, or by ids where there are none."""
    world = World()
    agent = world.connect("a")
    ids = world.submit_run(("first", ()), ("then", ("first",)))
    world.complete(agent, world.ref(agent, ids["first"]))
    (plain,) = world.submit()
    world.complete(agent, world.ref(agent, ids["then"]))
    world.submit(after=(plain,))
    world.complete(agent, world.ref(agent, plain))
    assert [told.inputs for told in world.assigned] == [(), (("first", ids["first"]),), (), ((plain, plain),)]


def test_an_assignment_after_waits_brings_what_became_of_them() -> None:
    """A task that was asked something and failed does not ask again."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(max_attempts=3, initial_backoff_us=1)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, "k")
    world.do(Answered(task, "k", b"yes", world.replies.append))
    world.fail(agent, ref)
    world.wait(1)
    first, second = world.assigned
    assert first.carried is None
    assert second.carried is not None


def test_the_log_says_which_attempt_went_where() -> None:
    """With its number and its agent, for each try."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(max_attempts=2, initial_backoff_us=1)
    world.fail(agent, world.ref(agent, task), Reason.TASK_ERROR)
    world.wait(1)
    told = world.of(EventType.TASK_ASSIGNED)
    assert [(event.task_id, event.attempt, event.agent_id) for event in told] == [(task, 1, "a"), (task, 2, "a")]


# --- lines -----------------------------------------------------------------------------------------------------------


def lined_up(world: World, **counts: int) -> None:
    """Agents with one busy slot each and lines of so many short tasks that could go to others too."""
    world.state.durations_us["m:f"] = 1000.0
    for name in counts:
        zone = Demands((Constraint("zone", Operator.IN, (name,)),))
        agent = world.connect(name, 1, prefetch_credit=9, labels={"zone": name})
        world.submit(1, demands=zone)
        begin(world, agent)
    for name, count in counts.items():
        world.submit(count, demands=Demands((Constraint("zone", Operator.IN, (name, "free")),)))


def revoked(world: World) -> list[tuple[str, str]]:
    """(agent, task) of everything that was asked back."""
    return [(send.agent_id, send.task_id) for send in world.sent if isinstance(send, PushRevoke)]


def test_the_longest_line_is_shortened_first() -> None:
    """Whatever its agent is called; where nobody ever asked for just any agent too."""
    world = World()
    lined_up(world, a=1, b=3, c=2)
    assert [len(agent.ahead) for agent in world.state.agents.values()] == [1, 3, 2]
    world.connect("d", 1, labels={"zone": "free"})
    last = max(held(world, world.agents["b"]), key=lambda task: int(task[1:]))
    assert revoked(world) == [("b", last)]


def test_what_was_asked_back_does_not_keep_others_from_being_asked_back() -> None:
    """More room came before its agent answered: the ones before it in line are asked back too."""
    world = World()
    lined_up(world, a=4)
    world.connect("d", 1, labels={"zone": "free"})
    assert len(revoked(world)) == 1
    world.connect("e", 2, labels={"zone": "free"})
    assert [task for _, task in revoked(world)] == held(world, world.agents["a"])[:1:-1]
