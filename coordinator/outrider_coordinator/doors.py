"""The ports of the daemon, sorted by how callers show who they are, and the same services behind all of them.

One gRPC server for each kind of door that is open, so that the guard knows by which a call came: *local* (Unix sockets;
loopback while there is no TLS), *certificate* (TLS, both sides show one) and *token* (TLS, only the server shows one:
machines join there, programs show a token). It must not know what the services do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from outrider import errors
from outrider.endpoint import Endpoint
from outrider_coordinator.access.guard import Guard
from outrider_coordinator.access.principals import Door
from outrider_coordinator.rpc.calls import registry_of
from outrider_coordinator.settings import CoordinatorSettings
from outrider_coordinator.tls import ServerTls

__all__ = ["Doors", "sorted_doors"]

#: Adds one service to a server.
Adder = Callable[[grpc.aio.Server], None]


def sorted_doors(settings: CoordinatorSettings, tls: ServerTls | None) -> list[tuple[Door, Endpoint]]:
    """Every address to listen on and its kind of door. Raises `InvalidRequest` for one that would let anybody in."""
    found = [(_kind(Endpoint.parse(text), tls), Endpoint.parse(text)) for text in settings.listen]
    for text in settings.listen_join:
        endpoint = Endpoint.parse(text)
        if tls is None or endpoint.path:
            raise errors.InvalidRequest(
                f"listen_join ({endpoint}) takes TLS on a TCP port; run `outrider coordinator init --host NAME` first, "
                "or set tls_certificate and tls_key"
            )
        found.append((Door.TOKEN, endpoint))
    return found


def _kind(endpoint: Endpoint, tls: ServerTls | None) -> Door:
    if endpoint.path:
        return Door.LOCAL
    if tls is not None:
        return Door.CERTIFICATE if tls.verifies_clients else Door.TOKEN
    if endpoint.is_local:
        return Door.LOCAL
    raise errors.InvalidRequest(
        f"{endpoint} can be reached from other machines, and without TLS anybody there could run commands here; run "
        "`outrider coordinator init --host NAME` to make certificates, set tls_certificate and tls_key to your own, or "
        "listen on 127.0.0.1 or a Unix socket"
    )


class Doors:
    """The servers. ``services`` add themselves to each; ``joining`` to those where machines can join."""

    def __init__(
        self,
        guard: Guard,
        tls: ServerTls | None,
        options: list[tuple[str, int]],
        services: Iterable[Adder],
        joining: Adder,
        names: list[str],
        checks: health.aio.HealthServicer,
    ) -> None:
        self._guard = guard
        self._tls = tls
        self._options = options
        self._services = list(services)
        self._joining = joining
        self._names = names
        self._checks = checks
        self._servers: dict[Door, grpc.aio.Server] = {}
        #: What became of every address to listen on, in order; a port of 0 is known only then.
        self.bound: list[tuple[Door, Endpoint]] = []

    def open(self, endpoints: list[tuple[Door, Endpoint]]) -> None:
        """Bind every address. Raises `InvalidRequest` for one that cannot be bound."""
        for door, endpoint in endpoints:
            server = self._servers.get(door)
            if server is None:
                server = self._servers[door] = self._server(door)
            self.bound.append((door, self._bind(server, door, endpoint)))

    async def start(self) -> None:
        """Serve."""
        for server in self._servers.values():
            await server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and give those in progress this long."""
        for server in self._servers.values():
            await server.stop(grace_s)

    def addresses(self, *doors: Door) -> list[Endpoint]:
        """Where doors of these kinds are."""
        return [endpoint for door, endpoint in self.bound if door in doors]

    def _server(self, door: Door) -> grpc.aio.Server:
        server = grpc.aio.server(options=self._options)
        registry = registry_of(server, lambda path, handler: self._guard.guarded(door, path, handler))
        for add in self._services:
            add(registry)
        names = list(self._names)
        if door is Door.TOKEN:
            self._joining(registry)
            names.append("outrider.v1.JoinService")
        health_pb2_grpc.add_HealthServicer_to_server(self._checks, registry)
        known = reflection.aio.ReflectionServicer((*names, health.SERVICE_NAME, reflection.SERVICE_NAME))
        add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server  # its stubs have no types
        add_reflection(known, registry)
        return server

    def _bind(self, server: grpc.aio.Server, door: Door, endpoint: Endpoint) -> Endpoint:
        try:
            if door is Door.LOCAL:
                port = server.add_insecure_port(endpoint.target)
            else:
                assert self._tls is not None, "sorted_doors refuses other doors without TLS"
                credentials = self._tls.credentials(asks_clients=door is Door.CERTIFICATE)
                port = server.add_secure_port(endpoint.target, credentials)
        except RuntimeError:
            raise errors.InvalidRequest(
                f"cannot listen on {endpoint}: it is in use or not an address of this machine; "
                "stop the other program or choose another --listen"
            ) from None
        return endpoint if endpoint.path else Endpoint(endpoint.host, port)
