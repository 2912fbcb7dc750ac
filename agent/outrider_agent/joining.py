"""Becoming an agent of a cluster, and staying one: the two calls of JoinService, from keys made on this machine.

Speaks gRPC, so the keeper never imports it: it runs in the command that joins, and in a process of its own that renews
(``python -m outrider_agent.joining STATE_DIRECTORY``: exit code 0 once the next certificate is on disk, 1 with a line
on stderr). It must not know sessions. A private key never leaves the machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Both must be set before gRPC is imported: fork handlers break children, and it logs what is reported anyhow.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc

from outrider import certificates
from outrider.credentials import JoinToken
from outrider.endpoint import Endpoint
from outrider.errors import InvalidRequest, OutriderError, Unreachable, Untrusted
from outrider.status import TlsTrouble, from_rpc_error, tls_trouble
from outrider.v1 import join_service_pb2, join_service_pb2_grpc
from outrider_agent.identity import Cluster, IdentityFolder

CALL_TIMEOUT_S = 20.0


def join(
    state_directory: Path, address: str, token: JoinToken, name: str, ca: bytes = b""
) -> tuple[Cluster, dict[str, str]]:
    """Turn a token into an identity on disk; returns it and the labels that came with the token.

    ``ca``: PEM of the authority of a coordinator that has no authority of its own. Raises `Unauthenticated`,
    `InvalidRequest` or `Unreachable`, each with what to do.
    """
    endpoint = Endpoint.parse(address)
    roots = certificates.anchor(token.authority_key) if token.authority_key else ca
    if not roots:
        raise InvalidRequest("this token does not say whom to trust; give the coordinator's authority with --ca FILE")
    folder = IdentityFolder(state_directory)
    key = _pending_key(folder)
    request = join_service_pb2.JoinRequest(
        token_id=token.id,
        secret=token.secret,
        agent_id=name,
        certificate_request=certificates.request(key, name),
    )
    answer = _call(endpoint, roots, lambda service: service.Join(request, timeout=CALL_TIMEOUT_S))
    _check_pin(token, answer.trust)
    addresses = tuple(_filled(one, endpoint) for one in answer.addresses)
    cluster = Cluster(answer.agent_id, endpoint.target, addresses, _now_us(), _us(answer.expire_time))
    folder.write(cluster, answer.certificate_chain + certificates.key_pem(key), answer.trust)
    (folder.path / _PENDING).unlink(missing_ok=True)
    return cluster, dict(answer.labels)


def renew(state_directory: Path) -> Cluster:
    """Replace the identity on disk by one with a new key. Raises as `join`."""
    folder = IdentityFolder(state_directory)
    known = folder.cluster()
    if known is None:
        raise InvalidRequest(f"no identity in {folder.path}; join a cluster first")
    present = folder.certificate.read_bytes()
    old, new = certificates.load_key(_key_part(present)), certificates.new_key()
    request = certificates.request(new, known.agent_id)
    message = join_service_pb2.RenewRequest(
        certificate=present[: present.index(b"-----BEGIN PRIVATE KEY")],
        certificate_request=request,
        signature=certificates.sign(old, request),
    )
    endpoint = Endpoint.parse(known.join_address)
    answer = _call(endpoint, folder.trust.read_bytes(), lambda service: service.Renew(message, timeout=CALL_TIMEOUT_S))
    cluster = Cluster(known.agent_id, known.join_address, known.addresses, _now_us(), _us(answer.expire_time))
    folder.write(cluster, answer.certificate_chain + certificates.key_pem(new), answer.trust)
    return cluster


_PENDING = "pending-key.pem"


def _pending_key(folder: IdentityFolder) -> certificates.PrivateKey:
    """The key to join with: on disk before the call, so that asking again after a lost answer is the same machine."""
    path = folder.path / _PENDING
    if path.exists():
        return certificates.load_key(path.read_bytes())
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = certificates.new_key()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(certificates.key_pem(key))
    return key


def _call(endpoint: Endpoint, roots: bytes, call: Callable[[join_service_pb2_grpc.JoinServiceStub], Any]) -> Any:
    credentials = grpc.ssl_channel_credentials(roots)
    with grpc.secure_channel(endpoint.target, credentials, [("grpc.enable_retries", 0)]) as channel:
        try:
            return call(join_service_pb2_grpc.JoinServiceStub(channel))
        except grpc.RpcError as error:
            raise _explained(error, endpoint) from None


def _explained(error: grpc.RpcError, endpoint: Endpoint) -> OutriderError:
    """The coordinator's error, or what is wrong with the connection, in words."""
    found, trouble = from_rpc_error(error, endpoint.target), tls_trouble(error)
    if not isinstance(found, Unreachable):
        return found
    if trouble in (TlsTrouble.NAME, TlsTrouble.AUTHORITY):
        return Untrusted(
            f"what answers at {endpoint} is not the coordinator that this token is from, or its certificate is not for "
            f"the name {endpoint.host!r}: copy the whole line again, or make the certificate for that name with "
            "`outrider coordinator init --host`"
        )
    if trouble is TlsTrouble.NO_TLS or "handshake" in str(error.details()).lower():
        return Untrusted(f"{endpoint} does not speak TLS; join at the coordinator's join port, as the line says")
    return Unreachable(f"nobody answers at {endpoint}; is the coordinator running, and is its join port open to us?")


def _check_pin(token: JoinToken, trust: bytes) -> None:
    """The roots that came must hold the one that the token names."""
    if not token.authority_key:
        return
    from cryptography import x509

    points = [certificates.point_of_certificate(root) for root in x509.load_pem_x509_certificates(trust)]
    if token.authority_key not in points:
        raise InvalidRequest(
            "the coordinator's answer does not hold the authority that the token names; nothing is kept"
        )


def _filled(address: str, join_endpoint: Endpoint) -> str:
    """Where sessions are opened: a coordinator that does not know its own name is where the join port is."""
    endpoint = Endpoint.parse(address)
    if endpoint.host in ("", "0.0.0.0", "::"):
        endpoint = Endpoint(join_endpoint.host, endpoint.port)
    return endpoint.target


def _key_part(text: bytes) -> bytes:
    return text[text.index(b"-----BEGIN PRIVATE KEY") :]


def _us(timestamp: Any) -> int:
    return int(timestamp.seconds) * 1_000_000 + int(timestamp.nanos) // 1000


def _now_us() -> int:
    return time.time_ns() // 1000


def main() -> int:
    """Renew the identity of the state directory that is named."""
    try:
        renew(Path(sys.argv[1]))
    except (OutriderError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
