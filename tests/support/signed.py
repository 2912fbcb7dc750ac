"""Signed work for tests: keys made on the spot, statements that were tampered with, and assignments of them."""

from __future__ import annotations

import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from outrider import signing
from outrider.v1 import agent_service_pb2 as wire
from outrider.v1 import task_pb2
from outrider.work import Options, command_spec


def new_key() -> Ed25519PrivateKey:
    """A key that nobody has seen."""
    return Ed25519PrivateKey.generate()


def trusted(key: Ed25519PrivateKey, name: str = "ann", namespaces: str = "") -> str:
    """The line that makes an agent trust a key."""
    return f"{name} {signing.public_text(signing.public_bytes(key))} {namespaces}".rstrip()


def signed_by(
    key: Ed25519PrivateKey, spec: task_pb2.TaskSpec | None = None, namespace: str = "default", **how: Any
) -> task_pb2.TaskSpec:
    """A spec, of `echo signed` unless one is given, signed."""
    made = task_pb2.TaskSpec()
    made.CopyFrom(spec or command_spec(["echo", "signed"], Options()))
    signing.Signer(key, **how).sign(made, namespace)
    return made


def statement(key: Ed25519PrivateKey, **fields: Any) -> task_pb2.TaskSpec:
    """`echo signed` under a statement with these fields, whatever they say, truly signed; ``expires_s`` from now."""
    inside = command_spec(["echo", "signed"], Options())
    expires_s = fields.pop("expires_s", 60)
    made = task_pb2.Statement(**({"spec": inside, "namespace": "default", "nonce": b"n" * 16} | fields))
    if expires_s is not None:
        made.expire_time.FromMicroseconds(int((time.time() + expires_s) * 1e6))
    data = made.SerializeToString()
    key_id = signing.key_id(signing.public_bytes(key))
    work = task_pb2.SignedWork(statement=data, signature=key.sign(signing.PREFIX + data), key_id=key_id)
    return task_pb2.TaskSpec(signed=work)


def assigned(
    spec: task_pb2.TaskSpec, task_id: str = "t", attempt: int = 1, namespace: str = "default"
) -> wire.Assignment:
    """The assignment that a coordinator makes of a spec."""
    made = wire.Assignment(ref=wire.AttemptRef(task_id=task_id, attempt=attempt, fence=7), namespace=namespace)
    made.spec.CopyFrom(spec)
    return made
