"""What Outrider promises when its processes are killed, with real daemons and tasks that keep their own record."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue

import grpc
import psutil
import pytest

from outrider.v1 import event_pb2, fleet_service_pb2, task_pb2, task_service_pb2, task_service_pb2_grpc
from outrider.v1.worker_message_pb2 import Log
from support.agent_process import AgentProcess, is_gone
from support.daemons import Daemons, command, function, reason_name, refusal, state_name
from support.waiting import eventually, pass_time
from support.witness import MODULE, Gate, Witness, family_script, lines_of, talking_command, tell

OUTAGE_S = 3
COMMAND_S = 20
QUEUED = 500
RUNNING = 4
LINES = 400


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    """A coordinator; agents as the test starts them."""
    with Daemons(tmp_path) as running:
        yield running


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    """What tasks write their starts to."""
    return Witness(tmp_path)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """What tasks wait at."""
    made = Gate(tmp_path)
    yield made
    made.close()


def survives_an_outage(daemons: Daemons, witness: Witness, long_command: list[str], back: Callable[[], None]) -> None:
    """Queue 500 behind 4 commands, kill the coordinator, restart it after 3 s; everything starts exactly once."""
    agents = [daemons.agent("a"), daemons.agent("b")]
    running = daemons.submit(*[command(witness.command(*long_command))] * RUNNING)
    eventually(lambda: len(witness.starts()) == RUNNING)
    eventually(lambda: daemons.states() == ["RUNNING"] * RUNNING)
    queued = daemons.submit(*[function(f"{MODULE}:stamp", str(witness.path))] * QUEUED)
    assert Counter(daemons.states()) == {"QUEUED": QUEUED, "RUNNING": RUNNING}
    daemons.coordinator.kill()
    pass_time(OUTAGE_S)
    daemons.coordinator.start()
    back()
    ended = daemons.ended(*running, *queued, timeout_s=90)
    assert Counter(state_name(task.state) for task in ended) == {"SUCCEEDED": QUEUED + RUNNING}
    assert Counter(witness.started()) == dict.fromkeys([*running, *queued], 1)
    assert {task.attempts[-1].number for task in ended[:RUNNING]} == {1}
    assert {agent.process.poll() for agent in agents} == {None}


def test_a_killed_coordinator_re_runs_nothing(daemons: Daemons, witness: Witness, gate: Gate) -> None:
    """kill -9 with 500 tasks queued and 4 commands running: all 504 succeed, each started exactly once."""
    survives_an_outage(daemons, witness, gate.command(), lambda: gate.open(RUNNING))


def test_commands_of_20_s_outlast_a_killed_coordinator(daemons: Daemons, witness: Witness) -> None:
    """The same with commands that really run for 20 s."""
    survives_an_outage(daemons, witness, ["sleep", str(COMMAND_S)], lambda: None)


def progress_of(events: list[event_pb2.Event], task_id: str) -> list[float]:
    """Every step of progress in the log of a task."""
    steps = [event for event in events if event.type == event_pb2.EVENT_TYPE_TASK_PROGRESS]
    return [event.progress.completed for event in steps if event.task_id == task_id]


def kill_link(agent: AgentProcess) -> None:
    """kill -9 of the link; returns when the keeper has another."""
    link = agent.link()
    link.kill()
    eventually(lambda: agent.link() != link)


def test_a_killed_link_loses_no_message(daemons: Daemons, witness: Witness, gate: Gate) -> None:
    """kill -9 of the link, again and again: nothing is re-run, every line and step is there once and in order."""
    agent = daemons.agent("a", 4)
    talk = function(f"{MODULE}:talk", str(witness.path), str(gate.path), LINES)
    functions = daemons.submit(talk, talk)
    commands = daemons.submit(*[command(talking_command(witness, gate, LINES))] * 2)
    eventually(lambda: daemons.states() == ["RUNNING"] * 4)
    kill_link(agent)
    gate.open(4)
    for _ in range(3):
        kill_link(agent)
    events = daemons.events([*functions, *commands])
    said = "".join(f"{line}\n" for line in lines_of(LINES)).encode()
    for task_id in functions:
        assert daemons.output(task_id, Log.STREAM_LOG) == said
        assert daemons.output(task_id, Log.STREAM_STDOUT) == said
        assert progress_of(events, task_id) == list(range(1, LINES + 1))
    for task_id in commands:
        assert daemons.output(task_id, Log.STREAM_STDOUT) == said
        assert progress_of(events, task_id) == list(range(50, LINES + 1, 50))
    for task_id in (*functions, *commands):
        task = daemons.get(task_id)
        assert (state_name(task.state), [one.number for one in task.attempts]) == ("SUCCEEDED", [1])
    assert Counter(witness.started()) == dict.fromkeys([*functions, *commands], 1)


def test_a_killed_agents_work_goes_elsewhere(daemons: Daemons, witness: Witness, gate: Gate) -> None:
    """kill -9 of keeper and link: everything it started is dead within 2 s, and another agent does the work.

    With the link gone too, and no cgroup, that is the workers' doing, who see the end of their sockets: it covers them
    and the process groups of their commands. What has left its group is swept by the next start.
    """
    doomed = daemons.agent("doomed", 3)
    grace = {"seconds": 1}
    spec = {"disconnect_grace": grace, "retry": {"max_attempts": 3, "initial_backoff": {"nanos": 1_000_000}}}
    waits = function(f"{MODULE}:stamp_and_wait", str(witness.path), str(gate.path), **spec)
    task_ids = daemons.submit(waits, waits, command(witness.command(*gate.command()), **spec))
    eventually(lambda: daemons.states() == ["RUNNING"] * 3 and len(witness.starts()) == 3)
    pids = witness.pids()
    link = doomed.link()
    link.suspend()  # or it would sweep, or be done with that, before it is killed
    doomed.kill()
    link.kill()
    eventually(
        lambda: all(is_gone(pid) for pid in pids) and not doomed.survivors(),
        2,
        what=lambda: f"all gone; left are {[pid for pid in pids if not is_gone(pid)]} and {doomed.survivors()}",
    )
    daemons.agent("other", 3)
    eventually(lambda: len(witness.starts()) == 6)
    assert {daemons.get(task_id).attempts[0].state for task_id in task_ids} == {task_pb2.ATTEMPT_STATE_LOST}
    gate.open(3)
    for task in daemons.ended(*task_ids):
        assert state_name(task.state) == "SUCCEEDED"
        assert [(one.number, one.agent_id) for one in task.attempts] == [(1, "doomed"), (2, "other")]
        assert reason_name(task.attempts[0].error.reason) == "AGENT_LOST"
    starts = sorted((start.task_id, start.attempt) for start in witness.starts())
    assert starts == sorted((task_id, attempt) for task_id in task_ids for attempt in (1, 2))


@pytest.mark.parametrize("last", ["exec sleep 1000", "trap 'exit 0' TERM; sleep 1000 & wait"])
def test_cancel_means_dead(daemons: Daemons, tmp_path: Path, last: str) -> None:
    """Cancel kills the whole process tree, background and daemonised; exiting with 0 on SIGTERM changes nothing."""
    daemons.agent("a", 1)
    pids = tmp_path / "pids"
    pids.touch()
    (task_id,) = daemons.submit(command(["sh", "-c", family_script(pids, [last])]))
    eventually(lambda: len(pids.read_text().splitlines()) == 5)
    everyone = [int(line) for line in pids.read_text().split()]
    assert not any(is_gone(pid) for pid in everyone)
    reply = daemons.coordinator.tasks.Cancel(task_service_pb2.CancelRequest(task_id=task_id), timeout=20)
    assert reply.cancelled
    eventually(lambda: all(is_gone(pid) for pid in everyone))
    (task,) = daemons.ended(task_id)
    assert state_name(task.state) == "CANCELLED"
    assert not task.HasField("result")
    after = function(f"{MODULE}:lines_of", 1)
    assert state_name(daemons.ended(*daemons.submit(after))[0].state) == "SUCCEEDED"
    again = daemons.coordinator.tasks.Cancel(task_service_pb2.CancelRequest(task_id=task_id), timeout=20)
    assert (again.cancelled, state_name(again.state)) == (True, "CANCELLED")
    assert state_name(daemons.get(task_id).state) == "CANCELLED"


def test_a_completion_that_comes_too_late_changes_nothing(daemons: Daemons, witness: Witness, gate: Gate) -> None:
    """Cancelled while its agent's link is frozen, a command that succeeds meanwhile stays CANCELLED."""
    agent = daemons.agent("a", 1)
    (task_id,) = daemons.submit(command(witness.command(*gate.command())))
    eventually(lambda: daemons.states() == ["RUNNING"])
    (pid,) = eventually(witness.pids)
    link = agent.link()
    link.suspend()
    reply = daemons.coordinator.tasks.Cancel(task_service_pb2.CancelRequest(task_id=task_id), timeout=20)
    assert (reply.cancelled, state_name(reply.state)) == (True, "CANCELLING")
    gate.open()
    eventually(lambda: is_gone(pid))
    link.resume()
    (task,) = daemons.ended(task_id)
    assert state_name(task.state) == "CANCELLED"
    assert not task.HasField("result")


def test_waiting_tasks_give_their_slots_to_those_they_wait_for(
    daemons: Daemons, witness: Witness, tmp_path: Path
) -> None:
    """On two slots, both taken by tasks that wait for later ones, which wait for later ones, all of them end."""
    daemons.agent("a", 2)
    pipes = [tmp_path / f"pipe{number}" for number in range(6)]
    for pipe in pipes:
        os.mkfifo(pipe)
    task_ids: list[str] = []
    for first in (0, 2, 4):
        pair = [function(f"{MODULE}:wait_for_told", str(witness.path), str(pipe)) for pipe in pipes[first : first + 2]]
        task_ids += daemons.submit(*pair)
        if first:
            tell(pipes[first - 2], task_ids[first])
            tell(pipes[first - 1], task_ids[first + 1])
        eventually(lambda expected=first + 2: len(witness.starts()) == expected)
    eventually(lambda: Counter(daemons.states()) == {"BLOCKED": 4, "RUNNING": 2})
    tell(pipes[4], "")
    tell(pipes[5], "")
    tasks = daemons.ended(*task_ids)
    assert [(state_name(task.state), len(task.attempts)) for task in tasks] == [("SUCCEEDED", 1)] * 6
    assert [task.result.data for task in tasks] == [b"2", b"2", b"1", b"1", b"0", b"0"]


def outcome(call: grpc.Future) -> str:
    """What became of a submit: its task's id, or the reason of the refusal; none where the port was closed already."""
    try:
        return str(call.result(30).task_id)
    except grpc.RpcError as error:
        return refusal(error).reason if error.trailing_metadata() else error.code().name


def test_sigterm_of_the_coordinator_answers_what_is_under_way(daemons: Daemons, witness: Witness, gate: Gate) -> None:
    """Every submit under way is accepted or refused and never forgotten; it exits 0, quickly; work goes on."""
    daemons.agent("a", 1)
    (running,) = daemons.submit(command(witness.command(*gate.command())))
    eventually(lambda: daemons.states() == ["RUNNING"])
    with grpc.insecure_channel(daemons.address) as channel:
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        watch = stub.Watch(task_service_pb2.WatchRequest(after_cursor=0), timeout=60)
        next(iter(watch))
        spec = function(f"{MODULE}:lines_of", 1)
        calls = [stub.Submit.future(task_service_pb2.SubmitRequest(spec=spec), timeout=60) for _ in range(300)]
        calls[0].result(30)
        began_s = time.monotonic()
        assert daemons.coordinator.stop() == 0
        assert time.monotonic() - began_s < 10
        outcomes = Counter(outcome(call) for call in calls)
    accepted = set(outcomes) - {"DRAINING", "UNAVAILABLE"}
    assert accepted
    daemons.coordinator.start()
    page = daemons.coordinator.tasks.List(task_service_pb2.ListRequest(page_size=1000), timeout=20)
    assert {task.id for task in page.tasks} == {running, *accepted}
    gate.open()
    ended = daemons.ended(running, *accepted)
    assert {state_name(task.state) for task in ended} == {"SUCCEEDED"}
    assert witness.started() == [running]


def reason_of_end(stream: Iterable[object]) -> str:
    """The reason with which a stream ends."""
    with pytest.raises(grpc.RpcError) as caught:
        for _ in stream:
            pass
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return refusal(caught.value).reason


def test_sigterm_of_the_coordinator_ends_streams_with_a_reason(daemons: Daemons) -> None:
    """A stream of submits has its frames answered first; it, a watch and followed logs end with DRAINING, at once."""
    (task_id,) = daemons.submit(function(f"{MODULE}:lines_of", 1))
    frames: SimpleQueue[task_service_pb2.SubmitStreamRequest | None] = SimpleQueue()
    spec = function(f"{MODULE}:lines_of", 1)
    frame = task_service_pb2.Submissions(tasks=[task_service_pb2.SubmitRequest(spec=spec)] * 100)
    with grpc.insecure_channel(daemons.address) as channel:
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        submits = stub.SubmitStream(iter(frames.get, None), timeout=60)
        watch = stub.Watch(task_service_pb2.WatchRequest(), timeout=60)
        logs = stub.ReadLogs(task_service_pb2.ReadLogsRequest(task_id=task_id, follow=True), timeout=60)
        next(watch)
        for _ in range(20):
            frames.put(task_service_pb2.SubmitStreamRequest(submissions=frame))
        answered = list(next(submits).results.results)
        began_s = time.monotonic()
        assert daemons.coordinator.stop() == 0
        assert time.monotonic() - began_s < 5
        ends = [reason_of_end(answered.extend(frame.results.results) for frame in submits)]
        ends += [reason_of_end(stream) for stream in (watch, logs)]
        frames.put(None)
    assert ends == ["DRAINING"] * 3
    assert {result.refused.reason for result in answered} <= {"", "DRAINING"}
    accepted = {result.accepted.task_id for result in answered if result.HasField("accepted")}
    daemons.coordinator.start()
    request = task_service_pb2.ListRequest(page_size=1000)
    pages = [daemons.coordinator.tasks.List(request, timeout=20)]
    while pages[-1].next_page_token:
        request.page_token = pages[-1].next_page_token
        pages.append(daemons.coordinator.tasks.List(request, timeout=20))
    assert {task.id for page in pages for task in page.tasks} == {task_id, *accepted}


def test_sigterm_of_an_agent_lets_work_finish(daemons: Daemons, witness: Witness, gate: Gate) -> None:
    """A running function and a running command end with success, what waits goes elsewhere, the exit code is 0."""
    agent = daemons.agent("a", 2)
    waits = function(f"{MODULE}:stamp_and_wait", str(witness.path), str(gate.path))
    running = daemons.submit(waits, command(witness.command(*gate.command())))
    eventually(lambda: daemons.states() == ["RUNNING"] * 2)
    (waiting,) = daemons.submit(function(f"{MODULE}:stamp", str(witness.path)))
    tree = agent.tree()
    agent.terminate()
    request = fleet_service_pb2.GetAgentRequest(agent_id="a")
    eventually(lambda: daemons.coordinator.fleet.GetAgent(request, timeout=20).agent.status == "draining")
    gate.open()
    eventually(lambda: Counter(daemons.states()) == {"SUCCEEDED": 1, "RUNNING": 1, "QUEUED": 1})
    assert agent.process.poll() is None
    assert not daemons.get(waiting).attempts
    gate.open()
    for task in daemons.ended(*running):
        assert (state_name(task.state), len(task.attempts)) == ("SUCCEEDED", 1)
    assert agent.wait() == 0
    eventually(lambda: all(is_gone(process.pid) for process in tree), 3)
    daemons.agent("b", 1)
    (task,) = daemons.ended(waiting)
    assert (state_name(task.state), [one.agent_id for one in task.attempts]) == ("SUCCEEDED", ["b"])


def test_an_accepted_submit_outlives_a_kill_at_once(daemons: Daemons) -> None:
    """Submit OK, kill -9, restart: the task is there, and the same request id gives it again, not a second one."""
    for number in range(3):
        request = task_service_pb2.SubmitRequest(request_id=f"r{number}", spec=function(f"{MODULE}:lines_of", number))
        first = daemons.coordinator.tasks.Submit(request, timeout=20)
        daemons.coordinator.kill()
        daemons.coordinator.start()
        again = daemons.coordinator.tasks.Submit(request, timeout=20)
        assert (first.created, again.created, again.task_id) == (True, False, first.task_id)
    other = task_service_pb2.SubmitRequest(request_id="r0", spec=function(f"{MODULE}:lines_of", 9))
    with pytest.raises(grpc.RpcError) as caught:
        daemons.coordinator.tasks.Submit(other, timeout=20)
    assert refusal(caught.value).reason == "REQUEST_ID_REUSED"
    daemons.agent("a", 1)
    request = task_service_pb2.ListRequest()
    assert len(daemons.coordinator.tasks.List(request, timeout=20).tasks) == 3
    eventually(lambda: daemons.states() == ["SUCCEEDED"] * 3)


def test_nothing_is_left_of_daemons_that_ended(tmp_path: Path) -> None:
    """After SIGTERM of both daemons no process of theirs is left."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with Daemons(tmp_path) as daemons:
        agent = daemons.agent("a", 2)
        daemons.ended(*daemons.submit(function(f"{MODULE}:lines_of", 1)))
        agent.terminate()
        assert agent.wait() == 0
        assert daemons.coordinator.stop() == 0
    eventually(lambda: {process.pid for process in psutil.Process().children(recursive=True)} <= before)
