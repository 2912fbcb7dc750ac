"""The link: carries encoded frames between the keeper's socket and the gRPC stream, and exports spans.

Owns the channel and the stream; keeps nothing, so that it can be killed and started again at any moment. It must not
know what a frame means. Run as ``python -m outrider_agent.link --fd N --keeper-pid P --instance I``.

Invariants: one stream at a time, with one reading and one writing task that are never cancelled while they wait; the
last word on a stream is CLOSED; when the keeper is gone the link kills everything the keeper had started and exits.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path

# Both must be set before gRPC is imported: fork handlers break children, and it logs what is reported anyhow.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import grpc.aio
import uvloop
from google.rpc import error_details_pb2, status_pb2

from outrider import collector, sweep, telemetry
from outrider_agent.link_frames import (
    Closed,
    FrameBuffer,
    Kind,
    Target,
    decode_spans,
    decode_target,
    encode,
    encode_closed,
)
from outrider_agent.pipe import Pipe

METHOD = "/outrider.v1.AgentService/Session"
#: After half-closing, how long the coordinator has to end the stream.
HANG_UP_S = 1.0
#: How long a connection that shall replace another may take to stand.
WARM_TIMEOUT_S = 15.0
#: The keeper has not taken so much yet: read no more from the coordinator.
KEEPER_PENDING_BYTES_MAX = 4 << 20
SWEEP_TIMEOUT_S = 2.0
SPANS_DEADLINE_S = 1.0

#: Keepalive only reaps dead sockets (liveness comes from heartbeats); the ping timeout must be set beside it, or a
#: frozen peer is noticed after a minute.
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 15_000),
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(target: Target) -> grpc.aio.Channel:
    """A channel to the coordinator. Raises `OSError` naming the TLS file that cannot be read."""
    if not target.tls_ca:
        return grpc.aio.insecure_channel(target.address, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=Path(target.tls_ca).read_bytes(),
        private_key=Path(target.tls_key).read_bytes() if target.tls_key else None,
        certificate_chain=Path(target.tls_certificate).read_bytes() if target.tls_certificate else None,
    )
    return grpc.aio.secure_channel(target.address, credentials, options=CHANNEL_OPTIONS)


def reason_of(trailing_metadata: grpc.aio.Metadata | None) -> str:
    """The ErrorInfo reason among a call's trailing metadata; empty when there is none."""
    for key, value in trailing_metadata or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return ""


class Stream:
    """One Session stream from OPEN to CLOSED."""

    def __init__(
        self, target: Target, tell_keeper: Callable[[bytes], None], channel: grpc.aio.Channel | None = None
    ) -> None:
        self._target = target
        self._channel = channel
        self._tell_keeper = tell_keeper
        self._outbound: deque[bytes] = deque()
        self._has_outbound = asyncio.Event()
        self._is_finishing = False
        self._call: grpc.aio.StreamStreamCall[bytes, bytes] | None = None
        self.has_room = asyncio.Event()
        self.has_room.set()

    def put(self, data: bytes, *, is_urgent: bool) -> None:
        """Queue one request; an urgent one goes next."""
        if is_urgent:
            self._outbound.appendleft(data)
        else:
            self._outbound.append(data)
        self._has_outbound.set()

    def finish(self) -> None:
        """Half-close after everything queued; hang up if the other side does not answer that."""
        self._is_finishing = True
        self._has_outbound.set()
        asyncio.get_running_loop().call_later(HANG_UP_S, self._hang_up)

    async def run(self) -> None:
        """Connect, carry, and say how it ended."""
        try:
            async with self._channel or open_channel(self._target) as channel:
                closed = await self._carry(channel)
        except (OSError, ValueError) as error:
            closed = Closed("INVALID_ARGUMENT", "INVALID_REQUEST", str(error))
        self._tell_keeper(encode_closed(closed))

    async def _carry(self, channel: grpc.aio.Channel) -> Closed:
        stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        self._call = call = stream()
        writer: asyncio.Task[None] | None = None
        try:
            await call.wait_for_connection()
            self._tell_keeper(encode(Kind.OPENED))
            writer = asyncio.create_task(self._write(call))
            await self._read(call)
        except grpc.aio.AioRpcError:
            pass  # its status is read below, where a polite end has one too
        except asyncio.CancelledError:
            # Raised by our own hang-up: a call that is cancelled locally raises in whoever waits on it.
            pass
        self.finish()
        if writer is not None:
            await writer
        return await self._status(call)

    async def _read(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        while isinstance(data := await call.read(), bytes):
            self._tell_keeper(encode(Kind.DATA, data))
            await self.has_room.wait()

    async def _write(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        try:
            while not call.done():
                await self._has_outbound.wait()
                self._has_outbound.clear()
                while self._outbound:
                    await call.write(self._outbound.popleft())
                if self._is_finishing:
                    await call.done_writing()
                    return
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            return  # the stream is over; the reader knows how

    async def _status(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> Closed:
        code = await call.code()
        details = await call.details() or ""
        return Closed(code.name, reason_of(await call.trailing_metadata()), details)

    def _hang_up(self) -> None:
        if self._call is not None:
            self._call.cancel()


class Link:
    """The process: the keeper's socket on one side, at most one stream on the other."""

    def __init__(self, sock: socket.socket, keeper_pid: int, instance_id: str) -> None:
        loop = asyncio.get_running_loop()
        self.keeper_gone = asyncio.Event()
        self._frames = FrameBuffer()
        self._stream: Stream | None = None
        self._warm: tuple[Target, grpc.aio.Channel] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._exporter = _exporter(instance_id) if telemetry.is_configured() else None
        self._pipe = Pipe(loop, sock, self._received, self.keeper_gone.set, self._room)
        self._watch(loop, keeper_pid)

    def close(self) -> None:
        """Send the spans that are queued."""
        if self._exporter is not None:
            self._exporter.close(SPANS_DEADLINE_S)

    def _watch(self, loop: asyncio.AbstractEventLoop, keeper_pid: int) -> None:
        """Notice the keeper's death also when its end of the socket lives on in somebody else."""
        try:
            loop.add_reader(os.pidfd_open(keeper_pid), self.keeper_gone.set)
        except OSError:
            self.keeper_gone.set()

    def _received(self, data: bytes) -> None:
        for kind, body in self._frames.feed(data):
            if kind is Kind.OPEN:
                self._open(decode_target(body))
            elif kind is Kind.SPANS and self._exporter is not None:
                self._exporter.add(decode_spans(body))
            elif self._stream is not None and kind in (Kind.DATA, Kind.URGENT):
                self._stream.put(body, is_urgent=kind is Kind.URGENT)
            elif self._stream is not None and kind is Kind.CLOSE:
                self._stream.finish()
            elif kind is Kind.WARM:
                self._start(self._warm_up(decode_target(body)))

    def _open(self, target: Target) -> None:
        channel = self._warm[1] if self._warm is not None and self._warm[0] == target else None
        self._warm = None
        self._stream = Stream(target, self._tell_keeper, channel)
        self._start(self._stream.run())

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _warm_up(self, target: Target) -> None:
        """Connect beside the stream that is open, with the files as they are now."""
        problem = ""
        try:
            channel = open_channel(target)
            await asyncio.wait_for(channel.channel_ready(), WARM_TIMEOUT_S)
            self._warm = target, channel
        except TimeoutError:
            await channel.close()
            problem = f"no connection within {WARM_TIMEOUT_S:g} s"
        except (OSError, ValueError) as error:
            problem = str(error)
        self._tell_keeper(encode(Kind.WARMED, problem.encode()))

    def _tell_keeper(self, frame: bytes) -> None:
        self._pipe.write(frame)
        if self._stream is not None and self._pipe.pending_bytes > KEEPER_PENDING_BYTES_MAX:
            self._stream.has_room.clear()

    def _room(self) -> None:
        if self._stream is not None:
            self._stream.has_room.set()


def _exporter(instance_id: str) -> telemetry.SpanExporter:
    attributes = {"service.instance.id": instance_id, "host.name": socket.gethostname()}
    return telemetry.SpanExporter("outrider-agent", attributes)


async def carry(descriptor: int, keeper_pid: int, instance_id: str) -> None:
    """Work until the keeper is gone, then kill what it left. Does not return."""
    link = Link(socket.socket(fileno=descriptor), keeper_pid, instance_id)
    collector.calm()
    await link.keeper_gone.wait()
    left = sweep.kill_all(sweep.keeper_markers(instance_id), SWEEP_TIMEOUT_S)
    link.close()
    # Nothing is worth an orderly shutdown: the stream's end is the message.
    os._exit(1 if left else 0)


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="outrider_agent.link")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--keeper-pid", type=int, required=True)
    parser.add_argument("--instance", required=True)
    arguments = parser.parse_args()
    # The keeper decides when it is over; a signal to the whole service must not take the link away before.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    uvloop.run(carry(arguments.fd, arguments.keeper_pid, arguments.instance))


if __name__ == "__main__":
    main()
