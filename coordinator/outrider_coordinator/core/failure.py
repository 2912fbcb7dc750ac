"""Failures that the coordinator itself establishes, encoded as a TaskError message: its fields reason and message."""

from __future__ import annotations

from outrider_coordinator.core.protobuf import block, integer
from outrider_coordinator.core.states import Reason


def encode_error(reason: Reason, message: str) -> bytes:
    """A serialized TaskError with this reason and message."""
    return integer(1, int(reason)) + block(2, message.encode())


def message_of(error: bytes) -> str:
    """The message of what `encode_error` made of a reason below 128 and less than 16 KiB; it reads nothing else."""
    start = 4 if error[3] < 0x80 else 5  # reason: key and value; message: key and a length of one or two bytes
    return error[start:].decode()
