"""A terminal report that carries the attempt's start: the same story as a Started and an end, in one message."""

from __future__ import annotations

from dataclasses import replace

import pytest

from outrider.v1 import task_pb2
from outrider.v1 import worker_message_pb2 as pb
from outrider_coordinator.core.events import CancelRequested, Ref, Report, ReportKind, ReportsReceived
from outrider_coordinator.core.model import Attempt
from outrider_coordinator.core.records import InsertEvidence
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.states import Reason, TaskState
from outrider_coordinator.rpc import agent_facts
from support.core_world import World

BEGAN_US = SECOND_US // 2
ENDS = {
    "completed": Report(Ref("", 0, 0), 0, SECOND_US, ReportKind.COMPLETED, True, b"done"),
    "failed for good": Report(Ref("", 0, 0), 0, SECOND_US, ReportKind.FAILED, True, b"boom", "boom"),
    "failed, tried again": Report(
        Ref("", 0, 0), 0, SECOND_US, ReportKind.FAILED, True, b"", "gone", Reason.WORKER_DIED, True
    ),
    "cancelled": Report(Ref("", 0, 0), 0, SECOND_US, ReportKind.FAILED, True, b"", "", Reason.CANCEL_REQUESTED),
    "an unknown end": Report(Ref("", 0, 0), 0, SECOND_US, 0, True, b"?"),
}


def told(end: Report, *, in_one: bool) -> tuple[World, Attempt]:
    """A world in which one of two tasks in line began and ended, and the attempt afterwards."""
    world = World(CoreSettings(lost_attempts_max=2))
    agent = world.connect("a", prefetch_credit=1)
    (warm,) = world.submit()
    world.complete(agent, world.ref(agent, warm))
    task, other = world.submit(2)
    assert {ref.task_id for ref in agent.held} == {task, other}
    ref = world.ref(agent, other)  # the one that stands in line, to see its slot counted
    attempt = agent_attempt(world, ref)
    if end.reason is Reason.CANCEL_REQUESTED:
        world.do(CancelRequested([other], "", world.replies.append))
    started = Report(ref, 1, BEGAN_US, ReportKind.STARTED, False, b"began")
    if in_one:
        reports = [end._replace(ref=ref, number=1, start=(BEGAN_US, b"began"))]
    else:
        reports = [started, end._replace(ref=ref, number=2)]
    world.do(ReportsReceived("a", agent.epoch, "box-a", agent.seq + 1, reports))
    return world, attempt


def agent_attempt(world: World, ref: Ref) -> Attempt:
    """The core's record of an attempt."""
    return world.state.agents["a"].attempts[ref.task_id, ref.attempt]


@pytest.mark.parametrize("name", ENDS)
def test_one_message_tells_what_two_told(name: str) -> None:
    """Events, states, attempt, slots and learned duration are those of a Started followed by the end."""
    (one, attempt), (two, attempt_of_two) = told(ENDS[name], in_one=True), told(ENDS[name], in_one=False)
    assert one.log == two.log
    assert one.ended == two.ended
    assert replace(attempt, last_number=0) == replace(attempt_of_two, last_number=0)
    assert attempt.started_us == BEGAN_US
    assert one.state.durations_us == two.state.durations_us
    agent, other = one.state.agents["a"], two.state.agents["a"]
    assert (agent.slots_used, list(agent.ahead)) == (other.slots_used, list(other.ahead))
    assert [(task.id, task.state, task.start_us) for task in one.state.tasks.values()] == [
        (task.id, task.state, task.start_us) for task in two.state.tasks.values()
    ]


def test_a_start_counts_once() -> None:
    """A terminal message that carries a start although a Started came before changes nothing of it."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    world.start(agent, ref)
    attempt = agent_attempt(world, ref)
    world.complete(agent, ref, start=(5, b"again"))
    assert attempt.started_us == SECOND_US
    assert world.kinds(task).count("TASK_STARTED") == 1


def test_a_refused_message_is_refused_whole() -> None:
    """Under a foreign fence neither the start nor the end counts, and one piece of evidence is kept."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    ref = world.ref(agent, task)
    report = Report(ref._replace(fence=1), 1, SECOND_US, ReportKind.COMPLETED, True, b"x", start=(5, b""))
    effects = world.do(ReportsReceived("a", agent.epoch, "box-a", 1, [report]))
    assert [type(row) for row in effects.inserts] == [InsertEvidence]
    assert not effects.events
    assert world.state_of(task) is TaskState.ASSIGNED


def test_a_start_is_read_from_terminal_messages_only() -> None:
    """The wire's `start` reaches the core with every kind of end, and with nothing else."""
    start = pb.Start(started=pb.Started(worker_pid=7))
    start.event_time.FromMicroseconds(BEGAN_US)
    expected = (BEGAN_US, pb.Started(worker_pid=7).SerializeToString())
    failed = pb.Failed(error=task_pb2.TaskError(message="boom"))
    ends = (
        pb.WorkerMessage(start=start, terminal=True, completed=pb.Completed()),
        pb.WorkerMessage(start=start, terminal=True, failed=failed),
        pb.WorkerMessage(start=start, terminal=True),
    )
    assert [agent_facts.report(message).start for message in ends] == [expected] * 3
    others = (
        pb.WorkerMessage(start=start, progress=task_pb2.Progress()),
        pb.WorkerMessage(start=start, log=pb.Log()),
        pb.WorkerMessage(start=start, started=pb.Started()),
        pb.WorkerMessage(start=start, blocked=task_pb2.BlockedReason(key="q")),
        pb.WorkerMessage(start=start),
    )
    assert [agent_facts.report(message).start for message in others] == [None] * 5
    assert agent_facts.report(pb.WorkerMessage(terminal=True, completed=pb.Completed())).start is None


def test_a_start_on_a_message_that_is_not_the_last_is_ignored() -> None:
    """The core applies the start of a terminal report alone."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit()
    world.report(agent, world.ref(agent, task), ReportKind.PROGRESS, body=b"half", start=(5, b""))
    assert "TASK_STARTED" not in world.kinds(task)
