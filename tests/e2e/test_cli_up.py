"""The life of `outrider up`: how it starts, what it survives, and that nothing is left when it ends."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.command_line import TIMEOUT_S, CommandLine, command_line, start_up, stop_up
from support.waiting import eventually


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """A command line without a cluster."""
    with command_line(tmp_path) as line:
        yield line


def told(cli: CommandLine) -> str:
    """What `up` has said since it was ready."""
    return (cli.folder / "up.err").read_text()


def daemons(up: subprocess.Popen[bytes]) -> dict[str, psutil.Process]:
    """The daemons by name: coordinator, agent-1, ..."""
    found = {}
    for child in psutil.Process(up.pid).children():
        words = child.cmdline()
        name = words[words.index("--name") + 1] if "--name" in words else "coordinator"
        found[name] = child
    return found


def tree(up: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Every process below it."""
    return psutil.Process(up.pid).children(recursive=True)


def none_left(processes: list[psutil.Process]) -> None:
    """Wait until all are gone."""
    eventually(lambda: not any(process.is_running() for process in processes), TIMEOUT_S, f"the end of {processes}")


def test_ctrl_c_ends_it_cleanly(cli: CommandLine) -> None:
    """One Ctrl-C: exit code 0, no process, no announcement and no socket left; queued tasks go on the next time."""
    up = start_up(cli, "--agents", "2", "--listen", "127.0.0.1:0")
    assert "2 agents" in (cli.folder / "up.out").read_text()
    assert " and 127.0.0.1:" in (cli.folder / "up.out").read_text()
    assert cli.run("submit", "--wait", "--", "echo", "hello").out == "hello\n"
    queued = cli.run("submit", "--label", "gpu=yes", "--", "true").id
    processes = tree(up)
    assert stop_up(up) == 0
    none_left(processes)
    assert {path.name for path in (cli.runtime / "outrider").iterdir()} == {"up.lock"}
    assert "queued tasks go on" in told(cli)
    assert cli.run("task", "list").code == 4
    up = start_up(cli)
    assert cli.task(queued)["state"] == "TASK_STATE_QUEUED"
    assert stop_up(up) == 0


def test_a_second_ctrl_c_does_not_wait_for_tasks(cli: CommandLine) -> None:
    """While the first waits for running tasks, a second Ctrl-C stops them at once."""
    up = start_up(cli, "--preset", "production")  # which would give tasks minutes
    pid = int(cli.start("submit", "--wait", "--", "sh", "-c", "echo $$; exec sleep 1000").stdout.readline())  # type: ignore[union-attr]  # it is a pipe
    up.send_signal(signal.SIGTERM)
    eventually(lambda: "Ctrl-C again" in told(cli), TIMEOUT_S)
    assert psutil.pid_exists(pid)
    assert stop_up(up) == 0
    eventually(lambda: not psutil.pid_exists(pid), TIMEOUT_S, "the task's process is gone")


def test_a_second_one_is_refused(cli: CommandLine) -> None:
    """A second `up` says in one line who runs and how to stop that; the first is untouched."""
    up = start_up(cli)
    second = cli.start("up")
    _, err = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 2
    (line,) = err.decode().splitlines()
    assert line.startswith(f"error: a cluster is already up (pid {up.pid})")
    assert cli.run("coordinator", "status").code == 0
    assert stop_up(up) == 0


def test_daemons_that_die_are_started_again(cli: CommandLine) -> None:
    """kill -9 of the coordinator, then of an agent: each is back, the running task goes on, new ones run."""
    up = start_up(cli, "--agents", "1", "--slots", "2")
    gate = cli.folder / "gate"
    task_id = cli.run("submit", "--python", "chores:steps", "--args", json.dumps([str(gate)])).id
    cli.wait_for_state(task_id, "RUNNING")
    daemons(up)["coordinator"].kill()
    eventually(lambda: "coordinator is back" in told(cli), TIMEOUT_S)
    gate.touch()
    assert cli.run("task", "result", "--wait", task_id).out == '"walked"\n'
    assert len(cli.task(task_id)["attempts"]) == 1
    daemons(up)["agent-1"].kill()
    eventually(lambda: "agent-1 is back" in told(cli), TIMEOUT_S)
    assert cli.run("submit", "--wait", "--", "echo", "again").out == "again\n"
    assert "agent-1 ended unexpectedly (exit code -9); starting it again" in told(cli)
    assert stop_up(up) == 0


def test_an_agent_that_was_drained_stays_away(cli: CommandLine) -> None:
    """`up` does not start an agent again that an operator let go."""
    up = start_up(cli, "--agents", "2")
    eventually(lambda: cli.run("agent", "drain", "agent-2").code == 0, TIMEOUT_S, "agent-2 is known")
    eventually(lambda: "agent-2 has left: it was drained or removed" in told(cli), TIMEOUT_S)
    assert set(daemons(up)) == {"coordinator", "agent-1"}
    assert stop_up(up) == 0


def test_killed_it_takes_everything_along(cli: CommandLine) -> None:
    """kill -9 of `up`: all daemons and what they run are gone soon, and nobody finds the cluster any more."""
    cli.environment["OUTRIDER_AGENT_DRAIN_TIMEOUT_S"] = "0.5"  # which the preset gives to running tasks
    up = start_up(cli, "--agents", "2")
    task = cli.run("submit", "--", "sleep", "1000")
    cli.wait_for_state(task.id, "RUNNING")
    processes = tree(up)
    assert len(processes) >= 4
    up.kill()
    up.wait(TIMEOUT_S)
    none_left(processes)
    assert cli.run("task", "list").code == 4
    assert stop_up(start_up(cli)) == 0


@pytest.mark.parametrize(
    ("words", "code", "advice"),
    [
        (["--listen", "0.0.0.0:1"], 1, "without TLS anybody there could run commands here"),
        (["--preset", "huge"], 2, "use one of development, production, constrained"),
        (["--state-directory", "/proc/nothing"], 2, "choose another --state-directory"),
        (["--agents", "0"], 2, "hint: outrider up --help"),
    ],
)
def test_it_cannot_start(cli: CommandLine, words: list[str], code: int, advice: str) -> None:
    """What keeps it from starting is told, and nothing is left."""
    up = cli.start("up", *words)
    _, err = up.communicate(timeout=TIMEOUT_S)
    assert up.returncode == code
    assert advice in err.decode()
    assert "Traceback" not in err.decode()
    assert cli.run("task", "list").code == 4


def test_a_runtime_folder_that_does_not_do(cli: CommandLine) -> None:
    """A runtime folder whose sockets would have too long a path, or that cannot be made, is named in one line."""
    for folder, advice in (
        (cli.folder / ("long" * 20), "set XDG_RUNTIME_DIR to a shorter one"),
        ("/proc/no", "/proc/no"),
    ):
        cli.environment["XDG_RUNTIME_DIR"] = str(folder)
        up = cli.start("up")
        _, err = up.communicate(timeout=TIMEOUT_S)
        assert up.returncode in (1, 2)
        assert advice in err.decode()
        assert len(err.decode().splitlines()) == 1
