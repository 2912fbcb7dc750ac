"""Whose signatures this agent believes, and for which namespaces.

Owns the form of trusted keys and the judgement of one statement. It must not know what the statement asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from outrider import signing
from outrider.errors import InvalidRequest
from outrider.v1 import task_pb2


class TrustedKey(NamedTuple):
    """A public key, its owner's name, and the namespaces it is good for; none: all."""

    name: str
    public: bytes
    namespaces: tuple[str, ...]


class TrustedKeys:
    """The keys of a policy, by key id."""

    def __init__(self, lines: Sequence[str]) -> None:
        keys = [_read(line) for line in lines]
        self._keys = {signing.key_id(key.public): key for key in keys}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def refusal(self, signed: task_pb2.SignedWork, statement: task_pb2.Statement, namespace: str, now_s: float) -> str:
        """Why a statement does not speak for a task of this namespace now; empty when it does."""
        key = self._keys.get(signed.key_id)
        if key is None:
            return f"it is signed with the key {signed.key_id[:32]!r}, which is not among policy.trusted_keys"
        if not signing.is_signed_by(key.public, signed):
            return f"its signature is not that of {key.name}: what was signed was changed on the way"
        if key.namespaces and statement.namespace not in key.namespaces:
            return f"the key of {key.name} is not good for namespace {statement.namespace!r} (policy.trusted_keys)"
        if statement.namespace != namespace:
            return f"{key.name} signed it for namespace {statement.namespace!r}, and it comes as of {namespace!r}"
        end_time = statement.expire_time
        if end_time.ToNanoseconds() / 1e9 <= now_s:
            return f"{key.name} signed it until {end_time.ToJsonString()}; submit it again, signed anew"
        return ""


def _read(line: str) -> TrustedKey:
    parts = line.split()
    if len(parts) not in (2, 3):
        raise InvalidRequest(f"policy.trusted_keys: {line!r} must be NAME ed25519:BASE64 [NAMESPACE,...]")
    try:
        public = signing.read_public(parts[1])
    except InvalidRequest as error:
        raise InvalidRequest(f"policy.trusted_keys: {error}") from None
    return TrustedKey(parts[0], public, tuple(filter(None, parts[2].split(","))) if len(parts) == 3 else ())
