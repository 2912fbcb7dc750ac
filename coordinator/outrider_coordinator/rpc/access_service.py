"""AccessService: users, their credentials, the authority and the audit log, as administrators order and see them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from outrider.v1 import access_service_pb2, access_service_pb2_grpc
from outrider_coordinator.access import audit
from outrider_coordinator.access.book import User
from outrider_coordinator.access.principals import Role, caller
from outrider_coordinator.access.registrar import Registrar
from outrider_coordinator.rpc import credentials, render
from outrider_coordinator.rpc.calls import Context, Service, streaming, unary
from outrider_coordinator.rpc.fields import at_most, invalid, word

NAMESPACES_MAX = 100
LINES_PER_FRAME = 200


class AccessService(Service, access_service_pb2_grpc.AccessServiceServicer):
    """Handlers of AccessService over one registrar and the file of the audit log.

    ``address`` is where certificates are shown.
    """

    def __init__(self, registrar: Registrar, audit_path: Path, address: Callable[[], str]) -> None:
        super().__init__()
        self._address = address
        self._registrar = registrar
        self._audit_path = audit_path

    @unary
    async def WhoAmI(
        self, request: access_service_pb2.WhoAmIRequest, context: Context
    ) -> access_service_pb2.WhoAmIResponse:
        """The caller."""
        who = caller.get()
        return access_service_pb2.WhoAmIResponse(
            name=who.name,
            role=access_service_pb2.Role.ValueType(who.role.value),
            namespaces=sorted(who.namespaces),
            credential_id=who.credential,
            expire_time=render.timestamp(who.expires_us) if who.expires_us else None,
            trust=self._registrar.trust,
            address=self._address(),
        )

    @unary
    async def PutUser(
        self, request: access_service_pb2.PutUserRequest, context: Context
    ) -> access_service_pb2.PutUserResponse:
        """Make or change a user."""
        if int(request.role) not in [role.value for role in Role]:
            raise invalid("role", "must be VIEWER, SUBMITTER, OPERATOR, ADMIN or AGENT")
        at_most(len(request.namespaces), NAMESPACES_MAX, "namespaces")
        for number, namespace in enumerate(request.namespaces):
            word(namespace, f"namespaces[{number}]", 63)
        user = await self._registrar.put_user(request.name, Role(request.role), request.namespaces)
        return access_service_pb2.PutUserResponse(user=self._shown(user))

    @unary
    async def ListUsers(
        self, request: access_service_pb2.ListUsersRequest, context: Context
    ) -> access_service_pb2.ListUsersResponse:
        """All users."""
        users = sorted(self._registrar.book.users.values(), key=lambda user: user.id)
        return access_service_pb2.ListUsersResponse(users=[self._shown(user) for user in users])

    @unary
    async def RemoveUser(
        self, request: access_service_pb2.RemoveUserRequest, context: Context
    ) -> access_service_pb2.RemoveUserResponse:
        """Forget a user."""
        await self._registrar.remove_user(request.name)
        return access_service_pb2.RemoveUserResponse()

    @unary
    async def CreateApiToken(
        self, request: access_service_pb2.CreateApiTokenRequest, context: Context
    ) -> access_service_pb2.CreateApiTokenResponse:
        """A token, shown once."""
        life_us = credentials.life_us(
            request.life_duration, "life_duration", credentials.TOKEN_LIFE_US, credentials.TOKEN_LIFE_MAX_US
        )
        token, kept = await self._registrar.new_api_token(request.user, life_us)
        return access_service_pb2.CreateApiTokenResponse(token=token.text, credential=credentials.credential(kept))

    @unary
    async def IssueCertificate(
        self, request: access_service_pb2.IssueCertificateRequest, context: Context
    ) -> access_service_pb2.IssueCertificateResponse:
        """A certificate for a user."""
        life_us = credentials.life_us(
            request.life_duration, "life_duration", credentials.CERTIFICATE_LIFE_US, credentials.CERTIFICATE_LIFE_MAX_US
        )
        life = timedelta(microseconds=life_us)
        signed, kept = await self._registrar.new_certificate(request.user, request.certificate_request, life)
        return access_service_pb2.IssueCertificateResponse(
            certificate_chain=signed.chain,
            trust=self._registrar.authority.trust,
            credential=credentials.credential(kept),
        )

    @unary
    async def RevokeCredential(
        self, request: access_service_pb2.RevokeCredentialRequest, context: Context
    ) -> access_service_pb2.RevokeCredentialResponse:
        """A credential is good for nothing any more."""
        await self._registrar.revoke_credential(request.credential_id)
        return access_service_pb2.RevokeCredentialResponse()

    @unary
    async def RotateAuthority(
        self, request: access_service_pb2.RotateAuthorityRequest, context: Context
    ) -> access_service_pb2.RotateAuthorityResponse:
        """A new authority signs."""
        return access_service_pb2.RotateAuthorityResponse(roots=_roots(await self._registrar.rotate()))

    @unary
    async def RetireAuthority(
        self, request: access_service_pb2.RetireAuthorityRequest, context: Context
    ) -> access_service_pb2.RetireAuthorityResponse:
        """The old authority is not believed any more."""
        roots = await self._registrar.retire(force=request.force)
        return access_service_pb2.RetireAuthorityResponse(roots=_roots(roots))

    @streaming
    async def ReadAudit(
        self, request: access_service_pb2.ReadAuditRequest, context: Context
    ) -> AsyncIterator[access_service_pb2.ReadAuditResponse]:
        """Lines of the audit log."""
        found = (line for line in audit.read(self._audit_path) if _is_wanted(line, request))
        while lines := await asyncio.to_thread(_some, found):
            yield access_service_pb2.ReadAuditResponse(lines=lines)

    def _shown(self, user: User) -> access_service_pb2.User:
        mine = [one for one in list(self._registrar.book.credentials.values()) if one.user == user.id]
        return credentials.user(user, sorted(mine, key=lambda one: (one.created_us, one.id)))


def _some(lines: Iterator[dict[str, Any]]) -> list[str]:
    return [json.dumps(line) for line in itertools.islice(lines, LINES_PER_FRAME)]


def _is_wanted(line: dict[str, Any], request: access_service_pb2.ReadAuditRequest) -> bool:
    return (
        line["number"] >= request.first_number
        and (not request.who or line["who"] == request.who)
        and not (request.refused and line["verdict"] in ("ok", "allowed"))
    )


def _roots(roots: list[tuple[str, datetime]]) -> list[access_service_pb2.Root]:
    return [
        access_service_pb2.Root(
            key_id=key_id, expire_time=render.timestamp(int(end.timestamp() * 1e6)), signs=number == 0
        )
        for number, (key_id, end) in enumerate(roots)
    ]
