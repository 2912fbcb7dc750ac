"""Letting machines and people in and out: what operators and joining machines ask for, over the book and the authority.

One change at a time, in a thread, because it writes and syncs; after each one the guard looks at every open stream
again. It must not know the wire. What it signs is in the book before it is handed out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec

from outrider import certificates
from outrider.credentials import ApiToken, JoinToken
from outrider.errors import IllegalTransition, InvalidRequest, Unauthenticated
from outrider.names import RULE, is_name
from outrider_coordinator.access.authority import AGENT_LIFE, Authority, Signed
from outrider_coordinator.access.book import Book, Credential, JoinGrant, Machine, User
from outrider_coordinator.access.guard import Guard
from outrider_coordinator.access.principals import Role

__all__ = ["RENEW_GRACE", "Joined", "Registrar"]

#: A machine that slept through its renewal may still renew for so long after its certificate ended.
RENEW_GRACE = timedelta(days=30)
USER_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,252}")
_NO_AUTHORITY = "this coordinator has no authority of its own; make one with `outrider coordinator init`"
_REFUSED = "this certificate cannot be renewed; join again with a new token"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Joined:
    """What a machine becomes: its name, its certificate, and what the token says about it."""

    agent_id: str
    signed: Signed
    trust: bytes
    labels: dict[str, str]


class Registrar:
    """All changes of who may call."""

    def __init__(
        self,
        book: Book,
        guard: Guard,
        authority: Authority | None,
        now_us: Callable[[], int],
        agent_life: timedelta = AGENT_LIFE,
    ) -> None:
        self.book = book
        self._agent_life = agent_life
        self._guard = guard
        self._authority = authority
        self._now_us = now_us
        self._lock = asyncio.Lock()
        #: Told after the server's certificate or the roots have changed.
        self.on_authority_changed: Callable[[], None] = lambda: None

    @property
    def authority(self) -> Authority:
        """Raises `IllegalTransition` without one."""
        if self._authority is None:
            raise IllegalTransition(_NO_AUTHORITY)
        return self._authority

    @property
    def trust(self) -> bytes:
        """Every root to believe, PEM; empty without an authority."""
        return self._authority.trust if self._authority is not None else b""

    def labels_of(self, agent_id: str) -> dict[str, str]:
        """What an agent was labelled with when it joined."""
        machine = self.book.machines.get(agent_id)
        return machine.labels if machine is not None else {}

    # Machines.

    async def new_join_token(
        self,
        created_by: str,
        *,
        agent: str,
        labels: dict[str, str],
        cidrs: Sequence[str],
        life_us: int,
        uses: int,
    ) -> tuple[JoinToken, JoinGrant]:
        """A token for machines."""
        point = self.authority.point
        if agent:
            _check_agent_name(agent)
        return await self._change(
            lambda: self.book.new_join_token(
                point,
                created_by=created_by,
                life_us=life_us,
                uses=uses,
                agent=agent,
                labels=labels,
                cidrs=tuple(cidrs),
            )
        )

    async def revoke_join_token(self, token_id: str) -> JoinGrant:
        """Raises `NotFound`."""
        return await self._change(lambda: self.book.revoke_join_token(token_id))

    async def join(self, token_id: str, secret: str, peer: str, agent_id: str, request: bytes) -> Joined:
        """A machine becomes an agent. Raises `Unauthenticated` or `InvalidRequest`."""
        return await self._change(lambda: self._join(token_id, secret, peer, agent_id, request))

    def _join(self, token_id: str, secret: str, peer: str, agent_id: str, request: bytes) -> Joined:
        key = certificates.request_of(request)
        point = certificates.point_of(key).hex()
        known = self.book.joins.get(token_id)
        agent_id = agent_id or (known.agent if known is not None else "")
        grant = self.book.admits(token_id, secret, peer, agent_id, point)
        _check_agent_name(agent_id)
        signed = self.authority.agent_certificate(agent_id, key, self._agent_life)
        now_us = self._now_us()
        machine = Machine(
            agent_id, point, signed.serial, now_us, now_us, signed.expires_us, signed.issuer, grant.labels
        )
        self.book.joined(grant, machine)
        return Joined(agent_id, signed, self.authority.trust, grant.labels)

    async def renew(self, certificate: bytes, request: bytes, signature: bytes) -> Joined:
        """The next certificate of an agent. Raises `Unauthenticated`, which says no more than it must."""
        return await self._change(lambda: self._renew(certificate, request, signature))

    def _renew(self, text: bytes, request: bytes, signature: bytes) -> Joined:
        shown = certificates.certificate_of(text)
        old, new = shown.public_key(), certificates.request_of(request)
        prefix = f"spiffe://{self.authority.cluster}/agent/"
        name = certificates.spiffe_of(shown)
        if not (
            name.startswith(prefix) and isinstance(old, ec.EllipticCurvePublicKey) and self.authority.verifies(shown)
        ):
            raise Unauthenticated(_REFUSED)
        if not certificates.is_signed_by(old, request, signature):
            raise Unauthenticated(_REFUSED)
        agent_id, point = name.removeprefix(prefix), certificates.point_of(old).hex()
        machine = self.book.machines.get(agent_id)
        if machine is None or machine.revoked_us or point not in (machine.point, machine.previous):
            raise Unauthenticated(_REFUSED)
        end_us = int((shown.not_valid_after_utc + RENEW_GRACE).timestamp() * 1_000_000)
        if end_us <= self._now_us():
            raise Unauthenticated(f"the certificate ended more than {RENEW_GRACE.days} days ago; join again")
        return self._renewed(machine, point, new)

    def _renewed(self, machine: Machine, old_point: str, key: ec.EllipticCurvePublicKey) -> Joined:
        signed = self.authority.agent_certificate(machine.id, key, self._agent_life)
        now_us, point = self._now_us(), certificates.point_of(key).hex()
        self.book.renewed(
            Machine(
                machine.id,
                point,
                signed.serial,
                machine.joined_us,
                now_us,
                signed.expires_us,
                signed.issuer,
                machine.labels,
                old_point if old_point != point else machine.previous,
            )
        )
        return Joined(machine.id, signed, self.authority.trust, machine.labels)

    async def revoke_agent(self, agent_id: str) -> Machine:
        """Raises `NotFound`."""
        return await self._change(lambda: self.book.revoke_machine(agent_id))

    # Users.

    async def put_user(self, name: str, role: Role, namespaces: Sequence[str]) -> User:
        """Raises `InvalidRequest` for a bad name."""
        if not USER_NAME.fullmatch(name):
            raise InvalidRequest(
                f"a user's name must be at most 253 of a-z, 0-9, '.', '_', '@', '-', a letter or digit first; "
                f"{name!r} is not"
            )
        return await self._change(lambda: self.book.put_user(name, role, tuple(namespaces)))

    async def remove_user(self, name: str) -> None:
        """Raises `NotFound`."""
        await self._change(lambda: self.book.remove_user(name))

    async def new_api_token(self, user: str, life_us: int) -> tuple[ApiToken, Credential]:
        """Raises `NotFound`."""
        point = self._authority.point if self._authority is not None else b""
        return await self._change(lambda: self.book.new_api_token(point, user, life_us))

    async def new_certificate(self, user: str, request: bytes, life: timedelta) -> tuple[Signed, Credential]:
        """Raises `NotFound`, `InvalidRequest` or `IllegalTransition`."""

        def work() -> tuple[Signed, Credential]:
            signed = self.authority.user_certificate(user, certificates.request_of(request), life)
            return signed, self.book.add_certificate(user, signed.serial, signed.expires_us)

        return await self._change(work)

    async def revoke_credential(self, credential_id: str) -> None:
        """Raises `NotFound`."""
        await self._change(lambda: self.book.revoke(credential_id))

    # The authority.

    async def rotate(self) -> list[tuple[str, datetime]]:
        """A new authority signs from now on; returns the roots. Raises `IllegalTransition`."""
        await self._change(self.authority.rotate)
        self.on_authority_changed()
        return self.authority.roots

    async def retire(self, *, force: bool) -> list[tuple[str, datetime]]:
        """The old authority is not believed any more; returns the roots. Raises `IllegalTransition`."""
        late = sorted(
            machine.id
            for machine in list(self.book.machines.values())
            if not machine.revoked_us
            and machine.issuer != self.authority.key_id
            and machine.expires_us > self._now_us()
        )
        if late and not force:
            raise IllegalTransition(
                f"{len(late)} agents have not renewed yet, such as {late[0]!r}; wait for them, or use force, after "
                "which they have to join again"
            )
        await self._change(self.authority.retire)
        self.on_authority_changed()
        return self.authority.roots

    async def _change(self, work: Callable[[], Result]) -> Result:
        async with self._lock:
            result = await asyncio.to_thread(work)
        self._guard.recheck()
        return result


def _check_agent_name(name: str) -> None:
    if not is_name(name):
        raise InvalidRequest(f"an agent's name must be {RULE}; not {name!r}")
