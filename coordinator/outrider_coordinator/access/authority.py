"""The cluster's own certificate authority: its keys on disk, what it signs, and how it is replaced.

Files under ``<state>/authority``, 0600 in a folder of 0700: ``issuer.pem`` (who signs now, certificate and key),
``trust.pem`` (every root that is believed), ``cross.pem`` (the issuer signed by the root before it, while both are
believed), ``server.pem`` (the server's chain and its key). It must not know who may ask for a certificate.

Replacing the authority takes two steps. `rotate` makes a new root, signs it with the old one too, and signs with it
from then on: machines that know only the old root still verify the server by the cross certificate, and learn the new
root when they renew. `retire` stops believing the old one, once everybody has renewed.

Invariants: a file is replaced as a whole, and a key lies in the file of its certificate, so nobody reads half of a
change; `trust.pem` always holds the issuer; nothing is signed for longer than its root is valid.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from outrider import certificates, whole_file
from outrider.errors import IllegalTransition, InvalidRequest

__all__ = ["AGENT_LIFE", "Authority", "Signed", "server_names"]

ROOT_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=397)
AGENT_LIFE = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Signed:
    """A new certificate: its chain in PEM, its serial number in hex, and when it ends, in wall-clock microseconds.
    ``issuer`` is the key id of the root that signed it.
    """

    chain: bytes
    serial: str
    expires_us: int
    issuer: str


class Authority:
    """One cluster's authority, in memory and on disk."""

    def __init__(self, folder: Path) -> None:
        """Load it. Raises `InvalidRequest` when there is none, or a file of it is damaged."""
        self.folder = folder
        try:
            issuer = (folder / "issuer.pem").read_bytes()
            self._issuer, self._key = certificates.certificate_of(issuer), certificates.load_key(_split(issuer)[1])
            self._trust = x509.load_pem_x509_certificates((folder / "trust.pem").read_bytes())
            cross = folder / "cross.pem"
            self._cross = cross.read_bytes() if cross.exists() else b""
        except OSError as error:
            raise InvalidRequest(
                f"there is no authority in {folder} ({error.strerror}); make one with `outrider coordinator init`"
            ) from None

    @classmethod
    def make(cls, folder: Path, cluster: str, hosts: Sequence[str]) -> Authority:
        """A new authority with a certificate for its server. Raises `IllegalTransition` where there is one."""
        if (folder / "issuer.pem").exists():
            raise IllegalTransition(f"{folder} holds an authority already; it is kept as it is")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        key = certificates.new_key()
        root = _root(key)
        whole_file.replace(folder / "cluster", cluster.encode())
        whole_file.replace(folder / "trust.pem", certificates.pem(root))
        whole_file.replace(folder / "issuer.pem", certificates.pem(root) + certificates.key_pem(key))
        authority = cls(folder)
        authority.renew_server(hosts)
        return authority

    @property
    def cluster(self) -> str:
        """The trust domain in every identity of this cluster."""
        return (self.folder / "cluster").read_text()

    @property
    def point(self) -> bytes:
        """The public key of whoever signs now, as tokens carry it."""
        return certificates.point_of(_public(self._issuer))

    @property
    def trust(self) -> bytes:
        """Every root that is believed, PEM."""
        return b"".join(certificates.pem(root) for root in self._trust)

    @property
    def roots(self) -> list[tuple[str, datetime]]:
        """Key id and end of every root that is believed, the issuer's first."""
        found = [(certificates.key_id(_public(root)), root.not_valid_after_utc) for root in self._trust]
        return sorted(found, key=lambda one: (one[0] != self.key_id, one[0]))

    @property
    def key_id(self) -> str:
        """Which root signs now."""
        return certificates.key_id(_public(self._issuer))

    def agent_certificate(self, agent_id: str, key: ec.EllipticCurvePublicKey, life: timedelta = AGENT_LIFE) -> Signed:
        """A certificate for an agent's session."""
        return self._client(f"agent/{agent_id}", agent_id, key, life)

    def user_certificate(self, name: str, key: ec.EllipticCurvePublicKey, life: timedelta) -> Signed:
        """A certificate for a person or a program."""
        return self._client(f"user/{name}", name, key, life)

    def renew_server(self, hosts: Sequence[str] = ()) -> None:
        """A new key and certificate for the server; without ``hosts`` for the names that the present one has."""
        names = server_names(hosts) if hosts else self._server_names()
        key = certificates.new_key()
        alternatives = x509.SubjectAlternativeName(names)
        certificate = self._signed("coordinator", key.public_key(), SERVER_LIFE, alternatives, is_server=True)
        chain = certificates.pem(certificate) + self._cross
        whole_file.replace(self.folder / "server.pem", chain + certificates.key_pem(key))

    def server_pair(self) -> tuple[bytes, bytes]:
        """The server's key and its chain, PEM each."""
        chain, key = _split((self.folder / "server.pem").read_bytes())
        return key, chain

    def verifies(self, certificate: x509.Certificate) -> bool:
        """True when a root that is believed has signed this certificate; its dates are not looked at."""
        for root in self._trust:
            try:
                certificate.verify_directly_issued_by(root)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return True
        return False

    def rotate(self) -> None:
        """Sign with a new root from now on; the old one is believed until `retire`. Raises `IllegalTransition`."""
        if len(self._trust) > 1:
            raise IllegalTransition("two authorities are believed already; retire the old one first")
        key, old = certificates.new_key(), self._issuer
        root, cross = _root(key), _cross(key, old, self._key)
        # In this order a crash leaves an authority that works: trusted first, used last.
        whole_file.replace(self.folder / "trust.pem", certificates.pem(root) + certificates.pem(old))
        whole_file.replace(self.folder / "cross.pem", certificates.pem(cross))
        whole_file.replace(self.folder / "issuer.pem", certificates.pem(root) + certificates.key_pem(key))
        self._trust, self._issuer, self._key, self._cross = [root, old], root, key, certificates.pem(cross)
        self.renew_server()

    def retire(self) -> None:
        """Believe only whoever signs now. Raises `IllegalTransition` when there is nothing to retire."""
        if len(self._trust) == 1:
            raise IllegalTransition("only one authority is believed; `rotate` comes first")
        self._cross = b""
        self.renew_server()
        whole_file.replace(self.folder / "trust.pem", certificates.pem(self._issuer))
        (self.folder / "cross.pem").unlink(missing_ok=True)
        self._trust = [self._issuer]

    def _server_names(self) -> list[x509.GeneralName]:
        certificate = certificates.certificate_of((self.folder / "server.pem").read_bytes())
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)

    def _client(self, path: str, name: str, key: ec.EllipticCurvePublicKey, life: timedelta) -> Signed:
        identity = x509.UniformResourceIdentifier(f"spiffe://{self.cluster}/{path}")
        certificate = self._signed(name, key, life, x509.SubjectAlternativeName([identity]), is_server=False)
        end_us = int(certificate.not_valid_after_utc.timestamp() * 1_000_000)
        return Signed(certificates.pem(certificate), f"{certificate.serial_number:x}", end_us, self.key_id)

    def _signed(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        life: timedelta,
        alternatives: x509.SubjectAlternativeName,
        *,
        is_server: bool,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._issuer.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - certificates.SKEW)
            .not_valid_after(min(now + life, self._issuer.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(certificates.usage(signs_certificates=False), critical=True)
            .add_extension(alternatives, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def server_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """The names of a server's certificate: addresses as addresses, everything else as DNS names."""
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys((*hosts, "localhost", "127.0.0.1", "::1")):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(_dns_name(host))
    return names


def _dns_name(host: str) -> x509.DNSName:
    labels = host.removeprefix("*.").split(".")
    if len(host) > 253 or not all(label and label.replace("-", "").isalnum() and label.isascii() for label in labels):
        raise InvalidRequest(f"{host!r} is no host name or address that a certificate could be for")
    return x509.DNSName(host)


def _root(key: certificates.PrivateKey) -> x509.Certificate:
    name = certificates.authority_name(key.public_key())
    return _authority_builder(key, name, datetime.now(UTC) + ROOT_LIFE).sign(key, hashes.SHA256())


def _cross(key: certificates.PrivateKey, old: x509.Certificate, old_key: certificates.PrivateKey) -> x509.Certificate:
    """The new root, signed by the old one."""
    builder = _authority_builder(key, old.subject, old.not_valid_after_utc)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(old_key.public_key())
    return builder.add_extension(issuer, critical=False).sign(old_key, hashes.SHA256())


def _authority_builder(key: certificates.PrivateKey, issuer: x509.Name, end: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(certificates.authority_name(key.public_key()))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - certificates.SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(certificates.usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _public(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidRequest("the authority's key is not of the curve P-256")
    return key


def _split(text: bytes) -> tuple[bytes, bytes]:
    """Certificates and key of a file that holds both."""
    begin = text.find(b"-----BEGIN PRIVATE KEY")
    if begin < 0:
        raise InvalidRequest("a file of the authority holds no private key; restore it from a backup")
    return text[:begin], text[begin:]
