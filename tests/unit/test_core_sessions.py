"""Sessions, losses and reports in the core, one claim each, over model agents and an injected time."""

from __future__ import annotations

from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    AttemptsReturned,
    HeartbeatReceived,
    Ref,
    ReportKind,
    SessionEnded,
)
from outrider_coordinator.core.model import HostFacts
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.state import TimerKind
from outrider_coordinator.core.states import AttemptState, BreakerState, Connectivity, TaskState
from support.core_world import World


def test_a_lost_agents_work_goes_elsewhere_after_the_grace_and_not_before() -> None:
    """Contact lost: the attempt stays for disconnect_grace, then another agent gets the task (I2)."""
    world = World()
    lost, other = world.connect("a"), world.connect("b")
    (task,) = world.submit(disconnect_grace_us=5 * SECOND_US)
    world.start(lost, world.ref(lost, task))
    world.disconnect(lost)
    world.wait(4.9)
    assert not other.held
    world.wait(0.2)
    assert [ref.task_id for ref in other.held] == [task]


def test_the_first_success_wins_also_that_of_a_stray() -> None:
    """An attempt out of contact past its grace that succeeded first decides the task; the newer one is fenced."""
    world = World()
    lost, other = world.connect("a"), world.connect("b")
    (task,) = world.submit()
    ref = world.ref(lost, task)
    world.start(lost, ref)
    world.disconnect(lost)
    world.wait(6)
    second = world.ref(other, task)
    lost.held[ref] = AttemptState.CLOSED
    world.connect("a")
    world.complete(lost, ref)
    assert world.state_of(task) is TaskState.SUCCEEDED
    assert second in other.cancelled


def test_a_stray_that_still_runs_is_fenced_when_it_comes_back() -> None:
    """After its task went elsewhere an old attempt that still runs is told to stop."""
    world = World()
    lost, _ = world.connect("a"), world.connect("b")
    (task,) = world.submit()
    world.start(lost, world.ref(lost, task))
    world.disconnect(lost)
    world.wait(6)
    world.connect("a")
    assert not lost.held


def test_a_session_that_comes_back_in_time_keeps_its_work() -> None:
    """A reconnect within the grace resumes the attempt; nothing runs again."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.disconnect(agent)
    world.wait(1)
    world.connect("a")
    world.wait(30)
    assert ref in agent.held
    world.connect("a")
    world.complete(agent, ref)
    assert world.state_of(task) is TaskState.SUCCEEDED
    assert world.kinds(task).count("TASK_ASSIGNED") == 1


def test_an_assignment_that_never_arrived_is_offered_again_uncounted() -> None:
    """An attempt the agent does not list and that never started is given back without using up a try."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    agent.held.clear()
    world.disconnect(agent)
    world.connect("a")
    assert world.state.tasks[task].attempts_made == 2
    assert world.state.tasks[task].attempts_counted == 0


def test_a_taken_name_is_refused_for_another_machine() -> None:
    """A different machine that asks for a registered agent name is refused with what to do."""
    world = World()
    world.connect("a")
    world.connect("a", machine_id="other")
    assert world.replies[-1].reason == "AGENT_NAME_TAKEN"
    assert "--name" in world.replies[-1].message


def test_a_removed_agents_work_goes_elsewhere_at_once() -> None:
    """Removing an agent by force loses its attempts at once; without force it is refused while online."""
    world = World()
    gone, other = world.connect("a"), world.connect("b")
    (task,) = world.submit()
    world.do(AgentOrdered("a", AgentOrder.REMOVE, world.replies.append))
    assert world.replies[-1].reason == "ILLEGAL_TRANSITION"
    world.do(AgentOrdered("a", AgentOrder.REMOVE, world.replies.append, force=True))
    assert gone.held
    assert [ref.task_id for ref in other.held] == [task]


def test_a_silent_agent_becomes_suspect_without_the_stream_ending() -> None:
    """An agent that is not heard for suspect_after is suspect; its work follows the grace."""
    world = World()
    silent, other = world.connect("a"), world.connect("b")
    (task,) = world.submit()
    world.start(silent, world.ref(silent, task))
    silent.silent = True
    world.wait(12)
    assert [ref.task_id for ref in other.held] == [task]


def test_reports_under_a_foreign_fence_change_nothing() -> None:
    """A report whose fence is not that of the attempt is kept as evidence and acknowledged (I4)."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    effects = world.report(agent, Ref(task, ref.attempt, ref.fence + 1), ReportKind.COMPLETED, body=b"forged")
    assert world.state_of(task) is TaskState.ASSIGNED
    assert effects.inserts[0].cause == "foreign fence"
    assert effects.acks


def test_a_strays_late_start_does_not_disturb_the_newer_attempt() -> None:
    """A replayed Started of an attempt that was given up leaves the task with its newer attempt."""
    world = World()
    lost, other = world.connect("a"), world.connect("b")
    (task,) = world.submit()
    ref = world.ref(lost, task)
    world.start(lost, ref)
    world.disconnect(lost)
    world.wait(6)
    lost.held[ref] = AttemptState.CLOSED
    world.connect("a")
    world.start(lost, ref)
    current = world.state.tasks[task].attempt
    assert current is not None
    assert current.agent_id == other.id


def test_reconnects_leave_one_silence_timer() -> None:
    """An agent that reconnects often is watched by one timer, not by one per session."""
    world = World()
    agent = world.connect("a")
    for _ in range(5):
        world.disconnect(agent)
        world.connect("a")
    world.wait(7)
    assert sum(timer[2] is TimerKind.SILENCE for timer in world.state.timers) == 1


def test_a_replayed_frame_is_acknowledged_and_applied_once() -> None:
    """Seqs at or below the applied one change nothing; the acknowledgement is sent again (I5)."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.start(agent, ref)
    agent.seq -= 1
    agent.numbers[ref] = 5
    effects = world.report(agent, ref, ReportKind.PROGRESS, body=b"again")
    assert world.state.tasks[task].progress == b""
    assert next(iter(effects.acks.values())).applied_seq == 1


def test_a_strays_failure_decides_nothing() -> None:
    """When the old attempt of a lost agent fails later, the task keeps its place and its tries."""
    world = World()
    lost = world.connect("a")
    (task,) = world.submit(max_attempts=2)
    ref = world.ref(lost, task)
    world.start(lost, ref)
    world.disconnect(lost)
    world.wait(6)
    world.wait(1)
    lost.held[ref] = AttemptState.CLOSED
    world.connect("a")
    (replacement,) = [held for held in lost.held if held != ref]
    world.fail(lost, ref)
    assert world.state.tasks[task].attempts_counted == 1
    world.complete(lost, replacement)
    assert world.state_of(task) is TaskState.SUCCEEDED


def test_an_agent_that_leaves_is_offered_nothing_and_not_blamed() -> None:
    """From the heartbeat that says so on it gets no work, and giving back what was on its way is no failure."""
    world = World()
    leaving = world.connect("a", slots=8)
    world.do(HeartbeatReceived("a", leaving.epoch, HostFacts(is_leaving=True), workers_changed=True))
    tasks = world.submit(4)
    assert {world.state_of(task) for task in tasks} == {TaskState.QUEUED}
    world.do(HeartbeatReceived("a", leaving.epoch, HostFacts(), workers_changed=True))
    tasks += world.submit(8)
    refs = list(leaving.held)
    assert len(refs) == 8
    world.do(HeartbeatReceived("a", leaving.epoch, HostFacts(is_leaving=True), workers_changed=True))
    world.do(AttemptsReturned("a", leaving.epoch, refs, revoked=False, message="draining"))
    assert world.state.agents["a"].breaker.state is BreakerState.CLOSED
    assert {world.state_of(task) for task in tasks} == {TaskState.QUEUED}


def test_a_goodbye_gives_back_what_was_offered_at_once() -> None:
    """What an agent had not taken when it left on purpose waits for no grace."""
    world = World()
    leaving, other = world.connect("a", slots=2), world.connect("b")
    world.do(AgentOrdered("b", AgentOrder.PAUSE, world.replies.append))
    (task,) = world.submit()
    world.ref(leaving, task)
    world.do(SessionEnded("a", leaving.epoch, goodbye=True))
    world.do(AgentOrdered("b", AgentOrder.RESUME, world.replies.append))
    assert world.state.agents["a"].connectivity is Connectivity.LEFT
    assert [ref.task_id for ref in other.held] == [task]
