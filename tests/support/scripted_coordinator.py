"""A real AgentService server that says what a test tells it to say, and writes down what the agent says.

It stands in for the coordinator in tests of the agent: sessions, acks and verdicts are as protocol.md has them, but
nothing is stored and nothing is decided. The server runs in a thread of its own; every method may be called from the
test.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from typing import Any

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from outrider.v1 import agent_service_pb2 as wire
from outrider.v1 import agent_service_pb2_grpc, task_pb2, worker_message_pb2
from support.waiting import eventually

HEARTBEAT_MS = 200


class ScriptedCoordinator(agent_service_pb2_grpc.AgentServiceServicer):
    """Use as a context manager; `address` is where it listens, also after `stop` and `start` again."""

    def __init__(self) -> None:
        self.address = "127.0.0.1:0"
        #: Set before `start` to speak TLS.
        self.credentials: grpc.ServerCredentials | None = None
        self.hellos: list[wire.Hello] = []
        self.reports: list[tuple[str, int, worker_message_pb2.WorkerMessage]] = []
        self.frames: list[wire.SessionRequest] = []
        self.applied: dict[str, int] = {}
        self.is_acking = True
        self.lease_s = 15.0
        #: Refuse every Hello with (gRPC code, reason, message).
        self.refusal: tuple[grpc.StatusCode, str, str] | None = None
        self.verdict: Callable[[wire.HeldAttempt], int] = lambda held: wire.VERDICT_RESUME
        self.epoch = 0
        self._outbound: asyncio.Queue[wire.SessionResponse | None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: grpc.aio.Server | None = None

    def __enter__(self) -> ScriptedCoordinator:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self) -> None:
        """Listen; the first time on a free port, then on the same one."""
        self._do(self._start()).result(10)

    def stop(self) -> None:
        """Break every stream and listen no more."""
        self._do(self._stop()).result(10)

    # --- what the test reads -----------------------------------------------------------------------------------

    def said(self, task_id: str) -> list[worker_message_pb2.WorkerMessage]:
        """Every message of a task, in the order it was first applied."""
        return [message for _, _, message in list(self.reports) if message.task_id == task_id]

    def kinds(self, task_id: str) -> list[str]:
        """Which kinds of message a task has sent; a start that travels with the end is one, too."""
        return [
            kind
            for message in self.said(task_id)
            for kind in (["started"] if message.HasField("start") else []) + [str(message.WhichOneof("message"))]
        ]

    def outcome(self, task_id: str, timeout_s: float = 20.0) -> worker_message_pb2.WorkerMessage:
        """Wait for the terminal message of a task."""
        return eventually(
            lambda: next((one for one in self.said(task_id) if one.terminal), None), timeout_s, f"outcome of {task_id}"
        )

    def wait_for(self, task_id: str, kind: str, timeout_s: float = 20.0) -> worker_message_pb2.WorkerMessage:
        """Wait for the first message of a kind."""
        return eventually(
            lambda: next((one for one in self.said(task_id) if one.WhichOneof("message") == kind), None),
            timeout_s,
            f"{kind} of {task_id}",
        )

    def wait_session(self, count: int = 1, timeout_s: float = 20.0) -> wire.Hello:
        """Wait until ``count`` sessions in all have been welcomed; the last Hello."""
        eventually(lambda: len(self.hellos) >= count and self.epoch >= count, timeout_s, f"session {count}")
        return self.hellos[-1]

    def refs(self, kind: str) -> list[str]:
        """Task ids in all frames of a kind (accepted, rejected, revoked)."""
        frames = [getattr(frame, kind) for frame in list(self.frames) if frame.WhichOneof("frame") == kind]
        return [ref.task_id for frame in frames for ref in frame.refs]

    def count(self, kind: str) -> int:
        """How many frames of a kind arrived."""
        return sum(1 for frame in list(self.frames) if frame.WhichOneof("frame") == kind)

    # --- what the test says ------------------------------------------------------------------------------------

    def send(self, **frame: Any) -> None:
        """One frame in the current session."""
        self._put(wire.SessionResponse(session_epoch=self.epoch, **frame))

    def assign(self, *assignments: wire.Assignment) -> None:
        """Work, in one frame."""
        self.send(assign=wire.Assign(assignments=assignments))

    def cancel(
        self, task_id: str, *, fenced: bool = False, grace_s: float | None = None, reason: task_pb2.TaskReason = 0
    ) -> None:
        """Kill a task's attempt; it then reports ``reason``."""
        cancel = wire.Cancel(refs=[ref(task_id)], message="cancel requested", fenced=fenced, reason=reason)
        if grace_s is not None:
            cancel.grace.FromMilliseconds(int(grace_s * 1000))
        self.send(cancel=cancel)

    def answer(self, task_id: str, key: str, text: str) -> None:
        """Resolve a wait."""
        payload = task_pb2.Payload(data=text.encode(), content_type="text/plain")
        resolution = task_pb2.Resolution(key=key, answer=payload, resolved_by="person:test")
        self.send(answer=wire.Answer(ref=ref(task_id), resolution=resolution))

    def acknowledge(self) -> None:
        """Acknowledge everything that has arrived."""
        applied = [wire.OutboxApplied(outbox_id=name, applied_seq=seq) for name, seq in self.applied.items()]
        self.send(ack=wire.Ack(applied=applied))

    def end_session(self) -> None:
        """End the stream without a word."""
        self._put(None)

    # --- the server --------------------------------------------------------------------------------------------

    async def Session(  # noqa: N802 - the RPC's name
        self, request_iterator: AsyncIterator[wire.SessionRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[wire.SessionResponse]:
        """One session, from Hello to the end of the stream."""
        first = await anext(aiter(request_iterator))
        self.hellos.append(first.hello)
        if self.refusal is not None:
            await context.abort_with_status(rpc_status.to_status(_status(*self.refusal)))
        outbound: asyncio.Queue[wire.SessionResponse | None] = asyncio.Queue()
        self._outbound = outbound
        self.epoch += 1
        yield self._welcome(first.hello)
        reader = asyncio.ensure_future(self._read(request_iterator, outbound))
        while (response := await outbound.get()) is not None:
            yield response
        reader.cancel()

    async def _read(
        self, requests: AsyncIterator[wire.SessionRequest], outbound: asyncio.Queue[wire.SessionResponse | None]
    ) -> None:
        async for request in requests:
            self.frames.append(request)
            if request.WhichOneof("frame") == "reports":
                self._apply(request.reports)
            elif request.WhichOneof("frame") == "heartbeat":
                lease = wire.Lease(boottime_ns=request.heartbeat.boottime_ns)
                lease.lease_duration.FromMilliseconds(int(self.lease_s * 1000))
                outbound.put_nowait(wire.SessionResponse(session_epoch=self.epoch, lease=lease))
        outbound.put_nowait(None)

    def _apply(self, reports: wire.Reports) -> None:
        applied = self.applied.get(reports.outbox_id, 0)
        assert reports.first_seq <= applied + 1, f"a gap: {reports.first_seq} after {applied}"
        for offset, message in enumerate(reports.messages):
            if reports.first_seq + offset > applied:
                applied = reports.first_seq + offset
                self.reports.append((reports.outbox_id, applied, message))
        self.applied[reports.outbox_id] = applied
        if self.is_acking:
            self.acknowledge()

    def _welcome(self, hello: wire.Hello) -> wire.SessionResponse:
        welcome = wire.Welcome(session_epoch=self.epoch, coordinator_epoch=1, store_id="scripted")
        welcome.heartbeat_interval.FromMilliseconds(HEARTBEAT_MS)
        welcome.lease_duration.FromMilliseconds(int(self.lease_s * 1000))
        for outbox in hello.outboxes:
            welcome.applied.add(outbox_id=outbox.outbox_id, applied_seq=self.applied.get(outbox.outbox_id, 0))
        for held in hello.held:
            welcome.verdicts.add(ref=held.ref, verdict=self.verdict(held))  # type: ignore[arg-type]  # by number
        return wire.SessionResponse(session_epoch=self.epoch, welcome=welcome)

    def _put(self, response: wire.SessionResponse | None) -> None:
        assert self._outbound is not None, "no session"
        self._loop.call_soon_threadsafe(self._outbound.put_nowait, response)

    def _do(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(self, self._server)
        if self.credentials is None:
            port = self._server.add_insecure_port(self.address)
        else:
            port = self._server.add_secure_port(self.address, self.credentials)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None


def ref(task_id: str, attempt: int = 1, fence: int = 7) -> wire.AttemptRef:
    """The reference `assignment` uses."""
    return wire.AttemptRef(task_id=task_id, attempt=attempt, fence=fence)


def function(task_id: str, name: str, *args: str, prefetched: bool = False, timeout_s: float = 0.0) -> wire.Assignment:
    """Work for a Python function; ``args`` are JSON values."""
    spec = task_pb2.TaskSpec()
    spec.function.function = name
    spec.function.arguments.data = f'{{"args": [{", ".join(args)}]}}'.encode()
    return _assignment(task_id, spec, prefetched=prefetched, timeout_s=timeout_s)


def command(task_id: str, argv: Iterable[str], *, timeout_s: float = 0.0) -> wire.Assignment:
    """Work for a program."""
    spec = task_pb2.TaskSpec()
    spec.command.argv.extend(argv)
    return _assignment(task_id, spec, prefetched=False, timeout_s=timeout_s)


def bounded(assignment: wire.Assignment, *, stall_s: float = 0.0, remaining_s: float = 0.0) -> wire.Assignment:
    """The same with a stall timeout, or with so much left of its task's deadline."""
    if stall_s:
        assignment.spec.stall_timeout.FromMilliseconds(int(stall_s * 1000))
    if remaining_s:
        assignment.remaining_duration.FromMilliseconds(int(remaining_s * 1000))
    return assignment


def exclusive(assignment: wire.Assignment) -> wire.Assignment:
    """The same as an exclusive task."""
    assignment.spec.exclusive = True
    return assignment


def at_most_once(assignment: wire.Assignment) -> wire.Assignment:
    """The same as a task that runs at most once."""
    assignment.spec.at_most_once = True
    return assignment


def _assignment(task_id: str, spec: task_pb2.TaskSpec, *, prefetched: bool, timeout_s: float) -> wire.Assignment:
    if timeout_s:
        spec.timeout.FromMilliseconds(int(timeout_s * 1000))
    return wire.Assignment(ref=ref(task_id), spec=spec, prefetched=prefetched, namespace="default")


def _status(code: grpc.StatusCode, reason: str, message: str) -> status_pb2.Status:
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="outrider"))
    number = code_pb2.Code.Value(code.name)
    return status_pb2.Status(code=number, message=message, details=[detail])
