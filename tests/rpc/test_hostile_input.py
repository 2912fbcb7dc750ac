"""Bytes that nobody should send, to every port and every method: refused, and everybody else is served as before.

`make fuzz INPUTS=100000` sends more of them. All against a coordinator of the test's own on loopback.
"""

from __future__ import annotations

import os
import random
import resource
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import psutil
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from outrider.v1 import access_service_pb2, task_service_pb2, task_service_pb2_grpc
from outrider_coordinator.daemon import MODULES
from support.secured import ALONE, TIMEOUT_S, SecuredCoordinator
from support.waiting import eventually

INPUTS = int(os.environ.get("FUZZ_INPUTS", "1500"))
#: Idle connections cost gRPC 20 KB each before TLS, and its heap keeps that.
GROWTH_BYTES_MAX, CONNECTION_BYTES = 64 << 20, 40_000
#: `make fuzz` holds thousands open.
IDLE_CONNECTIONS = 500 if INPUTS < 10_000 else 5_000
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: What a refused call may end with; anything else is a fault of ours.
EXPECTED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
#: What random bytes that are no message end with: gRPC itself answers so before any handler runs.
UNREADABLE = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
LOOK_S = 0.05
TEXTS = ("", "a", "default", "x" * 5000, "../../etc/passwd", "\x00\x01", "ünï", "'; DROP TABLE tasks; --", "*", "{}")
Ended = tuple[grpc.StatusCode | None, str]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredCoordinator]:
    """One coordinator for all."""
    with SecuredCoordinator(tmp_path_factory.mktemp("hostile")) as made:
        yield made


@pytest.fixture(autouse=True)
def _served_as_before(secured: SecuredCoordinator) -> Iterator[None]:
    """After whatever was sent: the same process, hardly larger, serves every door."""
    process = psutil.Process(secured.process.pid)
    before = process.memory_info().rss
    yield
    assert process.is_running()
    assert process.status() != psutil.STATUS_ZOMBIE
    assert process.memory_info().rss - before < GROWTH_BYTES_MAX + CONNECTION_BYTES * IDLE_CONNECTIONS
    who = access_service_pb2.WhoAmIRequest()
    assert secured.access.WhoAmI(who, timeout=TIMEOUT_S).name == "local"
    stub = task_service_pb2_grpc.TaskServiceStub(secured.by_token(secured.token("witness", "VIEWER")))
    stub.List(task_service_pb2.ListRequest(), timeout=TIMEOUT_S)


def ports(secured: SecuredCoordinator) -> list[int]:
    """The port for certificates and the one for joining."""
    return [int(address.rpartition(":")[2]) for address in (secured.address, secured.join_address)]


def encrypted(secured: SecuredCoordinator) -> ssl.SSLSocket:
    """A TLS connection to the join port, which speaks HTTP/2 underneath."""
    context = ssl.create_default_context(cadata=secured.trust.decode())
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", ports(secured)[1]), timeout=TIMEOUT_S))


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def drained(connection: socket.socket) -> None:
    """Read until the other side has had enough."""
    with suppress(OSError):
        connection.settimeout(1.0)
        while connection.recv(65_536):
            pass


def test_bytes_that_are_no_tls_are_hung_up_on(secured: SecuredCoordinator) -> None:
    """Plain HTTP, HTTP/2 without TLS, a broken hello and noise, to every TLS port."""
    noise = random.Random(1)
    for port in ports(secured):
        for text in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            PREFACE + frame(4, 0, 0, b""),
            b"\x16\x03\x01\xff\xff" + noise.randbytes(2000),
            noise.randbytes(20_000),
            b"\x00" * 10_000,
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
                with suppress(OSError):
                    connection.sendall(text)
                    connection.shutdown(socket.SHUT_WR)
                drained(connection)


def test_broken_http2_is_hung_up_on(secured: SecuredCoordinator) -> None:
    """Inside TLS: no preface, frames that lie about their length, unknown frames, headers that are no headers."""
    noise = random.Random(2)
    for text in (
        noise.randbytes(5000),
        PREFACE + noise.randbytes(5000),
        PREFACE + frame(4, 0, 0, b"\x00" * 5),
        PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, noise.randbytes(500)),
        PREFACE + frame(4, 0, 0, b"") + b"\xff\xff\xff\x01\x04\x00\x00\x00\x01",
        PREFACE + frame(4, 0, 0, b"") + frame(0, 0, 77, b"data of a stream that is not there"),
        PREFACE + frame(4, 0, 0, b"") + frame(99, 255, 3, b"x" * 100),
    ):
        with encrypted(secured) as connection:
            with suppress(OSError):
                connection.sendall(text)
            drained(connection)


def test_streams_that_are_opened_and_reset_hold_nobody_up(secured: SecuredCoordinator) -> None:
    """Ten thousand streams opened and reset at once on one connection, as in HTTP/2 Rapid Reset (CVE-2023-44487)."""
    # :method POST, :scheme https, and a literal :path, in HPACK's static table (RFC 7541).
    path = b"/outrider.v1.JoinService/Join"
    headers = bytes([0x83, 0x87, 0x44, len(path)]) + path
    with encrypted(secured) as connection:
        connection.sendall(PREFACE + frame(4, 0, 0, b""))
        with suppress(OSError):
            for stream in range(1, 20_000, 2):
                connection.sendall(frame(1, 4, stream, headers) + frame(3, 0, stream, struct.pack(">I", 8)))
        drained(connection)


def test_idle_connections_hold_nobody_up(secured: SecuredCoordinator) -> None:
    """Hundreds of connections, or thousands, that say nothing, before TLS and after: others are served meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        for number in range(IDLE_CONNECTIONS):
            port = ports(secured)[number % 2]
            held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S))
        for _ in range(50):
            held.enter_context(encrypted(secured))
        assert secured.access.WhoAmI(access_service_pb2.WhoAmIRequest(), timeout=TIMEOUT_S).name == "local"
        token = secured.token("hurried", "VIEWER")
        stub = task_service_pb2_grpc.TaskServiceStub(secured.by_token(token))
        stub.List(task_service_pb2.ListRequest(), timeout=TIMEOUT_S)


def test_connections_beyond_the_bound_are_hung_up_on(tmp_path: Path) -> None:
    """Those that are there are served; a new one finds room when one of them goes."""
    with SecuredCoordinator(tmp_path, OUTRIDER_COORDINATOR_CONNECTIONS_MAX="8") as coordinator, ExitStack() as held:
        port = int(coordinator.join_address.rpartition(":")[2])
        token = coordinator.token("early", "VIEWER")
        stub = task_service_pb2_grpc.TaskServiceStub(coordinator.by_token(token))
        stub.List(task_service_pb2.ListRequest(), timeout=TIMEOUT_S)
        quiet = [held.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(7)]
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as late, suppress(ConnectionError):
            assert late.recv(1) == b""
        stub.List(task_service_pb2.ListRequest(), timeout=TIMEOUT_S)
        quiet[0].close()
        eventually(lambda: is_taken(port))


def is_taken(port: int) -> bool:
    """Whether a new connection is kept: nothing comes while it says nothing, and it is not closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=LOOK_S) as connection:
        try:
            return connection.recv(1) != b""
        except TimeoutError:
            return True
        except ConnectionError:
            return False


def methods() -> list[tuple[str, MethodDescriptor]]:
    """Every method of ours."""
    services = [service for module in MODULES for service in module.DESCRIPTOR.services_by_name.values()]
    return [(f"/{service.full_name}/{method.name}", method) for service in services for method in service.methods]


class Fuzzer:
    """Messages by the schema with values nobody would choose, and bytes by no schema at all."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def bytes_for(self, method: MethodDescriptor) -> bytes:
        """A request: noise, a message, or a message that was damaged."""
        kind = self._random.random()
        if kind < 0.15:
            return self._random.randbytes(self._random.choice((0, 1, 7, 300)))
        message = message_factory.GetMessageClass(method.input_type)()
        self._fill(message, 0)
        data = bytearray(message.SerializeToString())
        if kind < 0.35 and data:
            for _ in range(self._random.randint(1, 4)):
                data[self._random.randrange(len(data))] = self._random.randrange(256)
        return bytes(data)

    def _fill(self, message: Message, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if self._random.random() < (0.6 if depth < 3 else 0.15):
                with suppress(ValueError, TypeError, OverflowError):
                    self._set(message, field, depth)

    def _set(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        if field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry:
            with suppress(AttributeError):
                getattr(message, field.name)[self._text()] = self._text()
            return
        if field.message_type is not None:
            if depth < 4:
                holder = getattr(message, field.name)
                self._fill(holder.add() if field.is_repeated else holder, depth + 1)
            return
        value = self._scalar(field)
        if field.is_repeated:
            getattr(message, field.name).extend([value] * self._random.choice((1, 2, 50)))
        else:
            setattr(message, field.name, value)

    def _scalar(self, field: FieldDescriptor) -> object:
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            return self._text().encode() if field.type == FieldDescriptor.TYPE_BYTES else self._text()
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self._random.random() < 0.5
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return self._random.choice((0.0, -1.0, float("nan"), float("inf"), 1e308, 5e-324))
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return self._random.choice((0, 1, 2, 77, -1))
        return self._random.choice((0, 1, 2, -1, 2**31 - 1, 2**32 - 1, 2**63 - 1, -(2**63)))

    def _text(self) -> str:
        return self._random.choice(TEXTS)


def test_requests_that_nobody_would_send_are_refused_or_answered(secured: SecuredCoordinator) -> None:
    """Every method of every service, as an administrator, so that handlers are reached: no internal error, no hang."""
    seed = random.Random(os.environ.get("FUZZ_SEED", "7")).getrandbits(32)
    fuzzer, picked = Fuzzer(seed), random.Random(seed)
    skipped = {"RotateAuthority", "RetireAuthority", "Session"}  # the first two work; sessions come below
    known = [(path, method) for path, method in methods() if method.name not in skipped]
    channel = grpc.insecure_channel(secured.socket, ALONE)
    wrong = []
    for number in range(INPUTS):
        path, method = known[number % len(known)] if number < 2 * len(known) else picked.choice(known)
        data = fuzzer.bytes_for(method)
        code, text = ended(channel, path, method, data)
        # Only what gRPC cannot read at all may end so; our own handlers never do.
        is_ours = "internal error" in text or (code in UNREADABLE and "DecodeError" not in text)
        if code is not None and (code not in EXPECTED | UNREADABLE or is_ours):
            wrong.append((path, code, text, data[:200]))
    channel.close()
    assert not wrong, wrong[:5]


def ended(channel: grpc.Channel, path: str, method: MethodDescriptor, data: bytes) -> Ended:
    """How a call with these bytes ends: None when it is answered."""
    is_fed, is_stream = method.client_streaming, method.server_streaming
    make = getattr(channel, f"{'stream' if is_fed else 'unary'}_{'stream' if is_stream else 'unary'}")
    call = make(path, lambda raw: raw, lambda raw: raw)
    try:
        if is_stream:
            next(iter(call(iter([data]) if is_fed else data, timeout=LOOK_S)), None)
        else:
            call(data, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return None, ""


def test_an_agents_frames_that_make_no_sense_end_its_session_alone(secured: SecuredCoordinator) -> None:
    """Noise and nonsense on the session stream of an agent that has joined: its session ends, and it may come back."""
    identity = secured.joined("fuzzed")
    method = next(method for _, method in methods() if method.name == "Session")
    fuzzer = Fuzzer(11)
    path = "/outrider.v1.AgentService/Session"
    channel = secured.by_certificate(identity)
    for _ in range(max(100, INPUTS // 10)):
        code, text = ended(channel, path, method, fuzzer.bytes_for(method))
        assert "internal error" not in text, (code, text)
    eventually(lambda: "fuzzed" not in agents_online(secured))


def agents_online(secured: SecuredCoordinator) -> set[str]:
    """Agents with a session."""
    from outrider.v1 import fleet_service_pb2

    page = secured.fleet.ListAgents(fleet_service_pb2.ListAgentsRequest(), timeout=TIMEOUT_S)
    online = fleet_service_pb2.AGENT_CONNECTIVITY_ONLINE
    return {agent.id for agent in page.agents if agent.connectivity == online}
