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
    """What a program shows instead of a certificate. ``authority_key`` as in `JoinToken`."""

    id: str
    secret: str
    authority_key: bytes = b""

    @property
    def text(self) -> str:
        """As it is shown once and pasted."""
        return _text("orapi", self.id, self.secret, self.authority_key)

    @classmethod
    def parse(cls, text: str) -> ApiToken:
        """Raises `InvalidRequest`, which does not repeat the text."""
        kind, token_id, secret, key = _parts(text)
        if kind != "orapi" or not (_ID.fullmatch(token_id) and _SECRET.fullmatch(secret)):
            raise InvalidRequest("this is no API token; an administrator makes one with `outrider user token`")
        return cls(token_id, secret, _key(key))


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
        return _text("orjoin", self.id, self.secret, self.authority_key)

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Raises `InvalidRequest`, which does not repeat the text."""
        kind, token_id, secret, key = _parts(text)
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


def _text(kind: str, token_id: str, secret: str, key: bytes) -> str:
    end = base64.b32encode(key).decode().rstrip("=").lower()
    return "_".join([kind, token_id, secret, *([end] if end else [])])


def _parts(text: str) -> tuple[str, str, str, str]:
    """Kind, id, secret and key; empty where the text has no more parts, all of them when it has too many."""
    parts = text.strip().split("_")
    if not 3 <= len(parts) <= 4:
        return "", "", "", ""
    return parts[0], parts[1], parts[2], parts[3] if len(parts) == 4 else ""


def _key(text: str) -> bytes:
    if not text:
        return b""
    try:
        key = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES or key[0] not in (2, 3):
        raise InvalidRequest("the end of this token is damaged; copy the whole line again")
    return key
