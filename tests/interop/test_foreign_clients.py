"""Clients that share nothing with Outrider but the wire: Node's gRPC on the .proto files, buf curl by reflection."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agent_process import AgentProcess
from support.coordinator_process import CoordinatorProcess
from support.source_tree import ROOT

HERE = Path(__file__).resolve().parent
SERVICES = {"TaskService", "RunService", "FleetService", "AgentService"}


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The locked npm packages, installed once into this folder."""
    installed = HERE / "node_modules/.package-lock.json"
    if not installed.exists():
        done = subprocess.run(["npm", "ci", "--silent"], cwd=HERE, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return installed.parent


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A coordinator with one agent, on a loopback port."""
    coordinator = CoordinatorProcess(tmp_path / "coordinator")
    coordinator.start()
    try:
        with AgentProcess(tmp_path, coordinator.address):
            yield coordinator.address
    finally:
        coordinator.kill()


def buf_curl(node_modules: Path, address: str, path: str, *options: str) -> list[str]:
    """The command for one call over cleartext HTTP/2, described by the server's reflection alone."""
    (program,) = node_modules.glob("@bufbuild/buf-linux-*/bin/buf")
    return [str(program), "curl", "--protocol", "grpc", "--http2-prior-knowledge", *options, f"http://{address}{path}"]


def called(node_modules: Path, address: str, method: str, request: dict[str, Any]) -> Any:
    """Call a unary method through buf curl and return its response as JSON."""
    command = buf_curl(node_modules, address, f"/outrider.v1.{method}", "--data", json.dumps(request))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.needs("node", "npm")
def test_node_submits_watches_and_reads_the_result(node_modules: Path, address: str) -> None:
    """A Node program on @grpc/grpc-js and the .proto files runs a command; a retry of its submit is the same task."""
    command = ["node", str(HERE / "client.js"), address, str(ROOT / "protos")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["created"], seen["createdAgain"], seen["sameTask"]) == (True, False, True)
    assert seen["types"][0] == "TASK_SUBMITTED"
    assert seen["types"][-1] == "TASK_SUCCEEDED"
    assert seen["result"] == {"exit_code": 0, "output": "hello from Node\n"}
    assert seen["refused"]["code"] == "INVALID_ARGUMENT"
    assert seen["refused"]["details"]


@pytest.mark.needs("npm")
def test_reflection_lists_every_service(node_modules: Path, address: str) -> None:
    """buf curl learns every service from the running coordinator."""
    listed = subprocess.run(
        buf_curl(node_modules, address, "", "--list-services"), capture_output=True, text=True, timeout=60
    )
    assert listed.returncode == 0, listed.stderr
    names = set(listed.stdout.split())
    assert {f"outrider.v1.{service}" for service in SERVICES} | {"grpc.health.v1.Health"} <= names


@pytest.mark.needs("npm")
def test_buf_submits_and_watches_by_reflection(node_modules: Path, address: str) -> None:
    """With nothing but the address, buf curl submits a command and watches it to its result."""
    spec = {"command": {"argv": ["echo", "hello from buf"]}}
    task_id = called(node_modules, address, "TaskService/Submit", {"requestId": "buf-1", "spec": spec})["taskId"]
    request = json.dumps({"taskIds": [task_id], "afterCursor": "0"})
    command = buf_curl(node_modules, address, "/outrider.v1.TaskService/Watch", "--data", request)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert any("EVENT_TYPE_TASK_SUCCEEDED" in line for line in watching.stdout)
        watching.kill()
    task = called(node_modules, address, "TaskService/Get", {"taskId": task_id})["task"]
    assert task["state"] == "TASK_STATE_SUCCEEDED"
