"""What a start of the coordinator finds again, in the core: everything that decides, from rows alone (I20)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from outrider_coordinator.core.events import AgentOrder, AgentOrdered, RunCancelRequested, SessionEnded, Ticked
from outrider_coordinator.core.spec import SECOND_US, Condition
from outrider_coordinator.core.state import TimerKind
from outrider_coordinator.core.states import Admin, AttemptState, Connectivity, EventType, Reason, TaskState
from support import limit_world
from support.core_world import World, member
from support.restart import restart
from support.trust_world import CLOSED, HALF_OPEN, OPEN, breaker_of, fails_here_passes_there, fleet, open_by_rejecting


def test_a_run_counts_again_what_is_open_and_what_is_done() -> None:
    """Open tasks, phases, weights, milestones and the submitter are what they were."""
    world = World()
    agent = world.connect("a", 3)
    members = [
        member("a", weight=2.0, milestone="m"),
        member("b", milestone="m"),
        member("c", weight=4.0, phase=1, milestone="m"),
        member("d", phase=2),
    ]
    ids = world.submit_members(*members, submitter="me")
    world.complete(agent, world.ref(agent, ids["a"]))
    world.start(agent, world.ref(agent, ids["b"]))
    before = world.state.runs["run"]
    restart(world)
    run = world.state.runs["run"]
    assert replace(run, trace=before.trace) == before
    assert (run.open_count, run.phase_open, run.weight_done, run.weight_total) == (3, {0: 1, 1: 1, 2: 1}, 2.0, 8.0)
    assert run.milestones["m"].succeeded_count == 1
    assert run.submitter == "me"
    assert world.state.tasks[ids["d"]].waiting_for == {"run": Condition.ALWAYS}
    world.connect("a", 3)
    world.complete(agent, world.ref(agent, ids["b"]))
    world.settle()
    world.complete(agent, world.ref(agent, ids["c"]))
    world.settle()
    assert [event.text for event in world.of(EventType.RUN_MILESTONE)] == ["m"]
    world.complete(agent, world.ref(agent, ids["d"]))
    assert world.kinds(ids["d"])[-1] == "TASK_SUCCEEDED"
    assert len(world.of(EventType.RUN_ENDED)) == 1


def test_a_milestone_counts_successes_only() -> None:
    """A member that ended otherwise does not count, before a restart and after it."""
    world = World()
    agent = world.connect("a", 3)
    ids = world.submit_members(member("a", milestone="m"), member("b", milestone="m"), member("c", milestone="m"))
    world.fail(agent, world.ref(agent, ids["a"]))
    world.complete(agent, world.ref(agent, ids["b"]))
    restart(world)
    assert world.state.runs["run"].milestones["m"].succeeded_count == 1


def test_a_run_that_was_being_cancelled_goes_on_with_that() -> None:
    """The run's row says that it stops: what was not cancelled yet is cancelled after the start."""
    world = World()
    ids = world.submit_members(*(member(f"k{at}") for at in range(300)))
    world.do(RunCancelRequested("run", "enough", world.replies.append))
    left = set(world.state.tasks)
    assert 0 < len(left) < len(ids)
    restart(world)
    assert set(world.state.tasks) == left
    world.settle()
    assert set(world.ended.values()) == {TaskState.CANCELLED}
    assert (len(world.ended), len(world.of(EventType.RUN_ENDED))) == (300, 1)


@pytest.mark.parametrize("condition", list(Condition))
@pytest.mark.parametrize("fails", [True, False])
def test_what_an_ended_dependency_decides_is_decided_after_the_start(condition: Condition, fails: bool) -> None:
    """A crash between an end and its consequences loses none of them: dependents are skipped or ready."""
    world = World()
    agent = world.connect("a", 4)
    (first,) = world.submit()
    many = world.submit(200, after=(first,), conditions=(condition,))
    ref = world.ref(agent, first)
    if fails:
        world.fail(agent, ref)
    else:
        world.complete(agent, ref)
    assert many[-1] in world.state.tasks
    assert world.state.tasks[many[-1]].state is TaskState.PENDING
    restart(world)
    world.settle()
    world.do(Ticked())
    is_met = condition is Condition.ALWAYS or (condition is Condition.FAILURE) == fails
    assert world.state_of(many[-1]) is (TaskState.QUEUED if is_met else TaskState.SKIPPED)


def test_a_skip_after_the_start_names_the_dependency_by_its_key() -> None:
    """The reason is that of the dependency's end, the name the one that people gave it."""
    world = World()
    agent = world.connect("a")
    members = [member("first"), *(member(f"k{at}", "first") for at in range(200))]
    ids = world.submit_members(*members)
    world.fail(agent, world.ref(agent, ids["first"]))
    restart(world)
    world.settle()
    skipped = [event for event in world.of(EventType.TASK_SKIPPED) if event.task_id == ids["k199"]]
    assert [event.reason for event in skipped] == [Reason.UPSTREAM_FAILED]
    assert b"dependency first ended FAILED" in skipped[0].body


def test_open_dependencies_are_waited_for_again() -> None:
    """Each with its condition, and their ends are heard of."""
    world = World()
    agent = world.connect("a", 2)
    first, second = world.submit(2)
    (last,) = world.submit(after=(first, second), conditions=(Condition.ALWAYS, Condition.SUCCESS))
    restart(world)
    assert world.state.tasks[last].waiting_for == {first: Condition.ALWAYS, second: Condition.SUCCESS}
    world.connect("a", 2)
    world.fail(agent, world.ref(agent, first))
    world.complete(agent, world.ref(agent, second))
    assert world.state_of(last) is TaskState.ASSIGNED


def test_a_time_to_come_comes_after_the_start() -> None:
    """What is not to start before a time does not, and then does."""
    world = World()
    (task,) = world.submit(not_before_us=10 * SECOND_US)
    restart(world)
    world.wait(8)
    assert world.state_of(task) is TaskState.PENDING
    world.wait(2)
    assert world.state_of(task) is TaskState.QUEUED


def test_what_has_gone_elsewhere_may_still_succeed() -> None:
    """A stray is one again after a start; an exclusive task has none, and starts when the lease is over."""
    for exclusive in (False, True):
        world = World()
        agent = world.connect("a")
        (task,) = world.submit(exclusive=exclusive)
        ref = world.ref(agent, task)
        world.start(agent, ref)
        world.disconnect(agent)
        world.wait(17)
        assert world.state.tasks[task].attempt is None
        restart(world)
        record = world.state.tasks[task]
        assert [stray.number for stray in record.strays] == ([] if exclusive else [1])
        if not exclusive:
            agent.held[ref] = AttemptState.CLOSED
            world.connect("a")
            world.complete(agent, ref)
            assert world.state_of(task) is TaskState.SUCCEEDED


def test_attempts_hold_what_they_held() -> None:
    """Slots, resources, limits, and the place of a victim for more urgent work."""
    world = World()
    limit_world.define(world, "db", limit_world.SEMAPHORE, 1)
    agent = world.connect("a", 2, resources={"gpu": 2.0})
    demands = limit_world.Demands(claims=(limit_world.Claim("db"),), resources=(("gpu", 1.0),))
    (task,) = world.submit(demands=demands, preemptible=True, priority=3)
    world.start(agent, world.ref(agent, task))
    restart(world)
    known = world.state.agents["a"]
    attempt = world.state.tasks[task].attempt
    assert attempt is not None
    assert (known.slots_used, known.resources_used, attempt.victim_priority) == (1, {"gpu": 1.0}, 3)
    assert list(world.state.fleet.victims[3]) == [attempt.key]
    assert world.state.limits.pools["default", "db"].held.units == 1


def test_a_parked_attempt_is_parked_and_one_that_keeps_its_slot_keeps_it() -> None:
    """BLOCKED attempts gave their slots back only as far as their agent parks them."""
    world = World()
    agent = world.connect("a", 2)
    tasks = world.submit(2)
    for task in tasks:
        ref = world.ref(agent, task)
        world.start(agent, ref)
        world.block(agent, ref, "k", keeps_running=task == tasks[1])
    restart(world)
    known = world.state.agents["a"]
    assert (known.slots_used, known.parked) == (1, 1)
    assert [world.state_of(task) for task in tasks] == [TaskState.BLOCKED, TaskState.RUNNING]


def test_what_failed_by_its_own_fault_is_known_after_the_start() -> None:
    """The agents on which a task failed count once each, in the order of the failures."""
    world, (first, second) = fleet("a", "b")
    (task,) = world.submit(max_attempts=9)
    for agent in (first, second, first):
        for one in (first, second):
            order = AgentOrder.RESUME if one is agent else AgentOrder.PAUSE
            world.do(AgentOrdered(one.id, order, world.replies.append))
        world.wait(60)
        world.start(agent, world.ref(agent, task))
        world.fail(agent, world.ref(agent, task))
    before = world.state.tasks[task].failed_on
    restart(world)
    assert world.state.tasks[task].failed_on == before
    assert len(set(before)) == len(before)


def test_waits_that_matter_are_waited_for_again() -> None:
    """An open wait is found by what wakes it, an answered one resumes its attempt, a closed one is forgotten."""
    world = World()
    agent = world.connect("a", 3)
    tasks = world.submit(3)
    for task in tasks:
        ref = world.ref(agent, task)
        world.start(agent, ref)
        world.block(agent, ref, "ci", "external", system="ci")
    world.unblock(agent, world.ref(agent, tasks[2]), "ci")
    restart(world)
    assert [len(world.state.tasks[task].waits) for task in tasks] == [1, 1, 0]
    assert world.state.system_waiters == {"ci": {(tasks[0], "ci"): None, (tasks[1], "ci"): None}}


def test_only_agents_that_were_there_are_waited_for() -> None:
    """Who had left with nothing to do is left; who was online is suspect from the end of the start's patience on."""
    world = World()
    world.connect("a")
    gone = world.connect("b")
    world.do(SessionEnded("b", gone.epoch, goodbye=True))
    effects = restart(world)
    agents = world.state.agents
    assert (agents["a"].connectivity, agents["b"].connectivity) == (Connectivity.SUSPECT, Connectivity.LEFT)
    hold_us = world.state.settings.startup_hold_us
    assert agents["a"].suspect_us == world.now_us + hold_us
    assert list(effects.agents) == ["a"]
    assert (world.now_us + hold_us + world.state.settings.lost_after_us, TimerKind.LOST, "a") in [
        (timer[0], timer[2], timer[3]) for timer in world.state.timers
    ]


def test_a_lost_agents_work_keeps_its_grace_over_a_start() -> None:
    """An agent that was silent for so long that it counts as lost stays so; what may stay for longer still may."""
    world = World()
    gone = world.connect("a")
    (task_id,) = world.submit(disconnect_grace_us=900 * SECOND_US)
    world.start(gone, world.ref(gone, task_id))
    world.disconnect(gone)
    world.wait(400)
    assert world.state.agents["a"].connectivity is Connectivity.LOST
    restart(world)
    other = world.connect("b")
    world.wait(900)
    assert world.state.agents["a"].connectivity is Connectivity.LOST
    assert not other.held
    world.wait(world.state.settings.startup_hold_us / SECOND_US + 1)
    assert other.held


def test_sessions_are_of_before_the_start_whatever_the_clock_says() -> None:
    """The wall clock was set back, and a start begins at the time of the last session: verdicts wait all the same."""
    world = World()
    gone = world.connect("a")
    (task_id,) = world.submit(disconnect_grace_us=SECOND_US)
    world.start(gone, world.ref(gone, task_id))
    restart(world)
    agent = world.state.agents["a"]
    assert agent.session_start_us < world.state.started_us
    other = world.connect("b")
    world.wait(world.state.settings.startup_hold_us / SECOND_US - 0.1)
    assert not other.held


def test_a_drain_goes_on() -> None:
    """Its deadline is the one that was given, and what runs then goes elsewhere."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.do(AgentOrdered("a", AgentOrder.DRAIN, world.replies.append, timeout_us=20 * SECOND_US))
    restart(world)
    assert world.state.agents["a"].admin is Admin.DRAINING
    world.connect("a")
    world.wait(19)
    assert not agent.cancelled
    world.wait(2)
    assert agent.reasons[ref] is Reason.MOVED


# --- trust -----------------------------------------------------------------------------------------------------------


def test_an_open_breaker_is_open_and_resets_at_its_time() -> None:
    """An agent that was not trusted is not trusted after a start, and gets its probe when it would have had it."""
    world, (agent,) = fleet("a")
    open_by_rejecting(world, agent)
    before = breaker_of(world, "a")
    assert before is not None
    restart(world)
    known = breaker_of(world, "a")
    assert known is not None
    assert (known.state, known.reset_us, known.opened_count) == (OPEN, before.reset_us, before.opened_count)
    world.connect("a", 4, labels={"name": "a"})
    world.wait((known.reset_us - world.now_us) / SECOND_US)
    assert known.state is HALF_OPEN


def test_a_breaker_for_a_type_is_found_again() -> None:
    """Work of that type stays away from the agent, other work does not."""
    world, (here, there) = fleet("a", "b")
    while (found := breaker_of(world, "a", "m:f")) is None or found.state is CLOSED:
        fails_here_passes_there(world, here, there)
    restart(world)
    again = breaker_of(world, "a", "m:f")
    assert again is not None
    assert (again.state, again.reset_us) == (OPEN, found.reset_us)
    assert breaker_of(world, "a").state is CLOSED  # type: ignore[union-attr]  # an agent has one


def test_a_leased_probe_stays_leased() -> None:
    """A half-open breaker knows its probe after a start: no second one is let through (I10)."""
    world, (agent,) = fleet("a")
    open_by_rejecting(world, agent)
    world.wait(31)
    known = breaker_of(world, "a")
    assert known is not None
    assert known.probe is not None
    restart(world)
    again = breaker_of(world, "a")
    assert again is not None
    assert (again.state, again.probe, again.tested) == (HALF_OPEN, known.probe, known.probe)
    assert world.state.probes == {known.probe: [again]}


def test_after_a_start_request_ids_are_asked_of_the_store() -> None:
    """Memory knows those of open tasks only, and says so."""
    world = World()
    assert world.state.requests.is_complete
    restart(world)
    assert not world.state.requests.is_complete


def test_a_task_of_the_phase_that_is_on_waits_for_its_dependencies_only() -> None:
    """In a run without phases and in one with them: it goes on when what it comes after has ended."""
    for phase in (0, 2):
        world = World()
        agent = world.connect("a", 1)
        ids = world.submit_members(member("a", phase=phase), member("b", "a", phase=phase))
        world.start(agent, world.ref(agent, ids["a"]))
        restart(world)
        assert world.state.tasks[ids["b"]].waiting_for == {ids["a"]: Condition.SUCCESS}
        world.connect("a", 1)
        world.complete(agent, world.ref(agent, ids["a"]))
        assert world.state_of(ids["b"]) is TaskState.ASSIGNED


def test_a_start_parks_who_was_parked() -> None:
    """Not who waits in a slot because its agent parks no more, nor who was sent ahead of one."""
    world = World()
    agent = world.connect("a", 9)
    for task_id in world.submit(9):
        world.start(agent, world.ref(agent, task_id))
        world.block(agent, world.ref(agent, task_id), "k")
    assert (world.state.agents["a"].parked, world.state.agents["a"].slots_used) == (8, 1)
    restart(world)
    assert (world.state.agents["a"].parked, world.state.agents["a"].slots_used) == (8, 1)
    world = World()
    world.state.durations_us["m:f"] = 10.0
    agent = world.connect("a", 1, prefetch_credit=4)
    world.submit(3)
    assert len(world.state.agents["a"].ahead) == 2
    restart(world)
    assert (world.state.agents["a"].parked, len(world.state.agents["a"].ahead)) == (0, 2)
