"""The task of the throughput benchmark: as little as a function can do."""

from __future__ import annotations


def nothing(payload: str) -> str:
    """Give back what came in, as the bare pipeline's workers do."""
    return payload
