"""Agents that come back, give back and leave, to the last word: what of theirs is taken, kept, fenced or looked at."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.effects import PushControl
from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    AttemptsReturned,
    OutboxFacts,
    Ref,
    Report,
    ReportKind,
    ReportsReceived,
    SessionEnded,
)
from outrider_coordinator.core.records import InsertEvidence, PutAttempt
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US, Claim, Constraint, Demands, Operator
from outrider_coordinator.core.states import AttemptState, Blame, EventType, TaskState
from support.attempts_begun import record, running
from support.core_world import World
from support.limit_world import submit as submit_claims
from support.telling import begin

# --- agents ----------------------------------------------------------------------------------------------------------


def test_several_given_back_at_once_are_all_given_back() -> None:
    """A stale one among them is passed over; a refusal is the agent's, each of them."""
    world = World()
    agent = world.connect("a", 3)
    tasks = world.submit(3)
    refs = [world.ref(agent, task) for task in tasks]
    agent.held.clear()
    world.do(AgentOrdered("a", AgentOrder.PAUSE, world.replies.append))
    stale = refs[0]._replace(fence=1)
    world.do(AttemptsReturned("a", agent.epoch, [stale, *refs[1:]], revoked=False, message="no room"))
    rows = [row for row in world.written if isinstance(row, PutAttempt)]
    assert [(row.state, row.blame) for row in rows] == [(AttemptState.REJECTED, Blame.AGENT)] * 2
    world.do(AttemptsReturned("a", agent.epoch, refs[:1], revoked=True))
    rows = [row for row in world.written if isinstance(row, PutAttempt)]
    assert [(row.state, row.blame) for row in rows] == [(AttemptState.REVOKED, Blame.NONE)]


@pytest.mark.parametrize(("passed_us", "left_us"), [(0, 6_000_000), (5_999_998, 2), (5_999_999, 1), (9_000_000, 1)])
def test_a_drain_that_is_over_leaves_a_moment(passed_us: int, left_us: int) -> None:
    """What is left travels with the order, a margin more than ours; never 0, which would mean any time."""
    world = World()
    world.connect("a")
    world.do(AgentOrdered("a", AgentOrder.DRAIN, world.replies.append, timeout_us=SECOND_US))
    world.now_us += passed_us
    world.connect("a")
    told = [send for send in world.sent if isinstance(send, PushControl)][-1]
    assert (told.order, told.timeout_us) == (AgentOrder.DRAIN, left_us)


def test_a_deadline_of_a_drain_that_was_called_off_moves_nothing() -> None:
    """Resumed, or drained anew for as long as it takes."""
    for after in (AgentOrder.RESUME, AgentOrder.DRAIN):
        world, agent, _ = running()
        world.do(AgentOrdered("a", AgentOrder.DRAIN, world.replies.append, timeout_us=SECOND_US))
        world.do(AgentOrdered("a", after, world.replies.append))
        world.wait(3)
        assert not agent.cancelled
    world, agent, _ = running()
    world.do(AgentOrdered("a", AgentOrder.DRAIN, world.replies.append))
    assert not [timer for timer in world.state.timers if timer[2].name == "DRAIN"]


def test_what_another_agent_holds_is_no_business_of_this_one() -> None:
    """An attempt is known by its number, its fence and its agent; what is closed and unknown is closed."""
    world, agent, (ref,) = running()
    other = world.connect("b")
    other.held[ref] = AttemptState.STARTED
    other.held[Ref("gone", 1, 1)] = AttemptState.CLOSED
    other.held[Ref("lost", 1, 1)] = AttemptState.STARTED
    world.connect("b")
    verdicts = {verdict[0]: verdict[3] for verdict in world.replies[-1].verdicts}
    assert verdicts == {ref.task_id: 2, "gone": 3, "lost": 2}
    assert ref in agent.held


def test_a_stray_comes_back_to_what_it_held_itself() -> None:
    """Its own waits' limits count as well: taken by somebody else meanwhile, it cannot."""
    world = World()
    agent, other = world.connect("a", 2), world.connect("b", 2)
    world.do(AgentOrdered("b", AgentOrder.PAUSE, world.replies.append))
    (task,) = submit_claims(world, "x")
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, "y", "resource", claim=Claim("y"))
    world.unblock(agent, ref, "y")
    world.disconnect(agent)
    world.wait(6)
    world.do(AgentOrdered("b", AgentOrder.RESUME, world.replies.append))
    assert world.ref(other, task)
    assert world.state.limits.pools.keys() == {("default", "x")}


def test_a_stray_comes_back_only_to_what_it_had_got_besides() -> None:
    """A limit that it had waited for and got is somebody else's by now: it is fenced, though nobody replaced it."""
    world = World()
    agent, other = world.connect("a", 2, labels={"own": "yes"}), world.connect("b", 2)
    (task,) = world.submit(demands=Demands((Constraint("own", Operator.EXISTS),)))
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.block(agent, ref, "y", "resource", claim=Claim("y"))
    world.unblock(agent, ref, "y")
    world.disconnect(agent)
    world.wait(6)
    submit_claims(world, "y")
    begin(world, other)
    agent.held[ref] = AttemptState.STARTED
    world.connect("a", 2, labels={"own": "yes"})
    assert {verdict[0]: verdict[3] for verdict in world.replies[-1].verdicts} == {task: 2}


def test_a_loss_is_counted_from_the_last_time_contact_was_lost() -> None:
    """The timer of an earlier silence makes nobody LOST."""
    world = World(CoreSettings(lost_after_us=8 * SECOND_US))
    agent = world.connect("a")
    world.disconnect(agent)
    world.wait(5)
    world.connect("a")
    world.disconnect(agent)
    world.wait(5)
    assert world.state.agents["a"].connectivity.name == "SUSPECT"
    world.wait(4)
    assert world.state.agents["a"].connectivity.name == "LOST"


def test_a_reboot_is_no_strike_for_what_had_not_started() -> None:
    """A task that runs at most once was taken, and may have started: it is over, and has killed nothing."""
    world = World()
    agent = world.connect("a", boot_id="b1")
    (task,) = world.submit(at_most_once=True)
    world.report(agent, world.ref(agent, task), ReportKind.TAKEN)
    agent.held.clear()
    deaths = world.state.tasks[task]
    world.connect("a", boot_id="b2")
    assert (world.ended[task], deaths.worker_deaths) == (TaskState.FAILED, 0)


def test_a_queue_timeout_is_not_for_a_second_try() -> None:
    """A task that waits for its backoff has started before."""
    world, agent, (ref,) = running(queue_timeout_us=5 * SECOND_US, max_attempts=2, initial_backoff_us=9 * SECOND_US)
    world.fail(agent, ref)
    world.wait(7)
    assert world.state_of(ref.task_id) is TaskState.PENDING


def test_a_try_that_nobody_knows_beside_one_that_was_lost_is_evidence() -> None:
    """A report of another number or of another agent is not that of the stray."""
    world, agent, (ref,) = running()
    other = world.connect("b")
    for name in "ab":
        world.do(AgentOrdered(name, AgentOrder.PAUSE, world.replies.append))
    world.disconnect(agent)
    world.wait(6)
    agent.held[ref] = AttemptState.CLOSED
    world.connect("a")
    assert [stray.number for stray in world.state.tasks[ref.task_id].strays] == [1]
    for one, number in ((agent, 9), (other, 1)):
        report = Report(ref._replace(attempt=number), 9, 0, ReportKind.COMPLETED, True, b"")
        world.do(ReportsReceived(one.id, one.epoch, "new", 1, [report]))
        causes = [row.cause for row in world.written if isinstance(row, InsertEvidence)]
        assert causes == ["no open attempt"]


def test_news_of_one_outbox_end_no_replay_of_another() -> None:
    """What Hello announced of an old outbox is waited for, whatever comes in the new one."""
    world, agent, (ref,) = running()
    agent.held.clear()
    world.connect("a", outboxes=[OutboxFacts("old", 1, 1)])
    log = Report(ref, 2, 0, ReportKind.LOG, False, b"")
    world.do(ReportsReceived("a", agent.epoch, "box-a", 2, [log]))
    assert world.state.agents["a"].replaying == {"old": 1}
    assert world.state_of(ref.task_id) is TaskState.RUNNING


def test_a_stray_with_write_scopes_comes_back_to_them() -> None:
    """Nobody writes there meanwhile: it goes on where it was."""
    world, agent, (ref,) = running(demands=Demands(scopes=("src/*",)))
    world.disconnect(agent)
    world.wait(6)
    agent.held[ref] = AttemptState.STARTED
    world.connect("a")
    assert world.state_of(ref.task_id) is TaskState.RUNNING
    assert record(world, ref.task_id).number == 1


def test_an_older_session_is_ended_by_name() -> None:
    """The one that is superseded hears that a newer one took over."""
    world = World(CoreSettings())
    world.connect("a")
    world.do(SessionEnded("a", world.agents["a"].epoch, goodbye=True, message="bye"))
    assert [event.agent_id for event in world.of(EventType.AGENT_LEFT)] == ["a"]


def test_what_ended_in_a_replay_is_not_moved() -> None:
    """A restored store has forgotten a wait: its attempt is over when the replay is, and there is nothing to move."""
    world, agent, (ref,) = running()
    world.state.store_id = "s"
    world.disconnect(agent)
    agent.seq += 5
    agent.held[ref] = AttemptState.BLOCKED
    world.connect("a", outboxes=[OutboxFacts("box-a", agent.seq + 1, agent.seq + 1)])
    world.complete(agent, ref)
    assert world.ended == {ref.task_id: TaskState.SUCCEEDED}
    assert not agent.cancelled
