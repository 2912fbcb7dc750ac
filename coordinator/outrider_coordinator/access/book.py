"""Who has been let in: users and their credentials, join tokens, agents' identities. Durable before it is answered.

A few thousand small facts in ``access.sqlite`` beside the store, all of them in memory too, so that a call is judged
without a read. They are not the core's: nothing that is decided over tasks depends on them. Secrets are kept as hashes.
It must not know gRPC, nor certificates beyond their serial numbers and keys.

Every method that changes something writes, syncs, and changes memory only then; call them in one thread at a time.
Invariants: a join token gives at most ``uses`` identities, and one key at most one of them; what is revoked stays so.
"""

from __future__ import annotations

import ipaddress
import secrets
import string
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw
import msgspec

from outrider import credentials
from outrider.errors import InvalidRequest, NotFound, OutriderError, Unauthenticated
from outrider_coordinator.access.principals import Role, Standing

__all__ = ["NAMED", "Book", "Credential", "JoinGrant", "Machine"]

SCHEMA_VERSION = 1
_ALPHABET = string.ascii_letters + string.digits
_ID_ALPHABET = string.ascii_lowercase + string.digits
_REFUSED = "this join token is not valid; make a new one with `outrider agent token create`"


class User(msgspec.Struct, frozen=True):
    """A person or a program; ``role`` is a `Role`'s name."""

    id: str
    role: str
    namespaces: tuple[str, ...] = ()
    created_us: int = 0

    @property
    def standing(self) -> Standing:
        """What it may do."""
        return Standing(self.id, Role[self.role], self.namespaces, self.created_us)


class Credential(msgspec.Struct, frozen=True):
    """A way a user shows who it is: an API token (``digest`` is that of its secret) or a certificate (its serial)."""

    id: str
    user: str
    created_us: int
    expires_us: int
    digest: bytes = b""
    revoked_us: int = 0

    @property
    def is_certificate(self) -> bool:
        """True for a certificate, False for an API token."""
        return not self.digest


class JoinGrant(msgspec.Struct, frozen=True):
    """A join token: what it is good for, and what is left of it. Empty ``agent``: any name the machine asks for."""

    id: str
    digest: bytes
    created_us: int
    expires_us: int
    uses_left: int
    created_by: str
    agent: str = ""
    labels: dict[str, str] = {}
    cidrs: tuple[str, ...] = ()
    #: Hex keys that it was used with, and the agent each became: a machine that lost the answer asks again.
    used_by: dict[str, str] = {}
    revoked_us: int = 0


class Machine(msgspec.Struct, frozen=True):
    """An agent's identity. ``point`` is its present public key in hex, ``previous`` the one before; ``issuer`` is the
    key id of the root that signed its present certificate.
    """

    id: str
    point: str
    serial: str
    joined_us: int
    renewed_us: int
    expires_us: int
    issuer: str
    labels: dict[str, str] = {}
    previous: str = ""
    revoked_us: int = 0


_KINDS: dict[str, type[msgspec.Struct]] = {
    "user": User,
    "credential": Credential,
    "join": JoinGrant,
    "machine": Machine,
}


#: The tables of a book, by the names of its attributes.
NAMED = ("users", "credentials", "joins", "machines")


class Book:
    """All of it. ``now_us`` is the wall clock in microseconds."""

    def __init__(self, path: Path, now_us: Callable[[], int]) -> None:
        """Open or make the file. Raises `InvalidRequest` for one of a newer version or a damaged one."""
        self._now_us = now_us
        self.users: dict[str, User] = {}
        self.credentials: dict[str, Credential] = {}
        self.joins: dict[str, JoinGrant] = {}
        self.machines: dict[str, Machine] = {}
        self._tables: dict[type[msgspec.Struct], tuple[str, dict[str, msgspec.Struct]]] = {
            User: ("user", self.users),  # type: ignore[dict-item]  # each table holds its own kind
            Credential: ("credential", self.credentials),  # type: ignore[dict-item]  # likewise
            JoinGrant: ("join", self.joins),  # type: ignore[dict-item]  # likewise
            Machine: ("machine", self.machines),  # type: ignore[dict-item]  # likewise
        }
        try:
            self._connection = _opened(path)
            self._load()
        except (apsw.Error, msgspec.DecodeError, KeyError) as error:
            raise InvalidRequest(f"{path} cannot be read: {error}; restore it from a backup") from None

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # Users and their credentials.

    def put_user(self, name: str, role: Role, namespaces: tuple[str, ...]) -> User:
        """Make a user or change what it may do."""
        known = self.users.get(name)
        user = User(name, role.name, tuple(sorted(set(namespaces))), known.created_us if known else self._now_us())
        self._write([user])
        return user

    def remove_user(self, name: str) -> list[Credential]:
        """Forget a user; every credential of it is revoked, and returned. Raises `NotFound`."""
        self._user(name)
        revoked = [self._revoked(one) for one in self.credentials.values() if one.user == name and not one.revoked_us]
        self._write(revoked, [User(name, Role.VIEWER.name)])
        return revoked

    def new_api_token(self, authority_key: bytes, user: str, life_us: int) -> tuple[credentials.ApiToken, Credential]:
        """A token for a user; what is stored cannot be turned back into it. Raises `NotFound`."""
        self._user(user)
        token = credentials.ApiToken(_random(_ID_ALPHABET, 8), _random(_ALPHABET, 32), authority_key)
        now_us = self._now_us()
        kept = Credential(f"token:{token.id}", user, now_us, now_us + life_us, credentials.digest(token.secret))
        self._write([kept])
        return token, kept

    def add_certificate(self, user: str, serial: str, expires_us: int) -> Credential:
        """Remember a certificate of a user. Raises `NotFound`."""
        self._user(user)
        kept = Credential(f"cert:{serial}", user, self._now_us(), expires_us)
        self._write([kept])
        return kept

    def revoke(self, credential_id: str) -> Credential:
        """A credential is good for nothing from now on. Raises `NotFound`."""
        found = self.credentials.get(credential_id)
        if found is None:
            raise NotFound(f"no credential {credential_id!r}; `outrider user list` shows those there are")
        revoked = found if found.revoked_us else self._revoked(found)
        self._write([revoked])
        return revoked

    def standing(self, credential_id: str) -> Standing | None:
        """What the holder of a credential may do now; None when it is unknown, revoked or expired, or its user gone."""
        found = self.credentials.get(credential_id)
        if found is None or found.revoked_us or found.expires_us <= self._now_us():
            return None
        user = self.users.get(found.user)
        return user.standing if user is not None else None

    def credential_of(self, token: credentials.ApiToken) -> Credential | None:
        """The credential that an API token is, if its secret is right; in constant time."""
        found = self.credentials.get(f"token:{token.id}")
        is_right = credentials.is_same(found.digest if found else b"", token.secret)
        return found if found is not None and is_right else None

    # Join tokens and the machines that used them.

    def new_join_token(
        self,
        authority_key: bytes,
        *,
        created_by: str,
        life_us: int,
        uses: int = 1,
        agent: str = "",
        labels: dict[str, str] | None = None,
        cidrs: tuple[str, ...] = (),
    ) -> tuple[credentials.JoinToken, JoinGrant]:
        """A token that lets machines join. Raises `InvalidRequest` for addresses that are none."""
        token = credentials.JoinToken(_random(_ID_ALPHABET, 8), _random(_ALPHABET, 32), authority_key)
        now_us = self._now_us()
        grant = JoinGrant(
            token.id,
            credentials.digest(token.secret),
            now_us,
            now_us + life_us,
            uses,
            created_by,
            agent,
            dict(labels or {}),
            tuple(str(_network(cidr)) for cidr in cidrs),
        )
        self._write([grant])
        return token, grant

    def revoke_join_token(self, token_id: str) -> JoinGrant:
        """A join token is good for nothing from now on; who has joined stays. Raises `NotFound`."""
        found = self.joins.get(token_id)
        if found is None:
            raise NotFound(f"no join token {token_id!r}; `outrider agent token list` shows those there are")
        revoked = msgspec.structs.replace(found, revoked_us=found.revoked_us or self._now_us())
        self._write([revoked])
        return revoked

    def good_joins(self) -> list[JoinGrant]:
        """Join tokens that are good for something, newest first."""
        now_us = self._now_us()
        good = [one for one in self.joins.values() if one.uses_left and not one.revoked_us and one.expires_us > now_us]
        return sorted(good, key=lambda one: (-one.created_us, one.id))

    def admits(self, token_id: str, secret: str, peer: str, agent_id: str, point: str) -> JoinGrant:
        """The grant by which the machine with this key may become this agent. Raises `Unauthenticated`.

        Who does not know the secret learns nothing; who does is told what is wrong. ``peer`` is its IP address.
        """
        grant = self.joins.get(token_id)
        is_right = credentials.is_same(grant.digest if grant else b"", secret)
        if grant is None or not is_right:
            raise Unauthenticated(_REFUSED)
        if problem := self._problem(grant, peer, agent_id, point):
            raise Unauthenticated(f"this join token {problem}")
        return grant

    def _problem(self, grant: JoinGrant, peer: str, agent_id: str, point: str) -> str:
        if grant.revoked_us:
            return "was revoked; make a new one with `outrider agent token create`"
        if grant.expires_us <= self._now_us():
            return "has expired; make a new one with `outrider agent token create`"
        if grant.cidrs and not any(_is_in(peer, cidr) for cidr in grant.cidrs):
            return f"is for machines in {', '.join(grant.cidrs)}, and this one comes from {peer}"
        if grant.agent and agent_id != grant.agent:
            return f"is for an agent called {grant.agent!r}, not {agent_id!r}"
        if point in grant.used_by:
            return "" if grant.used_by[point] == agent_id else "was used by this machine under another name"
        if grant.uses_left < 1:
            return "was used already; make a new one with `outrider agent token create`"
        known = self.machines.get(agent_id)
        if known is not None and not known.revoked_us and point != known.point:
            return (
                f"is good, but there is an agent {agent_id!r} already; choose another --name, or revoke that one with "
                f"`outrider agent revoke {agent_id}`"
            )
        return ""

    def joined(self, grant: JoinGrant, machine: Machine) -> None:
        """One use of a token, and the identity it gave."""
        if machine.point not in grant.used_by:
            used_by = grant.used_by | {machine.point: machine.id}
            grant = msgspec.structs.replace(grant, uses_left=grant.uses_left - 1, used_by=used_by)
        self._write([grant, machine])

    def renewed(self, machine: Machine) -> None:
        """An agent's identity goes on with another key."""
        self._write([machine])

    def revoke_machine(self, agent_id: str) -> Machine:
        """An agent's certificates are good for nothing from now on. Raises `NotFound`."""
        found = self.machines.get(agent_id)
        if found is None:
            raise NotFound(f"no agent {agent_id!r} has joined; `outrider agent list` shows those there are")
        revoked = msgspec.structs.replace(found, revoked_us=found.revoked_us or self._now_us())
        self._write([revoked])
        return revoked

    def _user(self, name: str) -> User:
        if name not in self.users:
            raise NotFound(f"no user {name!r}; make it with `outrider user put {name} --role submitter`")
        return self.users[name]

    def _revoked(self, credential: Credential) -> Credential:
        return msgspec.structs.replace(credential, revoked_us=self._now_us())

    def _load(self) -> None:
        tables = dict(self._tables.values())
        for kind, name, body in self._connection.execute("SELECT kind, id, body FROM fact"):
            tables[kind][name] = msgspec.json.decode(body, type=_KINDS[kind])

    def _write(self, facts: Sequence[msgspec.Struct], gone: Sequence[msgspec.Struct] = ()) -> None:
        rows = [(self._tables[type(fact)][0], _id(fact), msgspec.json.encode(fact).decode()) for fact in facts]
        lost = [(self._tables[type(fact)][0], _id(fact)) for fact in gone]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO fact VALUES (?, ?, ?)", rows)
                self._connection.executemany("DELETE FROM fact WHERE kind = ? AND id = ?", lost)
        except apsw.Error as error:
            raise OutriderError(f"the book of who may call cannot be written: {error}") from None
        for fact in facts:
            self._tables[type(fact)][1][_id(fact)] = fact
        for fact in gone:
            self._tables[type(fact)][1].pop(_id(fact), None)


def _id(fact: msgspec.Struct) -> str:
    name: str = fact.id  # type: ignore[attr-defined]  # every kind has one
    return name


def _opened(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    path.chmod(0o600)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version = next(iter(connection.execute("PRAGMA user_version")))[0]
    if version > SCHEMA_VERSION:
        raise InvalidRequest(f"{path} is of a newer version of Outrider; use that one")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS fact (kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, "
        "PRIMARY KEY (kind, id)) WITHOUT ROWID"
    )
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return connection


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def _network(cidr: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        raise InvalidRequest(f"{cidr!r} is no range of addresses, such as 10.0.0.0/8") from None


def _is_in(peer: str, cidr: str) -> bool:
    try:
        return ipaddress.ip_address(peer) in ipaddress.ip_network(cidr)
    except ValueError:
        return False
