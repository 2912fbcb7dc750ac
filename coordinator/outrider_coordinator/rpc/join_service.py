"""JoinService: machines becoming agents, on a port where callers are nobody yet, so that everything here is bounded."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Callable

from outrider import errors
from outrider.v1 import join_service_pb2, join_service_pb2_grpc
from outrider_coordinator.access.registrar import Registrar
from outrider_coordinator.access.throttle import Throttle
from outrider_coordinator.rpc import render
from outrider_coordinator.rpc.calls import Context, Service, unary

#: Longer is no certificate, request or signature of ours.
TEXT_BYTES_MAX = 8192


def join_throttle() -> Throttle:
    """Joining is rare: a handful of calls at once from one address, and not many from all of them together."""
    return Throttle(per_s=0.5, burst=20, all_per_s=50.0, all_burst=200, monotonic_s=time.monotonic)


class JoinService(Service, join_service_pb2_grpc.JoinServiceServicer):
    """Handlers of JoinService. ``addresses`` is where sessions are opened."""

    def __init__(self, registrar: Registrar, throttle: Throttle, addresses: Callable[[], list[str]]) -> None:
        super().__init__()
        self._registrar = registrar
        self._throttle = throttle
        self._addresses = addresses

    @unary
    async def Join(self, request: join_service_pb2.JoinRequest, context: Context) -> join_service_pb2.JoinResponse:
        """Turn a token into an identity."""
        peer = self._let_in(request.certificate_request, context)
        joined = await self._registrar.join(
            request.token_id, request.secret, peer, request.agent_id, request.certificate_request
        )
        return join_service_pb2.JoinResponse(
            agent_id=joined.agent_id,
            certificate_chain=joined.signed.chain,
            trust=joined.trust,
            addresses=self._addresses(),
            labels=joined.labels,
            expire_time=render.timestamp(joined.signed.expires_us),
        )

    @unary
    async def Renew(self, request: join_service_pb2.RenewRequest, context: Context) -> join_service_pb2.RenewResponse:
        """The next certificate."""
        self._let_in(request.certificate + request.certificate_request + request.signature, context)
        joined = await self._registrar.renew(request.certificate, request.certificate_request, request.signature)
        return join_service_pb2.RenewResponse(
            certificate_chain=joined.signed.chain,
            trust=joined.trust,
            expire_time=render.timestamp(joined.signed.expires_us),
        )

    def _let_in(self, texts: bytes, context: Context) -> str:
        """The caller's address, unless it calls too often. Raises `RateLimited` or `InvalidRequest`."""
        peer = peer_address(context.peer())
        self._throttle.take(peer)
        if len(texts) > TEXT_BYTES_MAX:
            raise errors.InvalidRequest("what was sent is too long to be a certificate or a request for one")
        return peer


def peer_address(peer: str) -> str:
    """The IP address in gRPC's ``ipv4:1.2.3.4:5`` or ``ipv6:%5B::1%5D:5``; the whole text for anything else."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    return urllib.parse.unquote(rest).rpartition(":")[0].strip("[]")
