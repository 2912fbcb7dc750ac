"""A real coordinator with an authority of its own, and callers of every kind: local, by token, by certificate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc

from outrider import certificates
from outrider.credentials import JoinToken
from outrider.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    join_service_pb2,
    join_service_pb2_grpc,
)
from outrider_coordinator.access.authority import Authority
from support.coordinator_process import CoordinatorProcess

TIMEOUT_S = 20
ROLES = ("VIEWER", "SUBMITTER", "OPERATOR", "ADMIN")
#: Each channel its own connections: a certificate of another channel must not serve for this one.
ALONE = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]


class SecuredCoordinator:
    """Use as a context manager. ``local``, ``anonymous``: channels to the Unix socket, and to the join port."""

    def __init__(self, folder: Path, *flags: str, **environment: str) -> None:
        self.state = folder / "coordinator" / "state"
        self.authority_folder = self.state / "authority"
        Authority.make(self.authority_folder, "test", ["localhost"])
        self.socket = f"unix:{folder}/local.sock"
        named = ("--listen-join", "127.0.0.1:0", "--listen", self.socket, *flags)
        self.process = CoordinatorProcess(folder / "coordinator", *named, **environment)
        self._channels: list[grpc.Channel] = []

    def __enter__(self) -> SecuredCoordinator:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for channel in self._channels:
            channel.close()
        self.process.kill()

    def start(self) -> None:
        """Start it, or start it again on other ports."""
        self.process.start()
        document = json.loads((self.state / "addresses.json").read_text())
        self.address: str = document["addresses"][0]
        self.join_address: str = document["join"][0]
        self.local = self._opened(grpc.insecure_channel(self.socket, ALONE))
        self.anonymous = self.by_token("")
        self.access = access_service_pb2_grpc.AccessServiceStub(self.local)
        self.fleet = fleet_service_pb2_grpc.FleetServiceStub(self.local)
        self.join = join_service_pb2_grpc.JoinServiceStub(self.anonymous)

    @property
    def trust(self) -> bytes:
        """The roots it believes."""
        return (self.authority_folder / "trust.pem").read_bytes()

    def _opened(self, channel: grpc.Channel) -> grpc.Channel:
        self._channels.append(channel)
        return channel

    def by_token(self, token: str, trust: bytes = b"") -> grpc.Channel:
        """A channel to the join port that shows a token, or nothing."""
        credentials = grpc.ssl_channel_credentials(trust or self.trust)
        if token:
            credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
        return self._opened(grpc.secure_channel(self.join_address, credentials, ALONE))

    def by_certificate(self, pem: bytes, trust: bytes = b"") -> grpc.Channel:
        """A channel to the port for certificates; ``pem`` is certificate and key."""
        credentials = grpc.ssl_channel_credentials(trust or self.trust, pem, pem)
        return self._opened(grpc.secure_channel(self.address, credentials, ALONE))

    def user(self, name: str, role: str, *namespaces: str) -> None:
        """Make a user."""
        number = access_service_pb2.Role.Value(f"ROLE_{role}")
        request = access_service_pb2.PutUserRequest(name=name, role=number, namespaces=namespaces)
        self.access.PutUser(request, timeout=TIMEOUT_S)

    def token(self, name: str, role: str = "SUBMITTER", *namespaces: str) -> str:
        """A user with a token."""
        self.user(name, role, *namespaces)
        request = access_service_pb2.CreateApiTokenRequest(user=name)
        return str(self.access.CreateApiToken(request, timeout=TIMEOUT_S).token)

    def certificate(self, name: str, role: str = "SUBMITTER", *namespaces: str) -> tuple[bytes, str]:
        """A user with a certificate: PEM of it and its key, and the credential's id."""
        self.user(name, role, *namespaces)
        key = certificates.new_key()
        request = access_service_pb2.IssueCertificateRequest(
            user=name, certificate_request=certificates.request(key, name)
        )
        reply = self.access.IssueCertificate(request, timeout=TIMEOUT_S)
        return reply.certificate_chain + certificates.key_pem(key), reply.credential.id

    def join_token(self, **facts: Any) -> JoinToken:
        """A join token."""
        reply = self.fleet.CreateJoinToken(fleet_service_pb2.CreateJoinTokenRequest(**facts), timeout=TIMEOUT_S)
        return JoinToken.parse(reply.token)

    def joined(self, name: str, key: certificates.PrivateKey | None = None) -> bytes:
        """An agent's certificate and key, PEM, by a token of its own."""
        key = key or certificates.new_key()
        answer = self.join.Join(join_request(self.join_token(), name, key), timeout=TIMEOUT_S)
        return answer.certificate_chain + certificates.key_pem(key)


def join_request(
    token: JoinToken, name: str, key: certificates.PrivateKey | None = None
) -> join_service_pb2.JoinRequest:
    """What a machine says to join."""
    request = certificates.request(key or certificates.new_key(), name)
    return join_service_pb2.JoinRequest(
        token_id=token.id, secret=token.secret, agent_id=name, certificate_request=request
    )
