"""Who calls: a name, a role and the namespaces it reaches. Pure.

Invariants: roles above VIEWER include those below; AGENT stands apart and includes nothing; a principal without
namespaces reaches all of them.
"""

from __future__ import annotations

import enum
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["LOCAL", "Door", "Principal", "Role", "Standing", "caller"]


class Role(enum.IntEnum):
    """What a principal may do; each of the first four includes those before it."""

    #: Look at tasks, runs, agents and limits.
    VIEWER = 1
    #: Submit, cancel, answer, retry, and schedule.
    SUBMITTER = 2
    #: Order agents about, define limits, make and revoke join tokens.
    OPERATOR = 3
    #: Give and take roles and tokens, read the audit log, change the authority.
    ADMIN = 4
    #: One agent's session, and nothing else.
    AGENT = 9

    def includes(self, other: Role) -> bool:
        """True when whoever has this role may do what ``other`` may."""
        if Role.AGENT in (self, other):
            return self is other
        return self >= other


class Door(enum.Enum):
    """How a call came in, which says how its caller is known."""

    #: A Unix socket or loopback without TLS: whoever can reach it owns this machine's account.
    LOCAL = "local"
    #: TLS with a certificate of the caller's.
    CERTIFICATE = "certificate"
    #: TLS with the server's certificate only: a token in the metadata, or none for those who want to join.
    TOKEN = "token"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller that is known. ``credential`` names what it showed (``cert:<serial>``, ``token:<id>``), for revocation.

    ``expires_us`` is the end of that credential in wall-clock microseconds; 0 for none.
    """

    name: str
    role: Role
    namespaces: frozenset[str] = frozenset()
    door: Door = Door.LOCAL
    credential: str = ""
    expires_us: int = 0

    def reaches(self, namespace: str) -> bool:
        """True when it may look into this namespace; "" is what a request says that does not say: ``default``."""
        return not self.namespaces or (namespace or "default") in self.namespaces


@dataclass(frozen=True, slots=True)
class Standing:
    """What a name has been granted: what the book keeps of people and programs."""

    name: str
    role: Role
    namespaces: tuple[str, ...] = ()
    created_us: int = 0

    def shown_by(self, door: Door, credential: str, expires_us: int) -> Principal:
        """The caller that this name is, by a credential that ends then."""
        return Principal(self.name, self.role, frozenset(self.namespaces), door, credential, expires_us)


#: Whoever reaches the coordinator without TLS, on its own machine.
LOCAL = Principal("local", Role.ADMIN)

#: Who makes the call that is being handled; set by the guard, read by handlers.
caller: ContextVar[Principal] = ContextVar("caller", default=LOCAL)
