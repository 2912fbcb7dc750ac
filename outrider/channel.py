"""Channels to a coordinator: their options, TLS from files, and the refusal of plain text to another machine.

Owns how a client connects; it must not know what is called. A unary call that finds the coordinator away is tried
again by gRPC itself, which is safe because every call of ours can be repeated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from outrider import profiles
from outrider.endpoint import Endpoint
from outrider.errors import InvalidRequest
from outrider.v1 import fleet_service_pb2, run_service_pb2, task_service_pb2

__all__ = ["MESSAGE_BYTES_MAX", "TlsFiles", "connect", "connect_aio", "profile_channel", "read_pem"]

#: Largest message a client takes or sends; the coordinator's default.
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files for TLS: the authority to trust (it turns TLS on) and, for mutual TLS, a certificate and its key.

    ``token`` is an API token to show instead of a certificate.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""
    token: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> TlsFiles:
        """From ``OUTRIDER_TLS_CA``, ``OUTRIDER_TLS_CERTIFICATE``, ``OUTRIDER_TLS_KEY`` and ``OUTRIDER_TOKEN``."""
        environment = os.environ if environment is None else environment
        names = ("OUTRIDER_TLS_CA", "OUTRIDER_TLS_CERTIFICATE", "OUTRIDER_TLS_KEY", "OUTRIDER_TOKEN")
        return cls(*(environment.get(name, "") for name in names))

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Credentials to connect with; None without an authority. Raises `InvalidRequest` for a file that is wrong."""
        if bool(self.certificate) != bool(self.key) or (self.certificate and not self.ca):
            raise InvalidRequest("TLS needs the authority's file, and the certificate and the key together or neither")
        if not self.ca:
            return None
        files = grpc.ssl_channel_credentials(
            root_certificates=read_pem(self.ca),
            private_key=read_pem(self.key) if self.key else None,
            certificate_chain=read_pem(self.certificate) if self.certificate else None,
        )
        return with_token(files, self.token)


def with_token(credentials: grpc.ChannelCredentials, token: str) -> grpc.ChannelCredentials:
    """The same credentials, showing this API token with every call; none when it is empty."""
    if not token:
        return credentials
    return grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))


def connect(address: str, tls: TlsFiles | None = None) -> grpc.Channel:
    """A blocking channel. Raises `InvalidRequest` for a bad address, bad files or plain text to another machine.

    Without ``tls`` the environment decides, and where it says nothing, what `outrider login` kept for that address.
    """
    target, credentials = _checked(address, tls)
    if credentials is None:
        return grpc.insecure_channel(target, _options())
    return grpc.secure_channel(target, credentials, _options())


def connect_aio(address: str, tls: TlsFiles | None = None) -> grpc.aio.Channel:
    """A channel for asyncio; as `connect`."""
    target, credentials = _checked(address, tls)
    if credentials is None:
        return grpc.aio.insecure_channel(target, _options())
    return grpc.aio.secure_channel(target, credentials, _options())


def profile_channel(endpoint: Endpoint, profile: profiles.Profile) -> grpc.Channel:
    """A blocking channel by what a login knows. Raises `InvalidRequest` for roots that are no certificates."""
    credentials = with_token(grpc.ssl_channel_credentials(profile.trust.encode()), profile.token)
    return grpc.secure_channel(endpoint.target, credentials, _options())


def _checked(address: str, tls: TlsFiles | None) -> tuple[str, grpc.ChannelCredentials | None]:
    endpoint = Endpoint.parse(address)
    if endpoint.path:
        return endpoint.target, None
    credentials = (TlsFiles.from_environment() if tls is None else tls).credentials()
    if credentials is None and tls is None and (profile := profiles.of(endpoint.target)) is not None:
        credentials = with_token(grpc.ssl_channel_credentials(profile.trust.encode()), profile.token)
    if credentials is None and not endpoint.is_local:
        raise InvalidRequest(
            f"refusing to talk to {endpoint} in plain text: whoever is in between could read and change everything; "
            f"log in with `outrider login {endpoint}`, or set OUTRIDER_TLS_CA (--tls-ca) to the file of the "
            "coordinator's authority"
        )
    return endpoint.target, credentials


def read_pem(path: str) -> bytes:
    """A file that TLS needs. Raises `InvalidRequest` naming it when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read the TLS file {path}: {error.strerror}") from None


def _options() -> list[tuple[str, int | str]]:
    return [
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 3_000),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.service_config", json.dumps({"methodConfig": [{"name": _unary_methods(), "retryPolicy": _RETRY}]})),
    ]


def _unary_methods() -> list[dict[str, str]]:
    """Streams resume by themselves, with what they know; only unary calls are repeated by the channel."""
    modules = (task_service_pb2, run_service_pb2, fleet_service_pb2)
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    return [
        {"service": service.full_name, "method": method.name}
        for service in services
        for method in service.methods
        if not (method.client_streaming or method.server_streaming)
    ]
