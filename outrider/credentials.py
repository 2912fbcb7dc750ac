"""Tokens as text: what is pasted to join a machine, and what a program shows to be let in. Pure.

A token is ``<kind>_<id>_<secret>``; one for joining ends with the public key of the cluster's authority, so that the
machine knows whom to trust before it has heard anything. Secrets have 190 bits, so a plain hash keeps them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass

from outrider.errors import InvalidRequest

__all__ = ["ApiToken", "JoinToken", "digest", "is_same"]

_ID = re.compile(r"[a-z0-9]{8}")
_SECRET = re.compile(r"[A-Za-z0-9]{32}")
#: A compressed point of P-256.
KEY_BYTES = 33


@dataclass(frozen=True, slots=True)
class ApiToken:
    """What a program shows instead of a certificate."""

    id: str
    secret: str

    @property
    def text(self) -> str:
        """As it is shown once and pasted."""
        return f"orapi_{self.id}_{self.secret}"

    @classmethod
    def parse(cls, text: str) -> ApiToken:
        """Raises `InvalidRequest`, which does not repeat the text."""
        parts = text.strip().split("_")
        if len(parts) != 3 or parts[0] != "orapi" or not (_ID.fullmatch(parts[1]) and _SECRET.fullmatch(parts[2])):
            raise InvalidRequest("this is no API token; one looks like orapi_<8 characters>_<32 characters>")
        return cls(parts[1], parts[2])


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a machine shows once to become an agent. ``authority_key`` is a compressed P-256 point, 33 bytes; empty
    where the coordinator's certificate is of somebody else's authority, which the machine must know by itself.
    """

    id: str
    secret: str
    authority_key: bytes = b""

    @property
    def text(self) -> str:
        """As it is shown once and pasted."""
        key = base64.b32encode(self.authority_key).decode().rstrip("=").lower()
        return f"orjoin_{self.id}_{self.secret}" + (f"_{key}" if key else "")

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Raises `InvalidRequest`, which does not repeat the text."""
        kind, token_id, secret, key = (*text.strip().split("_"), "", "", "", "")[:4]
        if kind != "orjoin" or not (_ID.fullmatch(token_id) and _SECRET.fullmatch(secret)):
            raise InvalidRequest(
                "this is no join token; `outrider agent token create` on the coordinator's machine prints one"
            )
        return cls(token_id, secret, _key(key))


def digest(secret: str) -> bytes:
    """What is stored of a secret: its SHA-256."""
    return hashlib.sha256(secret.encode()).digest()


def is_same(stored: bytes, secret: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(stored, digest(secret))


def _key(text: str) -> bytes:
    if not text:
        return b""
    try:
        key = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES or key[0] not in (2, 3):
        raise InvalidRequest("the end of this join token is damaged; copy the whole line again")
    return key
