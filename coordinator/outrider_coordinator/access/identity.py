"""From what a call shows to who makes it: certificates and tokens looked up in the book.

Invariants: who is not in the book is nobody, whoever signed its certificate; what has expired or is revoked is worth
nothing; a name never comes from anything but a verified certificate or a token's entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from outrider import certificates
from outrider.credentials import ApiToken
from outrider.errors import InvalidRequest, Unauthenticated
from outrider_coordinator.access.book import Book, Machine
from outrider_coordinator.access.principals import LOCAL, Door, Principal, Role

__all__ = ["Identities"]

#: Credentials of users known by the name in a certificate of another authority.
_BY_NAME = "name:"
_TOKEN_WANTED = (
    "show an API token (authorization: Bearer orapi_...); an administrator makes one with `outrider user token`"
)


class _Shown(NamedTuple):
    """What stands in a certificate: a SPIFFE id or another name, serial (hex), end (microseconds), key (hex point)."""

    name: str
    serial: str
    expires_us: int
    point: str


class Identities:
    """Who calls, by the book. ``cluster`` is the trust domain of our own certificates; empty without an authority."""

    def __init__(self, book: Book, cluster: str, now_us: Callable[[], int]) -> None:
        self._book = book
        self._cluster = cluster
        self._now_us = now_us

    def principal(
        self,
        door: Door,
        auth_context: Mapping[str, Iterable[bytes]],
        metadata: Sequence[tuple[str, str | bytes]],
    ) -> Principal:
        """Who makes this call. Raises `Unauthenticated`."""
        if door is Door.LOCAL:
            return LOCAL
        if door is Door.TOKEN:
            return self._by_token(metadata)
        shown = next(iter(auth_context.get("x509_pem_cert", ())), b"")
        if not shown:
            raise Unauthenticated("no certificate was shown")
        return self._by_certificate(_read(shown))

    def is_still(self, principal: Principal) -> bool:
        """True when a principal that was known is still good for what it may do."""
        if principal.door is Door.LOCAL:
            return True
        if principal.expires_us <= self._now_us():
            return False
        if principal.role is Role.AGENT and (machine := self._book.machines.get(principal.name)):
            return not machine.revoked_us
        if principal.credential.startswith(_BY_NAME):
            user = self._book.users.get(principal.name)
            standing = user.standing if user is not None else None
        else:
            standing = self._book.standing(principal.credential)
        found = (standing.role, frozenset(standing.namespaces)) if standing is not None else None
        return found == (principal.role, principal.namespaces)

    def _by_token(self, metadata: Sequence[tuple[str, str | bytes]]) -> Principal:
        given = next((value for key, value in metadata if key == "authorization"), "")
        scheme, _, text = given.partition(" ") if isinstance(given, str) else ("", "", "")
        if scheme.lower() != "bearer":
            raise Unauthenticated(_TOKEN_WANTED)
        try:
            credential = self._book.credential_of(ApiToken.parse(text))
        except InvalidRequest:
            raise Unauthenticated(_TOKEN_WANTED) from None
        if credential is None:
            raise Unauthenticated("this API token is not known")
        standing = self._book.standing(credential.id)
        if standing is None:
            why = "was revoked" if credential.revoked_us else "has expired"
            raise Unauthenticated(f"this API token {why}; an administrator makes another with `outrider user token`")
        return standing.shown_by(Door.TOKEN, credential.id, credential.expires_us)

    def _by_certificate(self, shown: _Shown) -> Principal:
        if shown.expires_us <= self._now_us():
            raise Unauthenticated("the certificate that was shown has expired")
        kind, _, name = shown.name.removeprefix(f"spiffe://{self._cluster}/").partition("/")
        is_ours = bool(self._cluster) and shown.name.startswith(f"spiffe://{self._cluster}/")
        if is_ours and kind == "agent":
            return self._agent(name, shown)
        return self._user(f"cert:{shown.serial}", shown) if is_ours else self._foreign(shown)

    def _agent(self, agent_id: str, shown: _Shown) -> Principal:
        machine = self._book.machines.get(agent_id)
        if machine is None or not _is_of(machine, shown.point):
            raise Unauthenticated(f"no agent {agent_id!r} with this key has joined; join again with a new token")
        if machine.revoked_us:
            raise Unauthenticated(f"the agent {agent_id!r} was revoked; to let it in again, join with a new token")
        credential = f"cert:{shown.serial}"
        return Principal(agent_id, Role.AGENT, frozenset(), Door.CERTIFICATE, credential, shown.expires_us)

    def _user(self, credential_id: str, shown: _Shown) -> Principal:
        standing = self._book.standing(credential_id)
        if standing is None:
            raise Unauthenticated("the certificate that was shown is not known here, or was revoked")
        return standing.shown_by(Door.CERTIFICATE, credential_id, shown.expires_us)

    def _foreign(self, shown: _Shown) -> Principal:
        """A certificate of somebody else's authority that we were told to believe: its name must be that of a user."""
        user = self._book.users.get(shown.name)
        if user is None:
            raise Unauthenticated(
                f"nobody called {shown.name!r} may call; an administrator lets it in with `outrider user put`"
            )
        return user.standing.shown_by(Door.CERTIFICATE, f"{_BY_NAME}{shown.name}", shown.expires_us)


def _is_of(machine: Machine, point: str) -> bool:
    return point in (machine.point, machine.previous)


@lru_cache(maxsize=1024)
def _read(pem: bytes) -> _Shown:
    certificate = certificates.certificate_of(pem)
    key = certificate.public_key()
    point = certificates.point_of(key).hex() if isinstance(key, ec.EllipticCurvePublicKey) else ""
    end_us = int(certificate.not_valid_after_utc.timestamp() * 1_000_000)
    return _Shown(_name(certificate), f"{certificate.serial_number:x}", end_us, point)


def _name(certificate: x509.Certificate) -> str:
    """Its SPIFFE id, else its first DNS name, else its common name."""
    if found := certificates.spiffe_of(certificate):
        return found
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = names.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        hosts = []
    common = [str(part.value) for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return next(iter([*hosts, *common]), "")
