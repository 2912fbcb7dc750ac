"""The server's certificate: from the cluster's own authority or from files, read again when it changes.

gRPC asks for it at each handshake, in a thread of its own, so a renewed certificate or another set of roots is in use
with the next connection, and connections that are open go on. Invariants: a pair that cannot be read, or does not fit
together, changes nothing: the last good one stays.
"""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from outrider import certificates, errors
from outrider.channel import read_pem
from outrider_coordinator.access.authority import Authority
from outrider_coordinator.settings import CoordinatorSettings

__all__ = ["FileSource", "OwnSource", "ServerTls", "source_of"]

logger = logging.getLogger(__name__)

#: Our own server certificate is made anew when it has less than this left.
RENEW_BEFORE = timedelta(days=60)


class Material(NamedTuple):
    """PEM texts: the server's key and chain, and the roots that clients' certificates must come from (b"" for none)."""

    key: bytes
    chain: bytes
    roots: bytes


class OwnSource:
    """Certificates of the cluster's own authority."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def material(self) -> Material:
        """What is used now; a server certificate that is about to end is made anew first."""
        key, chain = self._authority.server_pair()
        if certificates.certificate_of(chain).not_valid_after_utc - datetime.now(UTC) < RENEW_BEFORE:
            self._authority.renew_server()
            key, chain = self._authority.server_pair()
        return Material(key, chain, self._authority.trust)


class FileSource:
    """Certificates in files that somebody else looks after."""

    def __init__(self, certificate: str, key: str, client_ca: str) -> None:
        self._paths = (key, certificate, client_ca)

    def material(self) -> Material:
        """What the files hold. Raises `InvalidRequest` for files that cannot be read or do not fit together."""
        key, chain, roots = (read_pem(path) if path else b"" for path in self._paths)
        _check(key, chain, self._paths)
        return Material(key, chain, roots)


class ServerTls:
    """Credentials for server ports over one source."""

    def __init__(self, source: OwnSource | FileSource) -> None:
        """Raises `InvalidRequest` when the source has nothing good now."""
        self._source = source
        self._lock = threading.Lock()
        self._current = source.material()

    @property
    def verifies_clients(self) -> bool:
        """True when callers can show certificates."""
        return bool(self._current.roots)

    def reload(self) -> None:
        """Read the source again; what is bad changes nothing and is logged."""
        try:
            found = self._source.material()
        except (errors.OutriderError, OSError) as error:
            logger.error("the server's certificate is not read again: %s", error)
            return
        with self._lock:
            self._current = found

    def credentials(self, *, asks_clients: bool) -> grpc.ServerCredentials:
        """For a port where callers must show a certificate, or where they show none."""
        used = self._current

        def fetch() -> Any:
            """What changed since this port asked last; None, which the stubs do not know, says that nothing did."""
            nonlocal used
            with self._lock:
                if used == self._current:
                    return None
                used = self._current
            return _configuration(used, asks_clients)

        return grpc.dynamic_ssl_server_credentials(_configuration(used, asks_clients), fetch, asks_clients)


def source_of(settings: CoordinatorSettings, authority: Authority | None) -> OwnSource | FileSource | None:
    """Where the server's certificate comes from; None when it has none. Raises `InvalidRequest`."""
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if bool(certificate) != bool(key) or (client_ca and not key):
        raise errors.InvalidRequest("TLS needs tls_certificate and tls_key together; tls_client_ca comes with them")
    if certificate:
        return FileSource(certificate, key, client_ca)
    return OwnSource(authority) if authority is not None else None


def _configuration(material: Material, asks_clients: bool) -> grpc.ServerCertificateConfiguration:
    roots = material.roots if asks_clients else None
    return grpc.ssl_server_certificate_configuration([(material.key, material.chain)], root_certificates=roots)


def _check(key: bytes, chain: bytes, paths: tuple[str, str, str]) -> None:
    """Raises `InvalidRequest` unless key and certificate are a pair."""
    try:
        pair = serialization.load_pem_private_key(key, password=None), x509.load_pem_x509_certificate(chain)
        problem = "" if pair[0].public_key() == pair[1].public_key() else "the key is another one's"
    except (ValueError, TypeError) as error:
        problem = str(error)
    if problem:
        raise errors.InvalidRequest(f"{paths[1]} and {paths[0]} are no certificate and its key, both PEM: {problem}")
