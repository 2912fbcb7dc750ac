"""Failures that the coordinator itself establishes, encoded as a TaskError message: its fields reason and message."""

from __future__ import annotations

from outrider_coordinator.core.protobuf import block, integer
from outrider_coordinator.core.states import Reason


def encode_error(reason: Reason, message: str) -> bytes:
    """A serialized TaskError with this reason and message."""
    return integer(1, int(reason)) + block(2, message.encode())
