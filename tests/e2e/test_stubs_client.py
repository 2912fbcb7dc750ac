"""Real daemons, and a client written on nothing but the generated stubs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.coordinator_process import CoordinatorProcess

EXAMPLE = Path(__file__).parents[2] / "examples" / "stubs_client.py"


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[CoordinatorProcess]:
    """A coordinator and one agent, gone afterwards."""
    process = CoordinatorProcess(tmp_path)
    process.start()
    command = [sys.executable, "-m", "outrider_agent", "--coordinator", process.address, "--name", "a"]
    command += ["--slots", "2", "--state-directory", str(tmp_path / "agent")]
    with (tmp_path / "agent.log").open("wb") as log:
        agent = subprocess.Popen(command, stderr=log, env=dict(os.environ))
    yield process
    agent.send_signal(signal.SIGTERM)
    agent.wait(30)
    process.kill()


def run(coordinator: CoordinatorProcess, *argv: str) -> subprocess.CompletedProcess[str]:
    """The example with this command."""
    command = [sys.executable, str(EXAMPLE), coordinator.address, "--", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_stubs_alone_submit_watch_and_get_a_result(coordinator: CoordinatorProcess) -> None:
    """The documented example runs a command on a real agent and prints its events and result."""
    done = run(coordinator, "echo", "hello")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "TASK_SUBMITTED",
        "TASK_QUEUED",
        "TASK_ASSIGNED",
        "TASK_STARTED",
        "TASK_SUCCEEDED",
        '{"exit_code":0,"output":"hello\\n"}',
    ]


def test_a_program_that_is_not_there_fails_with_its_name(coordinator: CoordinatorProcess) -> None:
    """argv not found ends the task FAILED with one clear line, and the daemons go on."""
    done = run(coordinator, "no-such-program")
    assert done.returncode == 1
    assert "no-such-program" in done.stdout.splitlines()[-1]
    assert run(coordinator, "true").returncode == 0
