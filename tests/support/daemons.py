"""A real coordinator and real agents on one machine, spoken to with the bare stubs.

The coordinator has a Unix socket beside its free port, so that agents find it again after a restart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import msgspec
from google.rpc import error_details_pb2, status_pb2

from outrider import errors, status
from outrider.v1 import event_pb2, task_pb2, task_service_pb2
from support.agent_process import AgentProcess
from support.coordinator_process import CoordinatorProcess

TESTS = str(Path(__file__).parents[1])
RPC_TIMEOUT_S = 20
END_TIMEOUT_S = 60
TERMINAL = range(event_pb2.EVENT_TYPE_TASK_SUCCEEDED, event_pb2.EVENT_TYPE_TASK_SKIPPED + 1)


class Daemons:
    """Use as a context manager: the coordinator runs inside, and everything started is gone afterwards."""

    def __init__(self, folder: Path, *coordinator_flags: str, **coordinator_environment: str) -> None:
        self.folder = folder
        self.address = f"unix:{folder}/socket"
        flags = ("--listen", self.address, *coordinator_flags)
        self.coordinator = CoordinatorProcess(folder / "coordinator", *flags, **coordinator_environment)
        self.agents: dict[str, AgentProcess] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Daemons:
        self._stack.callback(self.coordinator.kill)
        self.coordinator.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def log(self) -> str:
        """What the coordinator has written to stderr."""
        return (self.coordinator.folder / "log").read_text()

    def agent(self, name: str, slots: int = 2, *flags: str, address: str = "", **environment: str) -> AgentProcess:
        """Start an agent whose workers can import the tests' modules."""
        environment = {"PYTHONPATH": python_path(), "OUTRIDER_AGENT_KILL_GRACE_S": "1", **environment}
        agent = AgentProcess(
            self.folder, address or self.address, "--slots", str(slots), *flags, name=name, environment=environment
        )
        self.agents[name] = agent
        return self._stack.enter_context(agent)

    def submit(self, *specs: task_pb2.TaskSpec) -> list[str]:
        """Submit tasks in one batch; their ids."""
        batch = task_service_pb2.SubmitBatchRequest(tasks=[task_service_pb2.SubmitRequest(spec=spec) for spec in specs])
        return [task.task_id for task in self.coordinator.tasks.SubmitBatch(batch, timeout=RPC_TIMEOUT_S).tasks]

    def get(self, task_id: str) -> task_pb2.Task:
        """A task as committed."""
        return self.coordinator.tasks.Get(task_service_pb2.GetRequest(task_id=task_id), timeout=RPC_TIMEOUT_S).task

    def states(self) -> list[str]:
        """The state of every task, newest first; at most 1,000."""
        page = self.coordinator.tasks.List(task_service_pb2.ListRequest(page_size=1000), timeout=RPC_TIMEOUT_S)
        return [state_name(task.state) for task in page.tasks]

    def events(self, task_ids: Iterable[str], timeout_s: float = END_TIMEOUT_S) -> list[event_pb2.Event]:
        """All events of these tasks from the beginning of the log until all have ended."""
        waiting = set(task_ids)
        request = task_service_pb2.WatchRequest(task_ids=sorted(waiting), after_cursor=0, include_results=True)
        call = self.coordinator.tasks.Watch(request, timeout=timeout_s)
        seen = []
        for response in call:
            seen += response.events.events
            waiting -= {event.task_id for event in response.events.events if event.type in TERMINAL}
            if not waiting:
                call.cancel()
                return seen
        raise AssertionError(f"the watch ended; without an outcome: {sorted(waiting)}")

    def ended(self, *task_ids: str, timeout_s: float = END_TIMEOUT_S) -> list[task_pb2.Task]:
        """The tasks once all have ended, in the order asked."""
        self.events(task_ids, timeout_s)
        return [self.get(task_id) for task_id in task_ids]

    def output(self, task_id: str, stream: int) -> bytes:
        """Everything the latest attempt wrote to one stream of `Log.Stream`."""
        call = self.coordinator.tasks.ReadLogs(task_service_pb2.ReadLogsRequest(task_id=task_id), timeout=RPC_TIMEOUT_S)
        chunks = [chunk for response in call for chunk in response.chunks]
        return b"".join(chunk.log.data for chunk in chunks if chunk.log.stream == stream)


def function(name: str, *args: Any, **spec: Any) -> task_pb2.TaskSpec:
    """A function task with JSON arguments."""
    payload = task_pb2.Payload(data=msgspec.json.encode({"args": args}))
    return task_pb2.TaskSpec(function=task_pb2.PythonFunction(function=name, arguments=payload), **spec)


def command(argv: Iterable[str], **spec: Any) -> task_pb2.TaskSpec:
    """A command task."""
    return task_pb2.TaskSpec(command=task_pb2.Command(argv=argv), **spec)


def state_name(state: int) -> str:
    """The state without its prefix."""
    return task_pb2.TaskState.Name(task_pb2.TaskState.ValueType(state)).removeprefix("TASK_STATE_")


def reason_name(reason: int) -> str:
    """The reason without its prefix."""
    return task_pb2.TaskReason.Name(task_pb2.TaskReason.ValueType(reason)).removeprefix("TASK_REASON_")


def refusal(call: grpc.RpcError) -> errors.OutriderError:
    """The error of a failed call, after checking that it carries exactly one ErrorInfo as promised."""
    details = dict(call.trailing_metadata() or ())
    assert "grpc-status-details-bin" in details, f"no rich status: {call.code()}: {call.details()}"
    rich = status_pb2.Status.FromString(details["grpc-status-details-bin"])
    infos = [detail for detail in rich.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info = error_details_pb2.ErrorInfo()
    infos[0].Unpack(info)
    assert info.domain == "outrider"
    assert re.fullmatch("[A-Z][A-Z_]+", info.reason)
    assert rich.message == call.details()
    return status.from_rpc_error(call)


def one_line(text: str) -> str:
    """The only line of a text, which is no traceback."""
    (line,) = [line for line in text.splitlines() if line.strip()]
    assert "Traceback" not in line
    return line


def environment_of_tests(**extra: str) -> dict[str, str]:
    """The test's environment, with the tests' modules importable."""
    return {**os.environ, "PYTHONPATH": python_path(), **extra}


def python_path() -> str:
    """The tests' folder before what the environment says."""
    return os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
