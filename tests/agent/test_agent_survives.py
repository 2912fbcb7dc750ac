"""What an agent keeps through the death of its link, its coordinator and itself, and how it leaves."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import grpc
import pytest

from outrider.v1 import agent_service_pb2 as wire
from outrider.v1 import task_pb2
from outrider.v1.task_pb2 import ATTEMPT_STATE_CLOSED, ATTEMPT_STATE_STARTED
from support.agent_process import is_gone
from support.agent_tasks import daemon_argv
from support.scripted_coordinator import ScriptedCoordinator, command, function
from support.waiting import eventually

TASKS = "support.agent_tasks"


def read_pid(path: Path) -> int:
    return int(eventually(lambda: path.exists() and path.read_text().strip()))


def test_a_killed_link_loses_nothing(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """kill -9 of the link with work running: the session resumes, no message is lost, nothing runs twice."""
    agent = start_agent("--slots", "2")
    coordinator.wait_session()
    coordinator.assign(
        function("long", f"{TASKS}:witness", f'"{tmp_path}/w"', f'"{tmp_path}/gate"'),
        function("flood", f"{TASKS}:flood", "3000"),
    )
    coordinator.wait_for("long", "started")
    for count in range(2, 5):
        agent.link().kill()
        hello = coordinator.wait_session(count)
        assert ("long", ATTEMPT_STATE_STARTED) in [(held.ref.task_id, held.state) for held in hello.held]
    (tmp_path / "gate").touch()
    for name in ("long", "flood"):
        coordinator.outcome(name)
        assert [one.number for one in coordinator.said(name)] == list(range(1, len(coordinator.said(name)) + 1))
    assert (tmp_path / "w").read_text() == "long 1\n"
    assert len({hello.instance_id for hello in coordinator.hellos}) == 1


def test_a_coordinator_that_is_away_changes_nothing(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """Work started before the coordinator went away ends meanwhile, and its reports arrive when it is back."""
    agent = start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(function("t", f"{TASKS}:witness", f'"{tmp_path}/w"', f'"{tmp_path}/gate"'))
    coordinator.wait_for("t", "started")
    coordinator.stop()
    (tmp_path / "gate").touch()
    eventually(lambda: "not connected" in agent.log_text())
    coordinator.start()
    coordinator.wait_session(2)
    assert coordinator.outcome("t").HasField("completed")
    assert agent.log_text().count("not connected") <= 2
    assert (tmp_path / "w").read_text() == "t 1\n"


def test_what_is_not_acknowledged_is_sent_again(coordinator: ScriptedCoordinator, start_agent) -> None:
    """A session that ends before the ack is followed by a replay; the attempt is held CLOSED until then."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.is_acking = False
    coordinator.assign(function("t", f"{TASKS}:double", "1"))
    coordinator.outcome("t")
    coordinator.applied.clear()
    coordinator.reports.clear()
    coordinator.end_session()
    hello = coordinator.wait_session(2)
    assert [(held.ref.task_id, held.state) for held in hello.held] == [("t", ATTEMPT_STATE_CLOSED)]
    coordinator.outcome("t")
    coordinator.is_acking = True
    coordinator.acknowledge()
    coordinator.end_session()
    assert list(coordinator.wait_session(3).held) == []


def test_a_fence_verdict_kills_without_a_word(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """An attempt that the coordinator gave up is killed on reconnect."""
    start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(command("t", ["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 1000"]))
    pid = read_pid(tmp_path / "pid")
    coordinator.wait_for("t", "started")
    coordinator.verdict = lambda held: wire.VERDICT_FENCE
    coordinator.end_session()
    coordinator.wait_session(2)
    eventually(lambda: is_gone(pid))
    assert coordinator.kinds("t") == ["started"]


def test_a_killed_keeper_takes_everything_with_it(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """kill -9 of the keeper: workers, commands and a daemonised child that ignores SIGTERM are dead within 2 s."""
    agent = start_agent("--slots", "3")
    coordinator.wait_session()
    coordinator.assign(
        command("daemon", daemon_argv(tmp_path / "pid", 1000)),
        command("sleep", ["sleep", "1000"]),
        function("function", f"{TASKS}:stubborn", f'"{tmp_path}/function"'),
    )
    pid = read_pid(tmp_path / "pid")
    for name in ("daemon", "sleep", "function"):
        coordinator.wait_for(name, "started")
    agent.kill()
    eventually(lambda: is_gone(pid) and not agent.survivors(), 2)


def test_killing_keeper_and_link_is_swept_by_the_next_start(
    coordinator: ScriptedCoordinator, start_agent, tmp_path: Path
) -> None:
    """With nobody left to sweep, a daemonised child lives until the agent starts again."""
    agent = start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(command("t", daemon_argv(tmp_path / "pid", 1000)))
    pid = read_pid(tmp_path / "pid")
    link = agent.link()
    link.suspend()
    agent.kill()
    link.kill()
    assert not is_gone(pid)
    agent.start()
    coordinator.wait_session(2)
    assert is_gone(pid)


def test_the_outbox_outlives_its_keeper(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """Reports of a killed keeper are replayed by the next, from an old outbox that is deleted when acknowledged."""
    agent = start_agent("--slots", "1")
    first = coordinator.wait_session()
    coordinator.is_acking = False
    coordinator.assign(function("t", f"{TASKS}:say", '"kept"'))
    coordinator.outcome("t")
    coordinator.applied.clear()
    coordinator.reports.clear()
    agent.kill()
    agent.start()
    hello = coordinator.wait_session(2)
    assert [(held.ref.task_id, held.state) for held in hello.held] == [("t", ATTEMPT_STATE_CLOSED)]
    assert [one.last_seq for one in hello.outboxes] == [3, 0]
    assert hello.outboxes[0].outbox_id == first.outboxes[0].outbox_id
    assert coordinator.outcome("t").completed.result.data == b'"kept"'
    assert coordinator.kinds("t") == ["started", "log", "completed"]
    coordinator.is_acking = True
    coordinator.acknowledge()
    eventually(lambda: len(list((agent.state / "outbox").glob("*.log"))) == 1)


def test_a_torn_tail_is_reported_and_passed(coordinator: ScriptedCoordinator, start_agent) -> None:
    """A record cut in the middle is left out, what stands before it is replayed, and the log says so."""
    agent = start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.is_acking = False
    coordinator.assign(function("t", f"{TASKS}:say", '"kept"'))
    coordinator.outcome("t")
    coordinator.applied.clear()
    coordinator.reports.clear()
    agent.kill()
    (path,) = (agent.state / "outbox").glob("*.log")
    os.truncate(path, path.stat().st_size - 3)
    agent.start()
    hello = coordinator.wait_session(2)
    assert [one.last_seq for one in hello.outboxes] == [2, 0]
    coordinator.wait_for("t", "log")
    assert coordinator.kinds("t") == ["started", "log"]
    assert "is readable up to byte" in agent.log_text()


def test_an_outbox_that_is_full_keeps_new_work_out(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Beyond its bound the agent refuses work and drops nothing."""
    start_agent("--slots", "1", OUTRIDER_AGENT_OUTBOX_BYTES_MAX="200")
    coordinator.wait_session()
    coordinator.is_acking = False
    for index in range(8):
        coordinator.assign(function(f"t{index}", f"{TASKS}:double", "4"))
        eventually(lambda index=index: f"t{index}" in coordinator.refs("rejected") or coordinator.said(f"t{index}"))
    eventually(lambda: "t7" in coordinator.refs("rejected"))
    assert coordinator.outcome("t0").HasField("completed")


def test_sigterm_drains(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """What runs may finish, what waits is handed back, the coordinator hears goodbye, and the exit code is 0."""
    agent = start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(
        function("runs", f"{TASKS}:witness", f'"{tmp_path}/w"', f'"{tmp_path}/gate"'),
        function("waits", f"{TASKS}:double", "1"),
    )
    coordinator.wait_for("runs", "started")
    agent.terminate()
    eventually(lambda: coordinator.refs("revoked") == ["waits"])
    coordinator.assign(function("late", f"{TASKS}:double", "1"))
    eventually(lambda: coordinator.refs("rejected") == ["late"])
    (tmp_path / "gate").touch()
    assert coordinator.outcome("runs").HasField("completed")
    assert agent.wait() == 0
    assert coordinator.frames[-1].HasField("goodbye")
    eventually(lambda: not agent.survivors(), 3)
    assert list((agent.state / "outbox").glob("*.log")) == []


def test_a_second_signal_stops_at_once(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """Whoever asks twice does not wait: attempts are stopped and reported as recoverable."""
    agent = start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(command("t", ["sleep", "1000"]))
    coordinator.wait_for("t", "started")
    agent.terminate(signal.SIGINT)
    eventually(lambda: "finishing what runs" in agent.log_text())
    agent.terminate(signal.SIGINT)
    failed = coordinator.outcome("t").failed
    assert failed.error.reason == task_pb2.TASK_REASON_AGENT_STOPPED
    assert failed.recoverable
    assert agent.wait() == 0
    eventually(lambda: not agent.survivors(), 3)


def test_an_operators_drain_ends_the_agent(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Drain with a timeout stops what runs longer, says goodbye and exits 0."""
    agent = start_agent("--slots", "1")
    coordinator.wait_session()
    coordinator.assign(command("t", ["sleep", "1000"]))
    coordinator.wait_for("t", "started")
    drain = wire.Drain()
    drain.timeout.FromMilliseconds(100)
    coordinator.send(drain=drain)
    assert coordinator.outcome("t").failed.error.reason == task_pb2.TASK_REASON_AGENT_STOPPED
    assert agent.wait() == 0
    assert coordinator.frames[-1].goodbye.message == "drained"


def test_the_agent_stops_with_its_parent(coordinator: ScriptedCoordinator, tmp_path: Path) -> None:
    """When the descriptor in OUTRIDER_PARENT_FD ends, the agent drains and exits."""
    import subprocess
    import sys

    ours, theirs = os.pipe()
    flags = ("--coordinator", coordinator.address, "--name", "a", "--state-directory", str(tmp_path / "s"))
    process = subprocess.Popen(
        [sys.executable, "-m", "outrider_agent", "--slots", "1", *flags],
        env={**os.environ, "OUTRIDER_PARENT_FD": str(ours)},
        pass_fds=(ours,),
        stderr=subprocess.DEVNULL,
    )
    os.close(ours)
    try:
        coordinator.wait_session()
        os.close(theirs)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_systemd_hears_how_it_is(coordinator: ScriptedCoordinator, start_agent, tmp_path: Path) -> None:
    """READY once workers are warm, STATUS and WATCHDOG while it runs, STOPPING when told to stop."""
    path = tmp_path / "notify"
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(0.05)

        def hear(what: str) -> bool:
            try:
                heard.append(sock.recv(4096).decode())
            except TimeoutError:
                return False
            return any(one.startswith(what) for one in heard)

        agent = start_agent("--slots", "1", NOTIFY_SOCKET=str(path), WATCHDOG_USEC="400000")
        eventually(lambda: hear("READY=1"))
        eventually(lambda: hear("WATCHDOG=1"))
        eventually(lambda: hear("STATUS=connected to"))
        agent.terminate()
        eventually(lambda: hear("STOPPING=1"))
        assert agent.wait() == 0


def test_a_taken_name_is_final(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Another machine holds the name: one line says so and what to do, and the exit code is 1."""
    message = "agent name 'a' belongs to another machine (desk); start this one with another --name"
    coordinator.refusal = (grpc.StatusCode.FAILED_PRECONDITION, "AGENT_NAME_TAKEN", message)
    agent = start_agent("--slots", "1")
    assert agent.wait() == 1
    assert agent.log_text().count(message) == 1


def test_a_superseded_instance_stops(coordinator: ScriptedCoordinator, start_agent) -> None:
    """A newer instance has won: this one stops, with a line that says why, and leaves nothing."""
    agent = start_agent("--slots", "1")
    coordinator.wait_session()
    message = "a newer instance of agent 'a' is connected"
    coordinator.refusal = (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_SUPERSEDED", message)
    agent.tree()
    coordinator.end_session()
    assert agent.wait() == 1
    assert message in agent.log_text()
    eventually(lambda: not agent.survivors(), 3)


def test_a_second_agent_on_the_same_state_is_refused(coordinator: ScriptedCoordinator, start_agent) -> None:
    """Two keepers never share a state directory; the second names the first and exits 1."""
    agent = start_agent("--slots", "1")
    coordinator.wait_session()
    second = start_agent("--slots", "1", "--state-directory", str(agent.state), name="b")
    assert second.wait() == 1
    assert f"another agent (pid {agent.pid})" in second.log_text()
    assert agent.process.poll() is None


@pytest.mark.parametrize(
    ("address", "flags", "expected"),
    [
        ("coordinator.example:7420", (), "plain text"),
        ("192.0.2.1:7420", ("--tls-ca", "missing.pem"), "cannot read missing.pem"),
        ("127.0.0.1:1", ("--slots", "many"), "invalid int value"),
        ("127.0.0.1:1", ("--label", "novalue"), "KEY=VALUE"),
        ("127.0.0.1:1", ("--name", "Not A Name"), "--name"),
        ("127.0.0.1:1", ("--config", "missing.toml"), "missing.toml"),
        ("127.0.0.1:1", ("--working-directory", "/does/not/exist"), "does not exist"),
    ],
)
def test_what_is_wrong_at_the_start_is_one_line(
    start_agent, address: str, flags: tuple[str, ...], expected: str
) -> None:
    """Wrong settings, and plain text to another machine, end the agent at once with what to do about it."""
    agent = start_agent(*flags, address=address)
    assert agent.wait() in (1, 2)
    assert expected in agent.log_text()
    assert "Traceback" not in agent.log_text()


def test_a_wrong_address_is_said_once_and_tried_on(start_agent) -> None:
    """Nobody at the address: one line, not one per try, and the agent goes on trying."""
    agent = start_agent("--slots", "1", address="127.0.0.1:1")
    eventually(lambda: "not connected to 127.0.0.1:1" in agent.log_text())
    agent.terminate()
    assert agent.wait() == 0
    assert agent.log_text().count("not connected") == 1
