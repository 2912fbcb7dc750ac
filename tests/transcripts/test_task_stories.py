"""Stories of tasks, each kept word by word: waits, limits, runs, tries, times and the order in which they start."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.events import (
    Answered,
    CancelRequested,
    End,
    GivenAnswer,
    LimitDefined,
    OutcomesLoaded,
    ReportKind,
    RunCancelRequested,
    TasksAdded,
    Ticked,
)
from outrider_coordinator.core.limits.book import Definition, LimitKind
from outrider_coordinator.core.runs import progress
from outrider_coordinator.core.settings import CoreSettings, WaitBudgets
from outrider_coordinator.core.spec import SECOND_US, Claim, Condition, Demands, WaitExpiry, WaitPolicies, WaitPolicy
from outrider_coordinator.core.states import Reason, TaskState
from support.core_world import ModelAgent, member
from support.telling import Story, TellingWorld, begin, check, obey, tell_all

YES = b"\x0a\x03yes"


def answer(world: TellingWorld, task: str, key: str = "", **facts: Any) -> None:
    """Somebody answers."""
    world.do(Answered(task, key, facts.pop("payload", YES), world.replies.append, **facts))


def define(world: TellingWorld, key: str, definition: Definition | None) -> None:
    """Somebody says what a limit is."""
    world.do(LimitDefined("default", key, definition, world.replies.append))


def run_all(world: TellingWorld, *agents: ModelAgent) -> None:
    """Everything starts and succeeds, until nothing is left to do."""
    while any(agent.held for agent in agents):
        for agent in agents:
            begin(world, agent)
            for ref in list(agent.held):
                world.now_us += SECOND_US
                world.complete(agent, ref)
            world.settle()


def waits(world: TellingWorld) -> None:
    """Waits of every kind are opened, answered, refused, granted, resolved by time, by tasks, and run out."""
    agent, helper = world.connect("a", 6), world.connect("b", 1)
    (required,) = world.submit(not_before_us=world.now_us + 100 * SECOND_US)
    budgets = WaitPolicies(
        external=WaitPolicy(60 * SECOND_US, WaitExpiry.MOVE),
        clarification=WaitPolicy(90 * SECOND_US, WaitExpiry.KEEP),
        extension_max_us=20 * SECOND_US,
    )
    (task,) = world.submit(waits=budgets, max_attempts=3)
    (asker,) = world.submit(title="asks")
    for one in (agent, helper):
        begin(world, one)
    holder = agent if any(ref.task_id == task for ref in agent.held) else helper
    ref = world.ref(holder, task)
    world.block(holder, ref, "which", "clarification")
    world.block(holder, ref, "more", "complexity", additional_us=15 * SECOND_US)
    world.block(holder, ref, "most", "complexity", additional_us=150 * SECOND_US)
    world.block(holder, ref, "ci", "external", system="ci", retry_us=world.now_us + 30 * SECOND_US)
    world.block(holder, ref, "then", "dependency", required_task_id=required)
    world.block(holder, ref, "gone", "dependency", required_task_id="nobody")
    world.block(holder, ref, "db", "resource", claim=Claim("db", units=2), keeps_running=True)
    tell_all(world)
    world.say("wrong answers")
    answer(world, "nobody")
    answer(world, task)
    answer(world, task, "what")
    answer(world, task, "then")
    answer(world, task, "db")
    answer(world, task, "which", granted_us=5)
    answer(world, asker)
    world.say("right ones, one by another task, and once more")
    other = agent if any(held.task_id == asker for held in agent.held) else helper
    given = GivenAnswer(task, "which", YES)
    world.report(other, world.ref(other, asker), ReportKind.ANSWER_GIVEN, given=given)
    world.report(other, world.ref(other, asker), ReportKind.ANSWER_GIVEN, given=given)
    answer(world, task, "which")
    answer(world, task, "most", agrees=True, by="me")
    answer(world, task, "then", refuses=True, text="never mind")
    world.do(OutcomesLoaded({"nobody": None, required: End(TaskState.SUCCEEDED, "default")}))
    tell_all(world)
    world.wait(31)
    for key in ("which", "more", "most", "ci", "then", "gone", "db", "unknown"):
        world.unblock(holder, ref, key)
    tell_all(world)
    world.say("it asks again: what was answered is known; another wait runs out and the task moves")
    world.block(holder, ref, "which", "clarification")
    world.unblock(holder, ref, "which")
    world.block(holder, ref, "ci", "external", system="ci")
    world.wait(61)
    tell_all(world)
    answer(world, task, "ci")
    obey(world)
    run_all(world, agent, helper)
    world.wait(60)
    run_all(world, agent, helper)


def budgets(world: TellingWorld) -> None:
    """The coordinator's own budgets, waits of tasks that may not move, and waits in a cancelled task."""
    agent = world.connect("a", 6)
    fails, once, asks, cancelled = (
        *world.submit(),
        *world.submit(at_most_once=True, waits=WaitPolicies(clarification=WaitPolicy(0, WaitExpiry.MOVE))),
        *world.submit(),
        *world.submit(),
    )
    begin(world, agent)
    for task in (fails, once, asks, cancelled):
        world.block(agent, world.ref(agent, task), "k", "clarification")
    world.block(agent, world.ref(agent, asks), "time", "complexity", additional_us=1)
    world.wait(5)
    answer(world, asks, refuses=True)
    answer(world, asks, "k", refuses=True, text="no")
    answer(world, asks, "time", granted_us=70 * SECOND_US)
    world.do(CancelRequested([cancelled], "enough", world.replies.append))
    answer(world, cancelled)
    tell_all(world)
    world.wait(6)
    answer(world, fails)
    tell_all(world)
    obey(world)
    world.unblock(agent, world.ref(agent, asks), "k")
    world.unblock(agent, world.ref(agent, asks), "time")
    world.disconnect(agent)
    world.connect("a", 6)
    run_all(world, agent)


def limits(world: TellingWorld) -> None:
    """Locks, semaphores, rates and write scopes: taken, waited for in line, redefined, deadlocked, given back."""
    agent = world.connect("a", 9)
    define(world, "db", Definition(LimitKind.SEMAPHORE, 3, 0.0, 0))
    define(world, "api", Definition(LimitKind.RATE, 0, 0.5, 2))
    define(world, "nothing", None)
    shared = world.submit(2, demands=Demands(claims=(Claim("file", shared=True), Claim("db", units=2))))
    writer = world.submit(demands=Demands(claims=(Claim("file"), Claim("api"))), priority=7)
    rates = world.submit(4, demands=Demands(claims=(Claim("api"),)))
    scopes = world.submit(2, demands=Demands(scopes=("src/**/*.py",)))
    world.submit(demands=Demands(scopes=("src/app.py", "docs/*")))
    never = world.submit(demands=Demands(claims=(Claim("db", units=9),)))
    tell_all(world)
    begin(world, agent)
    world.wait(5)
    tell_all(world)
    world.say("two running tasks ask for what the other has")
    first, second = world.ref(agent, shared[0]), world.ref(agent, scopes[0])
    world.block(agent, second, "db", "resource", claim=Claim("db"))
    world.unblock(agent, second, "db")
    world.block(agent, second, "file", "resource", claim=Claim("file"))
    world.block(agent, first, "src", "dependency", required_task_id=scopes[0])
    tell_all(world)
    world.wait(3)
    define(world, "db", Definition(LimitKind.SEMAPHORE, 1, 0.0, 0))
    define(world, "api", Definition(LimitKind.RATE, 0, 5.0, 1))
    world.unblock(agent, first, "src")
    world.complete(agent, first)
    tell_all(world)
    define(world, "db", None)
    world.unblock(agent, second, "file")
    run_all(world, agent)
    world.wait(2)
    run_all(world, agent)
    world.do(CancelRequested([*never, *writer, *rates], "", world.replies.append))
    tell_all(world)


def told_progress(world: TellingWorld, run_id: str = "run") -> None:
    """How far a run is."""
    run, sight = world.state.runs.get(run_id), progress.Sight()
    if run is None:
        return
    progress.look(world.state, run, list(run.members.values()), world.now_us, sight)
    lanes = progress.lanes(world.state, run, sight)
    world.tell(sight)
    world.tell((lanes, progress.estimate_us(sight, lanes), run.phase, run.milestones))


def runs(world: TellingWorld) -> None:
    """A run with phases, conditions, weights and milestones: what fails skips what needs it, what is added joins."""
    agent = world.connect("a", 2)
    world.submit_members(
        member("fetch", milestone="data", weight=2.0),
        member("check", "fetch", conditions=(Condition.FAILURE,)),
        member("clean", "fetch", "check", conditions=(Condition.ALWAYS, Condition.ALWAYS)),
        member("train", "clean", phase=1, milestone="model"),
        member("report", phase=2, max_attempts=2),
        request_id="r",
        digest=b"d",
        client_id="c",
        submitter="me",
    )
    told_progress(world)
    tell_all(world)
    begin(world, agent)
    world.report(agent, world.ref(agent, "r-fetch"), ReportKind.PROGRESS, body=b"half")
    world.wait(4)
    told_progress(world)
    world.add(member("more", "fetch", "clean"), member("extra", "more"), request_id="x", parent_task_id="r-fetch")
    world.add(member("more", "fetch"), request_id="x")
    world.add(member("bad", "what"))
    world.add(member("late", "report"))
    world.add(member("child"), parent_task_id="nobody")
    world.add(member("fetch"))
    world.complete(agent, world.ref(agent, "r-fetch"))
    world.settle()
    tell_all(world)
    told_progress(world)
    while agent.held:
        for ref in begin(world, agent) or list(agent.held):
            world.now_us += SECOND_US
            if ref.task_id == "r-train":
                world.fail(agent, ref)
            else:
                world.complete(agent, ref)
            world.settle()
        told_progress(world)
    world.add(member("after"))


def fails_fast(world: TellingWorld) -> None:
    """The first failure of a run stops the rest; a sequential and a narrow run; a run that is cancelled."""
    agent = world.connect("a", 3)
    world.submit_members(*(member(f"k{at}") for at in range(5)), run_id="quick", fails_fast=True)
    begin(world, agent)
    world.fail(agent, world.ref(agent, "q-k1"))
    world.settle()
    tell_all(world)
    obey(world)
    world.submit_members(member("a"), member("b"), member("c"), run_id="line", is_sequential=True)
    world.submit_members(*(member(f"n{at}") for at in range(3)), run_id="narrow", max_parallel=1)
    told_progress(world, "narrow")
    told_progress(world, "line")
    tell_all(world)
    begin(world, agent)
    world.do(RunCancelRequested("line", "enough", world.replies.append))
    world.do(TasksAdded("line", "default", [member("z")._replace(task_id="z")], world.replies.append))
    world.settle()
    tell_all(world)
    obey(world)
    world.do(RunCancelRequested("line", "again", world.replies.append))
    run_all(world, agent)


def tries(world: TellingWorld) -> None:
    """Failures of every kind: tried again after a growing wait, not at all, or never more; poison; deadlines."""
    agent = world.connect("a", 9)
    plain, retried, once, poison = (
        *world.submit(),
        *world.submit(max_attempts=3, initial_backoff_us=2 * SECOND_US, max_backoff_us=3 * SECOND_US),
        *world.submit(at_most_once=True, max_attempts=3),
        *world.submit(max_attempts=9),
    )
    (dead,) = world.submit(deadline_us=30 * SECOND_US)
    (late,) = world.submit(queue_timeout_us=10 * SECOND_US, demands=Demands(runner="none"))
    (over,) = world.submit(deadline_us=20 * SECOND_US, demands=Demands(runner="none"))
    (slow,) = world.submit(deadline_us=25 * SECOND_US)
    begin(world, agent)
    reasons = {
        plain: Reason.TASK_ERROR,
        retried: Reason.TIMED_OUT,
        once: Reason.WORKER_DIED,
        poison: Reason.WORKER_DIED,
    }
    for task, reason in reasons.items():
        world.fail(agent, world.ref(agent, task), reason, True)
    tell_all(world)
    for _ in range(12):
        world.wait(2)
        for ref in begin(world, agent):
            world.fail(agent, ref, reasons.get(ref.task_id, Reason.TASK_ERROR), True)
    world.wait(4)
    tell_all(world)
    world.fail(agent, world.ref(agent, slow), Reason.TASK_ERROR, True)
    world.wait(10)
    world.do(Ticked(), after_us=61 * SECOND_US)
    assert {late, over, dead} <= world.ended.keys()
    tell_all(world)


def turns(world: TellingWorld) -> None:
    """Who starts first: priorities that age, deadlines, shares of submitters, caps, and CRITICAL work."""
    agent = world.connect("a", 2)
    world.submit(3, submitter="x", preemptible=True)
    world.submit(2, submitter="y", priority=3)
    world.submit(2, submitter="x", deadline_us=500 * SECOND_US)
    world.submit(2, submitter="y", kind="m:capped", estimated_us=9 * SECOND_US)
    begin(world, agent)
    tell_all(world)
    (urgent,) = world.submit(priority=10)
    tell_all(world)
    world.do(CancelRequested([ref.task_id for ref in agent.held][:1], "", world.replies.append))
    (needy,) = world.submit(priority=10, demands=Demands(claims=(Claim("l"),)))
    obey(world)
    tell_all(world)
    world.wait(130)
    for _ in range(4):
        for ref in begin(world, agent) or list(agent.held):
            world.now_us += 7 * SECOND_US
            world.complete(agent, ref)
    tell_all(world)
    run_all(world, agent)
    assert {urgent, needy} <= world.ended.keys()


SETTINGS = {
    "budgets": CoreSettings(wait_budgets=WaitBudgets(0, 0, 0, 10 * SECOND_US)),
    "turns": CoreSettings(aging_us=60 * SECOND_US, shares={"default": 2.0}, type_running_max={"m:capped": 1}),
    "tries": CoreSettings(retry_floor=2),
}
ALL: tuple[Story, ...] = (waits, budgets, limits, runs, fails_fast, tries, turns)


@pytest.mark.parametrize("story", ALL, ids=lambda story: story.__name__)
def test_a_story_of_tasks_is_told_again(story: Story, pytestconfig: pytest.Config) -> None:
    """Every row, event, send and reply of it is what was kept."""
    check(story, pytestconfig, SETTINGS.get(story.__name__))
