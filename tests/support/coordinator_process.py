"""A real coordinator daemon as a child process, and a scripted agent on a real session stream."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc

from outrider.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    fleet_service_pb2_grpc,
    limit_service_pb2_grpc,
    run_service_pb2_grpc,
    schedule_service_pb2_grpc,
    task_service_pb2_grpc,
    worker_message_pb2,
)

READY_TIMEOUT_S = 30
#: A scripted agent is heard this often, however long its test takes for the next line.
HEARTBEAT_S = 1.0


class CoordinatorProcess:
    """One coordinator on a free loopback port with its state in ``folder``; `start` returns when it serves."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        self._arguments = arguments
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.channel: grpc.Channel | None = None

    def start(self) -> None:
        """Start it and wait for READY=1."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(path))
            ready.settimeout(READY_TIMEOUT_S)
            command = [sys.executable, "-m", "outrider_coordinator", "--state-directory", str(self.folder / "state")]
            command += ["--listen", "127.0.0.1:0", *self._arguments]
            environment = {**os.environ, "NOTIFY_SOCKET": str(path), **self._environment}
            self._process = subprocess.Popen(command, env=environment, stderr=(self.folder / "log").open("ab"))
            while b"READY=1" not in ready.recv(4096):
                pass
        self.address: str = json.loads((self.folder / "state" / "addresses.json").read_text())["addresses"][0]
        self.channel = grpc.insecure_channel(self.address)
        self.tasks = task_service_pb2_grpc.TaskServiceStub(self.channel)
        self.runs = run_service_pb2_grpc.RunServiceStub(self.channel)
        self.limits = limit_service_pb2_grpc.LimitServiceStub(self.channel)
        self.schedules = schedule_service_pb2_grpc.ScheduleServiceStub(self.channel)
        self.fleet = fleet_service_pb2_grpc.FleetServiceStub(self.channel)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        return self._end(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> int:
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        if self._process is None:
            return 0
        self._process.send_signal(number)
        code = self._process.wait(30)
        self._process = None
        return code


class ScriptedAgent:
    """An agent that does what the test says, over a real Session stream; heartbeats it sends by itself."""

    def __init__(
        self,
        coordinator: CoordinatorProcess | None,
        name: str,
        slots: int = 1,
        *,
        channel: grpc.Channel | None = None,
        **hello: Any,
    ) -> None:
        self.name = name
        self.seq = 0
        self._outgoing: SimpleQueue[agent_service_pb2.SessionRequest | None] = SimpleQueue()
        channel = channel or (coordinator.channel if coordinator is not None else None)
        assert channel is not None
        stub = agent_service_pb2_grpc.AgentServiceStub(channel)
        self.call = stub.Session(iter(self._outgoing.get, None), timeout=60)
        first = agent_service_pb2.Hello(
            **{"agent_id": name, "machine_id": "m", "instance_id": "i", "slots": slots, "parked_max": 8, **hello}
        )
        self._outgoing.put(agent_service_pb2.SessionRequest(hello=first))
        self.frames: Iterator[agent_service_pb2.SessionResponse] = iter(self.call)
        self.welcome = next(self.frames).welcome
        self._numbers: dict[tuple[str, int], int] = {}
        self._is_over = threading.Event()
        if not self.call.add_callback(self._is_over.set):
            self._is_over.set()
        threading.Thread(target=self._beat, daemon=True).start()

    def next(self, kind: str) -> Any:
        """The next frame of a kind; others are passed over."""
        for frame in self.frames:
            if frame.WhichOneof("frame") == kind:
                return getattr(frame, kind)
        raise AssertionError("the session ended")

    def send(self, **frame: Any) -> None:
        """Send one frame of this session."""
        epoch = self.welcome.session_epoch
        self._outgoing.put(agent_service_pb2.SessionRequest(session_epoch=epoch, **frame))

    def _beat(self) -> None:
        while not self._is_over.wait(HEARTBEAT_S):
            self.send(heartbeat=agent_service_pb2.Heartbeat())

    def report(self, ref: agent_service_pb2.AttemptRef, **message: Any) -> None:
        """Report one message of an attempt through the outbox."""
        key = (ref.task_id, ref.attempt)
        self._numbers[key] = self._numbers.get(key, 0) + 1
        self.seq += 1
        worker_message = worker_message_pb2.WorkerMessage(
            task_id=ref.task_id, attempt=ref.attempt, fence=ref.fence, number=self._numbers[key], **message
        )
        reports = agent_service_pb2.Reports(outbox_id=f"box-{self.name}", first_seq=self.seq, messages=[worker_message])
        self.send(reports=reports)

    def close(self, message: str = "") -> None:
        """Say goodbye and end the stream."""
        self._is_over.set()
        self.send(goodbye=agent_service_pb2.Goodbye(message=message))
        self._outgoing.put(None)
        for _ in self.frames:
            pass

    def vanish(self) -> None:
        """End the stream without a word."""
        self._is_over.set()
        self.call.cancel()
        self._outgoing.put(None)
