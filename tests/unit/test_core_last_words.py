"""How attempts and tasks end, to the last word: reasons, counts, messages, and who is told what happened."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.effects import CancelVerdict
from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    AttemptsReturned,
    CancelRequested,
    OutboxFacts,
    Report,
    ReportKind,
    ReportsReceived,
    RunCancelRequested,
    RunSubmitted,
)
from outrider_coordinator.core.failure import encode_error
from outrider_coordinator.core.records import PutAttempt
from outrider_coordinator.core.spec import SECOND_US, Demands
from outrider_coordinator.core.states import AttemptState, EventType, Intent, Reason, TaskState
from support.attempts_begun import last, record, running
from support.core_world import World, member
from support.telling import begin

# --- counts ----------------------------------------------------------------------------------------------------------


def test_ends_are_counted() -> None:
    """Tasks that are over, and how the attempts of an agent went; what was stopped on our order is no failure."""
    world, agent, refs = running(5)
    for ref in refs[:2]:
        world.complete(agent, ref)
    for ref in refs[2:4]:
        world.fail(agent, ref)
    known = world.state.agents["a"]
    assert (known.succeeded_count, known.failed_count, world.state.ended_count) == (2, 2, 4)
    record(world, refs[4].task_id).intent = Intent.MOVE
    world.fail(agent, refs[4], Reason.MOVED)
    assert (known.succeeded_count, known.failed_count, world.state.ended_count) == (2, 2, 4)


def test_a_duration_is_never_less_than_nothing() -> None:
    """An agent whose clock ran backwards teaches nothing strange."""
    world, agent, (ref,) = running()
    report = Report(ref, 2, world.now_us - 5, ReportKind.COMPLETED, True, b"")
    world.do(ReportsReceived("a", agent.epoch, "box-a", 2, [report]))
    assert world.state.durations_us == {"m:f": 0}


def test_a_start_that_comes_with_the_end_is_told_with_its_body() -> None:
    """The start event has what the agent said of it, and its time."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    end = Report(ref, 1, world.now_us, ReportKind.COMPLETED, True, b"done", start=(world.now_us - 7, b"pid 9"))
    world.do(ReportsReceived("a", agent.epoch, "box-a", 1, [end]))
    assert last(world, EventType.TASK_STARTED) == ("a", 1, 0, "", b"pid 9")
    (row,) = (row for row in world.written if isinstance(row, PutAttempt))
    assert (row.started_us, row.ended_us) == (world.now_us - 7, world.now_us)


# --- cancels ---------------------------------------------------------------------------------------------------------


def test_a_cancel_is_told_where_it_ended() -> None:
    """By success, by failure, given back, or out of contact: the event names attempt, agent and reason."""
    for how in ("completed", "failed", "returned", "lost"):
        world = World()
        agent = world.connect("a")
        (task,) = world.submit(disconnect_grace_us=SECOND_US)
        ref = world.ref(agent, task)
        if how != "returned":
            world.start(agent, ref)
        world.do(CancelRequested([task], "enough", world.replies.append))
        if how == "completed":
            world.complete(agent, ref)
        elif how == "failed":
            world.fail(agent, ref, Reason.CANCEL_REQUESTED)
        elif how == "returned":
            del agent.held[ref]
            world.do(AttemptsReturned("a", agent.epoch, [ref], revoked=True))
        else:
            world.disconnect(agent)
            world.wait(2)
        said = encode_error(Reason.CANCEL_REQUESTED, "enough")
        assert last(world, EventType.TASK_CANCELLED) == ("a", 1, Reason.CANCEL_REQUESTED, "", said), how


def test_a_cancel_and_an_end_in_one_step_say_what_came_first() -> None:
    """The verdict has the state that the end gave it."""
    world, agent, (ref,) = running()
    world.do(
        ReportsReceived("a", agent.epoch, "box-a", 2, [Report(ref, 2, 0, ReportKind.COMPLETED, True, b"")]),
        CancelRequested([ref.task_id], "", world.replies.append),
    )
    assert world.replies[-1] == [CancelVerdict(ref.task_id, TaskState.SUCCEEDED, cancelled=False)]


def test_a_cancel_of_a_queued_task_says_its_state() -> None:
    """It is CANCELLED when the reply goes out."""
    world = World()
    (task,) = world.submit()
    world.do(CancelRequested([task], "", world.replies.append))
    assert world.replies[-1] == [CancelVerdict(task, TaskState.CANCELLED, cancelled=True)]


def test_a_run_that_is_cancelled_without_a_word_says_nothing() -> None:
    """No error is made up where nobody gave a reason."""
    for message in ("", "enough"):
        world = World()
        world.submit_run(("a", ()), ("b", ("a",)))
        world.do(RunCancelRequested("run", message, world.replies.append))
        world.settle()
        bodies = {event.body for event in world.of(EventType.TASK_CANCELLED)}
        assert bodies == {encode_error(Reason.CANCEL_REQUESTED, message) if message else b""}


def test_a_failed_run_says_why_it_gave_up() -> None:
    """What had not started is cancelled with the reason of the run."""
    world = World()
    agent = world.connect("a")
    world.submit_run(("a", ()), ("b", ()), fails_fast=True)
    (ref,) = begin(world, agent)
    world.fail(agent, ref)
    world.settle()
    text = "task a ended FAILED and the run fails fast"
    assert last(world, EventType.TASK_CANCELLED) == (
        "",
        0,
        Reason.RUN_FAILED,
        "",
        encode_error(Reason.RUN_FAILED, text),
    )


def test_dependents_outside_of_a_run_that_stops_hear_of_its_ends() -> None:
    """A task of another run that waits for one of it is skipped."""
    world = World()
    ids = world.submit_run(("a", ()), ("b", ("a",)))
    (outside,) = world.submit(after=(ids["a"],))
    world.do(RunCancelRequested("run", "", world.replies.append))
    world.settle()
    assert world.ended[outside] is TaskState.SKIPPED
    assert world.ended[ids["b"]] is TaskState.CANCELLED


def test_near_is_where_a_task_ended_and_nowhere_else() -> None:
    """A task that ended without an agent is near none."""
    world = World()
    (first,) = world.submit(not_before_us=10**12)
    sticky = Demands(sticky=True)
    made = [member("k")._replace(task_id="r-k", after_keys=("x",), after_ids=(first,))]
    world.do(RunSubmitted("run", "default", "", "", made, world.replies.append))
    world.settle()
    world.state.tasks["r-k"].spec.demands = sticky
    world.do(CancelRequested([first], "", world.replies.append))
    world.settle()
    assert world.ended["r-k"] is TaskState.SKIPPED


# --- stopped, lost, given back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "said", "expected"),
    [
        (Reason.DEADLINE_EXCEEDED, b"agent's words", b"agent's words"),
        (Reason.CANCEL_REQUESTED, b"agent's words", encode_error(Reason.DEADLINE_EXCEEDED, "its deadline has passed")),
        (Reason.DEADLINE_EXCEEDED, b"", encode_error(Reason.DEADLINE_EXCEEDED, "its deadline has passed")),
    ],
)
def test_the_agents_words_count_when_they_are_about_the_stop(reason: Reason, said: bytes, expected: bytes) -> None:
    """An attempt stopped for its deadline is told with what the agent said of that, else with our own words."""
    world, agent, (ref,) = running(deadline_us=5 * SECOND_US)
    record(world, ref.task_id).intent = Intent.DEADLINE
    world.report(agent, ref, ReportKind.FAILED, body=said, reason=reason, recoverable=True)
    assert last(world, EventType.TASK_EXPIRED) == ("a", 1, Reason.DEADLINE_EXCEEDED, "", expected)


@pytest.mark.parametrize("how", ["returned", "lost"])
def test_a_stopped_attempt_that_goes_another_way_ends_as_the_stop_says(how: str) -> None:
    """Given back unstarted, or lost with its agent: the words are ours."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(disconnect_grace_us=SECOND_US)
    ref = world.ref(agent, task)
    record(world, task).intent = Intent.WAIT_EXPIRED
    if how == "returned":
        del agent.held[ref]
        world.do(AttemptsReturned("a", agent.epoch, [ref], revoked=True))
    else:
        world.disconnect(agent)
        world.wait(2)
    error = encode_error(Reason.WAIT_EXPIRED, "it waited for longer than it may")
    assert last(world, EventType.TASK_FAILED) == ("a", 1, Reason.WAIT_EXPIRED, "", error)


def test_what_was_lost_after_its_start_counts_and_before_it_does_not() -> None:
    """A start at time 0 is none; a microsecond later it is one."""
    for started_us, counted in ((0, 0), (1, 1)):
        world, agent, (ref,) = running(disconnect_grace_us=SECOND_US)
        record(world, ref.task_id).started_us = started_us
        world.disconnect(agent)
        world.wait(2)
        assert world.state.tasks[ref.task_id].attempts_counted == counted
        world, agent, (ref,) = running(max_attempts=2)
        record(world, ref.task_id).started_us = started_us
        world.fail(agent, ref, Reason.AGENT_STOPPED, recoverable=True)
        assert world.state.tasks[ref.task_id].attempts_counted == counted


def test_a_stopped_attempt_that_is_lost_costs_no_try() -> None:
    """It was to go elsewhere anyway."""
    world, agent, (ref,) = running(disconnect_grace_us=SECOND_US)
    record(world, ref.task_id).intent = Intent.MOVE
    world.disconnect(agent)
    world.wait(2)
    assert world.state.tasks[ref.task_id].attempts_counted == 0


def test_given_back_it_goes_elsewhere_at_once_and_an_exclusive_one_after_its_lease() -> None:
    """Only where an attempt may still run without our knowing is there anything to wait for."""
    for exclusive in (False, True):
        world = World()
        agent = world.connect("a")
        (task,) = world.submit(exclusive=exclusive)
        agent.held.clear()
        world.connect("a", instance_id="j", instance_start_ms=2)
        waits = world.state.tasks[task].state is TaskState.PENDING
        assert waits is exclusive
        if exclusive:
            assert world.state.tasks[task].ready_us == world.state.started_us + 16_500_000
        else:
            assert world.state.tasks[task].attempts_made == 2


def test_an_offer_that_never_arrived_is_told_as_such() -> None:
    """Its attempt is LOST, nothing was counted, and no one is to blame."""
    world = World()
    agent = world.connect("a")
    first, second = world.submit(2)
    agent.held.clear()
    world.connect("a", 2)
    rows = [row for row in world.written if isinstance(row, PutAttempt) and row.state == AttemptState.LOST]
    assert [(row.task_id, row.reason, row.counted) for row in rows] == [(first, 0, False)]
    assert world.state.tasks[first].attempts_counted == 0
    assert world.state.tasks[second].attempts_made == 1


def test_everything_an_agent_does_not_list_is_looked_at() -> None:
    """One that ended in the replay stops nobody from hearing of the rest; a reboot is a strike for what ran."""
    world, agent, refs = running(3)
    agent.held.clear()
    for ref in refs:
        world.state.tasks[ref.task_id].worker_deaths = 1
    world.state.agents["a"].boot_id = "b1"
    seq = agent.seq
    world.connect("a", 3, boot_id="b2", outboxes=[OutboxFacts("box-a", seq + 1, seq + 1)])
    done = Report(refs[0], 2, world.now_us, ReportKind.COMPLETED, True, b"")
    world.do(ReportsReceived("a", agent.epoch, "box-a", seq + 1, [done]))
    assert world.ended == {refs[0].task_id: TaskState.SUCCEEDED}
    assert [world.state.tasks[ref.task_id].worker_deaths for ref in refs[1:]] == [2, 2]
    assert [world.state_of(ref.task_id) for ref in refs[1:]] == [TaskState.PENDING] * 2


@pytest.mark.parametrize("where", [TaskState.PENDING, TaskState.QUEUED, TaskState.RUNNING])
def test_a_machine_that_died_quarantines_what_killed_it_thrice(where: TaskState) -> None:
    """Its task may wait for its backoff or for an agent, or run elsewhere: it is over, and what runs is fenced."""
    world = World()
    dead, other = world.connect("a", 2), world.connect("b", 2)
    world.do(AgentOrdered("b", AgentOrder.PAUSE, world.replies.append))
    poison, spared = world.submit(2, max_attempts=9, initial_backoff_us=4 * SECOND_US)
    begin(world, dead)
    for task in (poison, spared):
        world.state.tasks[task].worker_deaths = 2
    world.disconnect(dead)
    world.wait(6)
    if where is TaskState.QUEUED:
        world.wait(4)
    elif where is TaskState.RUNNING:
        world.do(AgentOrdered("b", AgentOrder.RESUME, world.replies.append))
        world.wait(4)
        begin(world, other)
    assert world.state_of(poison) is where
    world.do(CancelRequested([spared], "", world.replies.append))
    dead.held.clear()
    world.state.agents["a"].boot_id = "b1"
    world.connect("a", 2, boot_id="b2")
    agent_id, number, reason, _, body = last(world, EventType.TASK_FAILED)
    assert (agent_id, number, reason) == ("", 0, Reason.POISONED)
    assert b"killed its worker or its machine 3 times; last: agent a died while it ran" in body
    if where is TaskState.RUNNING:
        assert world.state_of(spared) is TaskState.CANCELLING
        assert [ref.task_id for ref in other.cancelled] == [spared, poison]


def test_a_slot_that_is_fenced_is_filled_in_the_same_step() -> None:
    """The first success of a stray frees the slot of the newer try at once."""
    world = World()
    lost, other = world.connect("a"), world.connect("b")
    (task,) = world.submit()
    ref = world.ref(lost, task)
    world.start(lost, ref)
    world.disconnect(lost)
    world.wait(6)
    begin(world, other)
    (waits,) = world.submit()
    lost.held[ref] = AttemptState.CLOSED
    world.do(AgentOrdered("a", AgentOrder.PAUSE, world.replies.append))
    world.connect("a")
    world.complete(lost, ref)
    assert [held.task_id for held in other.held] == [waits]
