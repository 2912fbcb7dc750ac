"""Facts of users, credentials and join tokens as messages, and the bounds of what may be asked for."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from outrider.v1 import access_service_pb2, fleet_service_pb2
from outrider_coordinator.access.book import Credential, JoinGrant, User
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.rpc import render
from outrider_coordinator.rpc.fields import duration_us, invalid

_DAY_US = 86_400 * SECOND_US
JOIN_LIFE_US, JOIN_LIFE_MAX_US = 900 * SECOND_US, 30 * _DAY_US
TOKEN_LIFE_US, TOKEN_LIFE_MAX_US = 90 * _DAY_US, 3650 * _DAY_US
CERTIFICATE_LIFE_US, CERTIFICATE_LIFE_MAX_US = 90 * _DAY_US, 397 * _DAY_US
JOIN_USES_MAX = 1000


def life_us(duration: Duration, field: str, otherwise_us: int, most_us: int) -> int:
    """How long something shall be good for, in microseconds; ``otherwise_us`` when nothing is said."""
    asked_us = duration_us(duration, field) or otherwise_us
    if asked_us > most_us:
        raise invalid(field, f"must be at most {most_us // _DAY_US} days")
    return asked_us


def uses(asked: int) -> int:
    """How many machines a join token is for."""
    if asked > JOIN_USES_MAX:
        raise invalid("uses", f"must be at most {JOIN_USES_MAX}")
    return asked or 1


def join_token(grant: JoinGrant) -> fleet_service_pb2.JoinToken:
    """A join token without its secret."""
    return fleet_service_pb2.JoinToken(
        id=grant.id,
        create_time=render.timestamp(grant.created_us),
        expire_time=render.timestamp(grant.expires_us),
        uses_left=grant.uses_left,
        agent_id=grant.agent,
        labels=grant.labels,
        cidrs=grant.cidrs,
        created_by=grant.created_by,
        used_by=sorted(grant.used_by.values()),
    )


def user(facts: User, credentials: list[Credential]) -> access_service_pb2.User:
    """A user with its credentials."""
    standing = facts.standing
    return access_service_pb2.User(
        name=standing.name,
        role=access_service_pb2.Role.ValueType(standing.role.value),
        namespaces=standing.namespaces,
        create_time=render.timestamp(standing.created_us),
        credentials=[credential(one) for one in credentials],
    )


def credential(facts: Credential) -> access_service_pb2.Credential:
    """A credential without its secret."""
    return access_service_pb2.Credential(
        id=facts.id,
        create_time=render.timestamp(facts.created_us),
        expire_time=render.timestamp(facts.expires_us),
        revoked=bool(facts.revoked_us),
    )
