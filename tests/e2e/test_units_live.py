"""The daemons under what their units allow: the real system call filters, loaded the way systemd loads them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from outrider.v1 import task_pb2, task_service_pb2
from support.coordinator_process import CoordinatorProcess
from support.source_tree import ROOT

READY_TIMEOUT_S = 30.0
# Warm enough for the compiler: V8 makes writable memory executable here.
NODE_PROGRAM = "let n = 0; for (let i = 0; i < 1e7; i++) n += i % 7 === 0; console.log(n % 1000)"


@contextmanager
def daemon_under_unit(unit: str, folder: Path, module: str, *arguments: str) -> Iterator[list[str]]:
    """Run a daemon under its unit's settings until it says READY=1; yields what it told systemd so far."""
    path = folder / f"{module}.notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(path))
        told.settimeout(READY_TIMEOUT_S)
        launcher = [sys.executable, str(ROOT / "tests/support/under_unit.py"), str(ROOT / "systemd" / unit), "--"]
        environment = os.environ | {"NOTIFY_SOCKET": str(path)}
        process = subprocess.Popen([*launcher, sys.executable, "-m", module, *arguments], env=environment)
        try:
            heard = [told.recv(4096).decode()]
            while "READY=1" not in heard[-1]:
                heard.append(told.recv(4096).decode())
            yield heard
            process.send_signal(signal.SIGTERM)
            assert process.wait(READY_TIMEOUT_S) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.needs("systemd-analyze")
def test_the_coordinator_lives_under_its_unit(tmp_path: Path) -> None:
    """Under its unit's filter, without writable executable memory, the coordinator gets ready and stops cleanly."""
    arguments = ("--listen", "127.0.0.1:0", "--state-directory", str(tmp_path / "state"))
    with daemon_under_unit("outrider-coordinator.service", tmp_path, "outrider_coordinator", *arguments):
        assert (tmp_path / "state" / "addresses.json").exists()


@pytest.mark.needs("systemd-analyze", "node")
def test_a_node_program_is_a_task_under_the_agents_unit(tmp_path: Path) -> None:
    """An agent under its unit's filter runs a Node program, which compiles its code at run time, to a result."""
    coordinator = CoordinatorProcess(tmp_path / "coordinator")
    coordinator.start()
    arguments = ("--coordinator", coordinator.address, "--name", "a", "--state-directory", str(tmp_path / "agent"))
    try:
        with daemon_under_unit("outrider-agent.service", tmp_path, "outrider_agent", *arguments):
            task = run_command(coordinator, ["node", "-e", NODE_PROGRAM])
    finally:
        coordinator.kill()
    assert task.state == task_pb2.TASK_STATE_SUCCEEDED, task.error
    assert json.loads(task.result.data) == {"exit_code": 0, "output": "572\n"}


def run_command(coordinator: CoordinatorProcess, argv: list[str]) -> task_pb2.Task:
    """Submit a command and wait for its end."""
    spec = task_pb2.TaskSpec(command=task_pb2.Command(argv=argv))
    task_id = coordinator.tasks.Submit(task_service_pb2.SubmitRequest(request_id="r", spec=spec)).task_id
    request = task_service_pb2.ReadLogsRequest(task_id=task_id, follow=True)
    list(coordinator.tasks.ReadLogs(request, timeout=READY_TIMEOUT_S))  # ends with the task
    return coordinator.tasks.Get(task_service_pb2.GetRequest(task_id=task_id)).task
