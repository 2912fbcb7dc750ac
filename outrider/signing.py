"""Signed tasks: what a submitter signs, and what an agent, or anybody with the public key, verifies.

Owns the statement, the key files and the text form of public keys. Signed are the very bytes that travel; nobody makes
them a second time. A spec with signed work repeats everything of the signed spec but the work, so that a coordinator
can decide; an agent obeys the signed one. Knows no network.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from outrider.errors import InvalidRequest
from outrider.identity import SIGNING_KEY_ENVIRONMENT
from outrider.v1 import task_pb2
from outrider.work import check_size

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "PREFIX",
    "SCHEDULE_VALID_S",
    "VALID_S",
    "Signer",
    "blur",
    "chosen",
    "create_key",
    "is_signed_by",
    "key_id",
    "load_key",
    "public_bytes",
    "public_text",
    "read_public",
    "repeats",
    "sign_each",
    "signed_spec",
    "statement_of",
]

#: What every signature begins with: a key that also signs other things never signs a statement by accident.
PREFIX = b"outrider-signed-statement-1:"
#: How long a statement is good for, and how often one agent may start it, when its submitter does not say.
VALID_S, SCHEDULE_VALID_S, STARTS_MAX = 86_400, 90 * 86_400, 16
VALID_S_MAX = 10 * 365 * 86_400
NONCE_BYTES = 16
_KIND = "ed25519:"
#: The end of the year 9999, the last that a Timestamp may be of.
_SECONDS_MAX = 253_402_300_799


class Signer:
    """Signs with one key.

    ``valid_s`` counts from now, or from the task's earliest start; None is a day, and 90 days for what is submitted by
    the clock. ``starts_max`` bounds what one agent starts under one statement, 0 for no bound; it is raised to twice
    the attempts that the task may have, and there is none for what is submitted by the clock.
    """

    def __init__(self, key: Ed25519PrivateKey, *, valid_s: float | None = None, starts_max: int = STARTS_MAX) -> None:
        if valid_s is not None and not 0 < valid_s <= VALID_S_MAX:
            raise InvalidRequest(
                f"a signature is good for more than 0 s and at most {VALID_S_MAX} s, not {valid_s:g} s"
            )
        if not 0 <= starts_max < 2**32:
            raise InvalidRequest(f"starts_max counts starts, 0 for no bound; it cannot be {starts_max}")
        self._key = key
        self._key_id = key_id(public_bytes(key))
        self._valid_s = valid_s
        self._starts_max = starts_max

    def sign(self, spec: task_pb2.TaskSpec, namespace: str, *, by_the_clock: bool = False) -> None:
        """Put signed work in place of the spec's own. What is signed already stays as it is."""
        if spec.WhichOneof("work") == "signed":
            return
        statement = task_pb2.Statement(spec=spec, namespace=namespace, nonce=secrets.token_bytes(NONCE_BYTES))
        if self._starts_max and not by_the_clock:
            statement.starts_max = max(self._starts_max, 2 * spec.retry.max_attempts)
        valid_s = self._valid_s or (SCHEDULE_VALID_S if by_the_clock else VALID_S)
        begin_s = max(time.time(), spec.not_before.ToMicroseconds() / 1e6)
        statement.expire_time.FromMicroseconds(int((begin_s + valid_s) * 1e6))
        data = statement.SerializeToString()
        signature = self._key.sign(PREFIX + data)
        spec.signed.CopyFrom(task_pb2.SignedWork(statement=data, signature=signature, key_id=self._key_id))
        check_size(spec.ByteSize())

    def signed(self, spec: bytes, namespace: str) -> bytes:
        """As `sign`, for a serialized TaskSpec."""
        message = task_pb2.TaskSpec.FromString(spec)
        self.sign(message, namespace)
        return message.SerializeToString()


def chosen(given: str | os.PathLike[str] | Signer | None) -> Signer | None:
    """Who signs: as given, else by the key file of ``$OUTRIDER_SIGNING_KEY``; an empty name is nobody."""
    if isinstance(given, Signer):
        return given
    path = os.environ.get(SIGNING_KEY_ENVIRONMENT, "") if given is None else os.fspath(given)
    return Signer(load_key(Path(path).expanduser())) if path else None


def sign_each(
    specs: Iterable[task_pb2.TaskSpec], signer: Signer | None, namespace: str, *, by_the_clock: bool = False
) -> None:
    """Sign specs in place; with no signer they stay as they are."""
    if signer is not None:
        for spec in specs:
            signer.sign(spec, namespace, by_the_clock=by_the_clock)


# --- statements ------------------------------------------------------------------------------------------------------


def statement_of(signed: task_pb2.SignedWork) -> task_pb2.Statement:
    """What was signed. Raises `InvalidRequest` for what nobody should run, whoever signed it."""
    try:
        statement = task_pb2.Statement.FromString(signed.statement)
    except DecodeError:
        raise InvalidRequest("the signed statement cannot be read") from None
    if statement.spec.WhichOneof("work") not in ("function", "command"):
        raise InvalidRequest("the signed statement has no function and no command")
    expire_time = statement.expire_time
    is_time = 0 < expire_time.seconds <= _SECONDS_MAX and 0 <= expire_time.nanos < 1_000_000_000
    if not (statement.namespace and is_time and len(statement.nonce) == NONCE_BYTES):
        raise InvalidRequest(f"a signed statement needs a namespace, an expire_time and a nonce of {NONCE_BYTES} bytes")
    return statement


def signed_spec(spec: task_pb2.TaskSpec) -> task_pb2.TaskSpec:
    """The spec that runs: the signed one where there is one. For showing: nothing is verified, nothing raised."""
    if spec.WhichOneof("work") != "signed":
        return spec
    try:
        return statement_of(spec.signed).spec
    except InvalidRequest:
        return spec


def blur(spec: task_pb2.TaskSpec) -> None:
    """Leave of a signed spec what it has in common when it is signed once more: all but nonce, expiry and signature."""
    statement = statement_of(spec.signed)
    statement.ClearField("nonce")
    statement.ClearField("expire_time")
    spec.signed.statement = statement.SerializeToString(deterministic=True)
    spec.signed.ClearField("signature")


def repeats(spec: task_pb2.TaskSpec, signed: task_pb2.TaskSpec) -> bool:
    """Whether the spec around a statement says the same as the signed one, but for the work."""
    around, inside = task_pb2.TaskSpec(), task_pb2.TaskSpec()
    around.CopyFrom(spec)
    inside.CopyFrom(signed)
    around.ClearField("signed")
    inside.ClearField("function")
    inside.ClearField("command")
    return around == inside


def is_signed_by(public: bytes, signed: task_pb2.SignedWork) -> bool:
    """Whether the statement was signed with the key that has these 32 public bytes."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signed.signature, PREFIX + signed.statement)
    except InvalidSignature:
        return False
    return True


# --- keys ------------------------------------------------------------------------------------------------------------


def key_id(public: bytes) -> str:
    """The name of a key by its 32 public bytes: the beginning of their hash."""
    return hashlib.sha256(public).hexdigest()[:32]


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 public bytes."""
    return key.public_key().public_bytes_raw()


def public_text(public: bytes) -> str:
    """A public key as people paste it: ``ed25519:BASE64``."""
    return _KIND + base64.b64encode(public).decode()


def read_public(text: str) -> bytes:
    """The 32 public bytes of what `public_text` wrote. Raises `InvalidRequest`."""
    try:
        if not text.startswith(_KIND):
            raise ValueError
        public = base64.b64decode(text.removeprefix(_KIND), validate=True)
        if len(public) != 32:
            raise ValueError
    except (ValueError, binascii.Error):
        raise InvalidRequest(f"{text!r} is no public key; `outrider key show` prints it as {_KIND}BASE64") from None
    return public


def create_key(path: Path) -> Ed25519PrivateKey:
    """Make a key and write it into a new file, 0600. Raises `InvalidRequest` when there is one or it cannot be."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise InvalidRequest(f"{path} is there already, and is not replaced; choose another with --out") from None
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror}; choose another with --out") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """The key in a file. Raises `InvalidRequest` for one that others may read, or that holds no such key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise InvalidRequest(
            f"cannot read the signing key {path}: {error.strerror}; `outrider key create` makes one"
        ) from None
    if mode & 0o077:
        raise InvalidRequest(f"others may read the signing key {path}; `chmod 600 {path}`, and better make a new one")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidRequest(f"{path} holds no Ed25519 key without a password; `outrider key create` makes one")
    return key
