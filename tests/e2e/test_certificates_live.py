"""Certificates and the authority replaced under a real agent with work on it: nothing fails, nothing runs again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from outrider.v1 import access_service_pb2, fleet_service_pb2, task_pb2, task_service_pb2, task_service_pb2_grpc
from outrider_agent import joining
from outrider_agent.identity import IdentityFolder
from support.agent_process import AgentProcess
from support.daemons import command, function, python_path
from support.secured import TIMEOUT_S, SecuredCoordinator
from support.waiting import eventually

#: Work that is under way while certificates change: many short calls, a few long commands.
SHORT, LONG = 300, 4


class Fleet:
    """A secured coordinator with one agent that has joined it."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.secured = SecuredCoordinator(folder, **environment)
        self.folder = folder

    def agent(self) -> AgentProcess:
        """Join, and make its process."""
        state = self.folder / "state-a"
        joining.join(state, self.secured.join_address, self.secured.join_token(), "a")
        environment = {"PYTHONPATH": python_path(), "OUTRIDER_AGENT_KILL_GRACE_S": "1"}
        return AgentProcess(self.folder, "", "--slots", "4", name="a", environment=environment)

    def submit(self, specs: list[task_pb2.TaskSpec]) -> list[str]:
        """Submit tasks; their ids."""
        stub = task_service_pb2_grpc.TaskServiceStub(self.secured.local)
        batch = task_service_pb2.SubmitBatchRequest(tasks=[task_service_pb2.SubmitRequest(spec=spec) for spec in specs])
        return [task.task_id for task in stub.SubmitBatch(batch, timeout=TIMEOUT_S).tasks]

    def tasks(self) -> list[task_pb2.Task]:
        """All of them."""
        stub = task_service_pb2_grpc.TaskServiceStub(self.secured.local)
        return list(stub.List(task_service_pb2.ListRequest(page_size=1000), timeout=TIMEOUT_S).tasks)

    def sessions_begun(self) -> int:
        """When its session began, in microseconds; another number is another session."""
        request = fleet_service_pb2.GetAgentRequest(agent_id="a")
        agent = self.secured.fleet.GetAgent(request, timeout=TIMEOUT_S).agent
        return agent.session_start_time.ToMicroseconds()

    def check_all_ran_once(self, count: int) -> None:
        """Every task succeeded, and began once."""
        eventually(lambda: all(task.state >= task_pb2.TASK_STATE_SUCCEEDED for task in self.tasks()), timeout_s=60)
        ended = self.tasks()
        assert len(ended) == count
        stub = task_service_pb2_grpc.TaskServiceStub(self.secured.local)
        for task in ended:
            assert task.state == task_pb2.TASK_STATE_SUCCEEDED
            whole = stub.Get(task_service_pb2.GetRequest(task_id=task.id), timeout=TIMEOUT_S).task
            # An offer that was on its way when the session moved over never began; it is made again.
            assert sum(attempt.HasField("start_time") for attempt in whole.attempts) == 1


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Agents' certificates live twelve seconds, so they are renewed after eight."""
    made = Fleet(tmp_path, OUTRIDER_COORDINATOR_AGENT_CERTIFICATE_S="12")
    with made.secured:
        yield made


def work(gate: Path) -> list[task_pb2.TaskSpec]:
    """Short and long tasks; the long ones run until the gate is there."""
    wait = f"until [ -e {gate} ]; do sleep 0.05; done"
    longs = [command(["sh", "-c", wait]) for _ in range(LONG // 2)]
    return longs + [function("math:factorial", 200 + number % 100) for number in range(SHORT)]


def test_the_authority_is_replaced_while_work_runs(fleet: Fleet, tmp_path: Path) -> None:
    """Rotate, renew, retire: the agent moves over by itself, 0 tasks fail, none runs twice, the old root is gone."""
    gate = tmp_path / "gate"
    with fleet.agent() as agent:
        eventually(lambda: "connected to" in agent.log_text())
        count = len(fleet.submit(work(gate)))
        access = fleet.secured.access
        old_trust = fleet.secured.trust
        access.RotateAuthority(access_service_pb2.RotateAuthorityRequest(), timeout=TIMEOUT_S)
        count += len(fleet.submit(work(gate)))
        eventually(lambda: retired(fleet), timeout_s=30)
        count += len(fleet.submit(work(gate)))
        gate.touch()
        fleet.check_all_ran_once(count)
        trust = IdentityFolder(agent.state).trust.read_bytes()
        assert old_trust not in trust or trust.count(b"BEGIN") == 2
        assert agent.log_text().count("not connected") == 0


def retired(fleet: Fleet) -> bool:
    """Whether the old authority could be retired: not before the agent has renewed."""
    try:
        fleet.secured.access.RetireAuthority(access_service_pb2.RetireAuthorityRequest(), timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        return bool(error.code() is not grpc.StatusCode.FAILED_PRECONDITION)
    return True


def test_a_certificate_is_renewed_in_time_and_work_goes_on(fleet: Fleet, tmp_path: Path) -> None:
    """Two thirds through its life there is another key and another session; what ran goes on, and nothing fails."""
    gate = tmp_path / "gate"
    with fleet.agent() as agent:
        eventually(lambda: "connected to" in agent.log_text())
        before, first = IdentityFolder(agent.state).certificate.read_bytes(), fleet.sessions_begun()
        count = len(fleet.submit(work(gate)))
        eventually(lambda: fleet.sessions_begun() != first, timeout_s=30)
        assert IdentityFolder(agent.state).certificate.read_bytes() != before
        gate.touch()
        fleet.check_all_ran_once(count)
        assert agent.log_text().count("not connected") == 0


def test_an_agent_that_slept_through_its_renewal_comes_back(fleet: Fleet, tmp_path: Path) -> None:
    """Stopped past the end of its certificate, it renews by the key alone and connects; nobody has to join again."""
    agent = fleet.agent()
    cluster = IdentityFolder(agent.state).cluster()
    assert cluster is not None
    # Certificates end by whole seconds.
    eventually(lambda: _wall_us() > cluster.expires_us + 1_000_000, timeout_s=30)
    with agent:
        eventually(lambda: "connected to" in agent.log_text().replace("not connected to", ""), timeout_s=30)
        count = len(fleet.submit([function("math:sqrt", 4)]))
        fleet.check_all_ran_once(count)


def _wall_us() -> int:
    return time.time_ns() // 1000
