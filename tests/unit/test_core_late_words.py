"""What agents say late, twice, out of order or under another's name, in the core: it changes nothing it may not."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.effects import EndSession, PushAck
from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    AttemptsReturned,
    CancelRequested,
    OutboxFacts,
    Ref,
    Report,
    ReportKind,
    ReportsReceived,
    SessionEnded,
)
from outrider_coordinator.core.records import DeleteAgent, InsertEvidence, InsertLog, PutOutbox
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.states import AttemptState, Connectivity, EventType, Reason, TaskState
from support.core_world import ModelAgent, World


def running(**fields: object) -> tuple[World, ModelAgent, Ref]:
    """A world whose only agent runs one task."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(**fields)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    return world, agent, ref


def done(ref: Ref, number: int = 2) -> Report:
    """The success of an attempt."""
    return Report(ref, number, SECOND_US, ReportKind.COMPLETED, True, b"done")


def evidence(world: World) -> list[str]:
    """Why reports were kept instead of applied."""
    return [row.cause for row in world.rows if isinstance(row, InsertEvidence)]


def last_ack(world: World) -> PushAck:
    """What an agent was last told to be durable."""
    return [send for send in world.sent if isinstance(send, PushAck)][-1]


# --- reports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "off"), [("b", 0), ("a", 1)])
def test_reports_of_another_session_are_not_looked_at(name: str, off: int) -> None:
    """A report counts only in its agent's current session: neither applied nor acknowledged (I4)."""
    world, agent, ref = running()
    sent = len(world.sent)
    world.do(ReportsReceived(name, agent.epoch + off, "box-a", 2, [done(ref)]), after_us=5)
    assert world.state_of(ref.task_id) is TaskState.RUNNING
    assert (len(world.sent), world.written) == (sent, [])
    assert world.state.agents["a"].last_heard_us < world.now_us


def test_a_gap_within_a_session_ends_it() -> None:
    """Seq 3 after 1: nothing is applied, and the agent is told to come again and replay (I5)."""
    world, agent, ref = running()
    world.do(ReportsReceived("a", agent.epoch, "box-a", 3, [done(ref)]))
    end = world.sent[-1]
    assert isinstance(end, EndSession)
    assert (end.epoch, end.agent_id, end.refused.reason) == (agent.epoch, "a", "INVALID_REQUEST")
    assert "box-a: seq 3 after 1;" in end.refused.message
    assert world.state.agents["a"].applied == {"box-a": 1}


def test_what_was_applied_before_is_acknowledged_again_only() -> None:
    """A frame that comes twice is acknowledged as far as it was applied, and does nothing (I5)."""
    world, agent, ref = running()
    for _ in range(2):
        world.do(ReportsReceived("a", agent.epoch, "box-a", 1, [done(ref, 1), done(ref, 2)]))
        assert last_ack(world) == PushAck(agent.epoch, "a", "box-a", 2)
    assert world.ended == {ref.task_id: TaskState.SUCCEEDED}
    assert world.rows.count(PutOutbox("a", "box-a", 2)) == 2
    assert evidence(world) == []


def test_each_outbox_counts_for_itself() -> None:
    """A new outbox of the same agent begins at 1."""
    world, agent, ref = running()
    world.do(ReportsReceived("a", agent.epoch, "other", 1, [done(ref)]))
    assert last_ack(world) == PushAck(agent.epoch, "a", "other", 1)
    assert world.state.agents["a"].applied == {"box-a": 1, "other": 1}
    assert world.state_of(ref.task_id) is TaskState.SUCCEEDED


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"ref": Ref("nobody", 1, 1)}, "no open attempt"),
        ({"ref": ("attempt", 7)}, "no open attempt"),
        ({"ref": ("fence", 99)}, "foreign fence"),
        ({"number": 1}, "message number seen before"),
        ({"kind": ReportKind.QUARANTINED}, "has stopped the coordinator twice"),
    ],
)
def test_what_cannot_be_applied_is_kept_and_acknowledged(changed: dict[str, object], cause: str) -> None:
    """Reports nobody can use are stored with the reason and never hold up those behind them (I4, I5)."""
    world, agent, ref = running()
    wrong = changed.get("ref", ref)
    if isinstance(wrong, tuple) and not isinstance(wrong, Ref):
        wrong = ref._replace(**{str(wrong[0]): wrong[1]})
    report = done(ref)._replace(**{**changed, "ref": wrong})
    world.do(ReportsReceived("a", agent.epoch, "box-a", 2, [report]), after_us=3)
    assert world.state_of(ref.task_id) is TaskState.RUNNING
    (row,) = (row for row in world.written if isinstance(row, InsertEvidence))
    assert row == InsertEvidence("a", "box-a", 2, world.now_us, cause, *report.ref, report.kind, b"done")
    assert last_ack(world).applied_seq == 2


def test_a_report_of_what_has_just_ended_is_evidence() -> None:
    """A second end in the same frame changes nothing of the first (I1)."""
    world, agent, ref = running()
    failed = Report(ref, 3, SECOND_US, ReportKind.FAILED, True, b"", "boom", Reason.TASK_ERROR)
    world.do(ReportsReceived("a", agent.epoch, "box-a", 2, [done(ref), failed]))
    assert world.ended == {ref.task_id: TaskState.SUCCEEDED}
    assert evidence(world) == ["no open attempt"]


def test_output_is_kept_as_it_came() -> None:
    """A log message becomes a row with its attempt, its number and its time."""
    world, agent, ref = running()
    world.report(agent, ref, ReportKind.LOG, body=b"hello")
    assert InsertLog(ref.task_id, 1, 2, world.now_us, b"hello") in world.written


@pytest.mark.parametrize("terminal", [True, False])
def test_a_kind_of_report_from_the_future_is_a_failure_if_it_ends_the_attempt(terminal: bool) -> None:
    """What this version does not know decides only when nothing else can follow it."""
    world, agent, ref = running()
    world.do(ReportsReceived("a", agent.epoch, "box-a", 2, [done(ref)._replace(kind=99, terminal=terminal)]))
    assert world.state_of(ref.task_id) is (TaskState.FAILED if terminal else TaskState.RUNNING)


def test_an_answer_without_content_answers_nothing() -> None:
    """A report that says it answers and has no answer is passed over."""
    world, agent, ref = running()
    world.report(agent, ref, ReportKind.ANSWER_GIVEN)
    assert world.state_of(ref.task_id) is TaskState.RUNNING
    assert evidence(world) == []


def test_taken_comes_before_or_after_accepted() -> None:
    """That an attempt may start is noted either way, and is durable (I12)."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(at_most_once=True)
    ref = world.ref(agent, task)
    world.report(agent, ref, ReportKind.TAKEN)
    record = world.state.tasks[task].attempt
    assert record is not None
    assert (record.state, record.last_number) == (AttemptState.ACCEPTED, 1)
    world.report(agent, ref, ReportKind.TAKEN)
    assert (record.state, record.last_number) == (AttemptState.ACCEPTED, 2)
    assert any(getattr(row, "task_id", "") == task for row in world.written)


# --- sessions --------------------------------------------------------------------------------------------------------


def test_the_end_of_an_older_session_ends_nothing() -> None:
    """The stream of a session that was superseded may break at leisure."""
    world, agent, _ = running()
    for name, epoch in (("nobody", agent.epoch), ("a", agent.epoch + 1)):
        world.do(SessionEnded(name, epoch, goodbye=False))
    assert world.state.agents["a"].connectivity is Connectivity.ONLINE
    assert world.state.agents["a"].epoch == agent.epoch


def test_what_an_agent_does_not_list_is_lost_only_once_its_reports_are_in() -> None:
    """The outcome may be among the reports that Hello announced: nothing is lost before the last of them is applied."""
    world, agent, ref = running()
    agent.held.clear()
    world.connect("a", outboxes=[OutboxFacts("box-a", 2, 3)])
    assert world.state_of(ref.task_id) is TaskState.RUNNING
    world.do(ReportsReceived("a", agent.epoch, "box-a", 2, [Report(ref, 2, 0, ReportKind.LOG, False, b"")]))
    assert world.state_of(ref.task_id) is TaskState.RUNNING
    world.do(ReportsReceived("a", agent.epoch, "box-a", 3, [done(ref, 3)]))
    assert world.state_of(ref.task_id) is TaskState.SUCCEEDED
    assert world.kinds(ref.task_id)[-1] == "TASK_SUCCEEDED"
    assert not world.state.agents["a"].replaying


def test_what_the_replay_says_nothing_of_is_lost_at_its_end() -> None:
    """All that Hello announced is applied and the attempt is not in it: it goes elsewhere."""
    world, agent, ref = running()
    agent.held.clear()
    world.connect("a", outboxes=[OutboxFacts("box-a", 2, 2)])
    world.do(ReportsReceived("a", agent.epoch, "box-a", 2, [Report(ref, 2, 0, ReportKind.LOG, False, b"")]))
    assert "TASK_RETRYING" in world.kinds(ref.task_id)
    attempts = world.state.tasks[ref.task_id].strays
    assert [attempt.state for attempt in attempts] == [AttemptState.LOST]


def test_a_replay_of_two_outboxes_ends_with_the_second() -> None:
    """Each outbox that Hello announced must be applied as far as it said."""
    world, agent, ref = running()
    agent.held.clear()
    world.connect("a", outboxes=[OutboxFacts("box-a", 2, 2), OutboxFacts("old", 1, 1)])
    log = Report(ref, 2, 0, ReportKind.LOG, False, b"")
    world.do(ReportsReceived("a", agent.epoch, "box-a", 2, [log]))
    assert world.state_of(ref.task_id) is TaskState.RUNNING
    world.do(ReportsReceived("a", agent.epoch, "old", 1, [log._replace(number=3)]))
    assert "TASK_RETRYING" in world.kinds(ref.task_id)


def test_an_outbox_that_lost_its_beginning_is_passed_with_a_record() -> None:
    """Reports that the agent no longer has are recorded as a gap, durably, and passed (I5)."""
    world, agent, _ = running()
    world.connect("a", outboxes=[OutboxFacts("box-a", 5, 4)])
    assert world.replies[-1].applied == {"box-a": 4}
    (gap,) = world.of(EventType.AGENT_OUTBOX_GAP)
    assert (gap.agent_id, gap.text) == ("a", "outbox box-a: reports 2 to 4 are not there any more")
    assert PutOutbox("a", "box-a", 4) in world.written
    assert not world.state.agents["a"].replaying
    assert agent.epoch == world.state.agents["a"].epoch


@pytest.mark.parametrize(("start_ms", "is_refused"), [(0, True), (1, False), (2, False)])
def test_an_older_process_does_not_take_over(start_ms: int, is_refused: bool) -> None:
    """Of two processes with one name the one that started later has it; while nobody is there, anybody may."""
    world, agent, _ = running()
    epoch = agent.epoch
    world.connect("a", instance_id="other", instance_start_ms=start_ms)
    assert (getattr(world.replies[-1], "reason", "") == "SESSION_SUPERSEDED") is is_refused
    assert (world.state.agents["a"].epoch == epoch) is is_refused
    if is_refused:
        world.do(SessionEnded("a", epoch, goodbye=False))
        world.connect("a", instance_id="other", instance_start_ms=start_ms)
        assert world.state.agents["a"].instance_id == "other"


def test_a_hello_that_comes_behind_a_newer_one_is_refused() -> None:
    """What was said earlier on the same boot lists what is over: it changes nothing, now or later."""
    world = World()
    world.connect("a", boot_id="boot", boot_us=10)
    agent = world.connect("a", boot_id="boot", boot_us=20)
    (task,) = world.submit()
    epoch, held = agent.epoch, dict(agent.held)
    for _ in range(2):
        agent.held.clear()
        world.connect("a", boot_id="boot", boot_us=15)
        assert world.replies[-1].reason == "SESSION_SUPERSEDED"
        assert world.state.tasks[task].attempts_made == 1
        world.do(SessionEnded("a", epoch, goodbye=False))
    agent.held.update(held)
    world.connect("a", boot_id="boot", boot_us=30)
    assert world.state.agents["a"].epoch > epoch


def test_a_hello_of_another_boot_is_not_late() -> None:
    """A machine that has started again counts its time anew, and one that tells no time is never late."""
    world = World()
    world.connect("a", boot_id="boot", boot_us=20)
    for boot in ({"boot_id": "later", "boot_us": 5}, {"boot_id": "later"}, {"boot_id": "later", "boot_us": 1}):
        epoch = world.state.agents["a"].epoch
        world.connect("a", **boot)
        assert world.state.agents["a"].epoch > epoch


def test_the_same_process_may_say_an_older_start() -> None:
    """Only another process is compared: this one comes back whatever it says."""
    world, agent, _ = running()
    epoch = agent.epoch
    world.connect("a", instance_start_ms=0)
    assert world.state.agents["a"].epoch > epoch


def test_an_agent_that_is_removed_leaves_no_row_behind() -> None:
    """Reports and an agent's end in one step: what was applied of its outboxes is forgotten with it."""
    world, agent, ref = running()
    world.do(
        ReportsReceived("a", agent.epoch, "box-a", 2, [done(ref)]),
        AgentOrdered("a", AgentOrder.REMOVE, world.replies.append, force=True),
    )
    assert DeleteAgent("a") in world.written
    assert not [row for row in world.written if isinstance(row, PutOutbox)]
    assert world.ended == {ref.task_id: TaskState.SUCCEEDED}


def test_a_lost_agent_gives_up_what_was_kept_for_its_lease() -> None:
    """An exclusive attempt of an agent that counts as lost is given up; the next one waits until the lease is over."""
    world = World(CoreSettings(lost_after_us=8 * SECOND_US))
    agent = world.connect("a")
    (task,) = world.submit(exclusive=True, disconnect_grace_us=5 * SECOND_US)
    world.start(agent, world.ref(agent, task))
    world.disconnect(agent)
    other = world.connect("b")
    world.wait(9)
    assert world.state.agents["a"].connectivity is Connectivity.LOST
    assert world.state.tasks[task].attempt is None
    assert not other.held
    world.wait(9)
    assert [ref.task_id for ref in other.held] == [task]


def test_a_grace_longer_than_the_loss_goes_on() -> None:
    """People see the agent as lost; the attempt stays its own until its grace is over."""
    world = World(CoreSettings(lost_after_us=8 * SECOND_US))
    agent = world.connect("a")
    (task,) = world.submit(disconnect_grace_us=20 * SECOND_US)
    world.start(agent, world.ref(agent, task))
    world.disconnect(agent)
    world.wait(19)
    assert world.state.agents["a"].connectivity is Connectivity.LOST
    assert world.state_of(task) is TaskState.RUNNING
    world.wait(2)
    assert world.state_of(task) is TaskState.QUEUED


def test_an_agent_counts_as_lost_only_after_an_alarm() -> None:
    """While we suspect ourselves nobody is declared lost; each has its turn after that."""
    world = World(CoreSettings(lost_after_us=8 * SECOND_US))
    agents = [world.connect(name) for name in "abc"]
    for agent in agents:
        world.disconnect(agent)
    assert world.state.watch.is_alarmed
    world.wait(59)
    assert {agent.connectivity for agent in world.state.agents.values()} == {Connectivity.SUSPECT}
    world.wait(3)
    assert {agent.connectivity for agent in world.state.agents.values()} == {Connectivity.LOST}


def test_a_cancelled_stray_that_comes_back_is_stopped_and_ends_the_task() -> None:
    """Nothing replaced it: it is taken back, told to stop, and its end is the cancel (I14)."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.disconnect(agent)
    world.wait(3)
    world.do(CancelRequested([task], "", world.replies.append))
    world.connect("a")
    assert ref in agent.cancelled
    world.fail(agent, ref, Reason.CANCEL_REQUESTED)
    assert world.state_of(task) is TaskState.CANCELLED


def test_a_cancelled_attempt_whose_agent_is_gone_ends_the_task() -> None:
    """Out of contact past its grace: the cancel need not wait for it any longer."""
    world, agent, ref = running()
    world.disconnect(agent)
    world.do(CancelRequested([ref.task_id], "", world.replies.append))
    world.wait(6)
    assert world.state_of(ref.task_id) is TaskState.CANCELLED


def test_a_task_that_failed_while_it_was_to_end_is_over_once_it_is_given_back() -> None:
    """An attempt stopped for good (its run failed) that never started ends the task as the stop says."""
    world = World()
    agent = world.connect("a", 2)
    tasks = world.submit_run(("one", ()), ("two", ()), fails_fast=True)
    world.start(agent, world.ref(agent, tasks["one"]))
    world.fail(agent, world.ref(agent, tasks["one"]))
    ref = world.ref(agent, tasks["two"])
    assert ref in agent.cancelled
    agent.held.pop(ref)
    world.do(AttemptsReturned("a", agent.epoch, [ref], revoked=True))
    assert world.state_of(tasks["two"]) is TaskState.CANCELLED
    assert world.of(EventType.TASK_CANCELLED)[-1].reason == Reason.RUN_FAILED
