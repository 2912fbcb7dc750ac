"""Functions that need an outside system: a file that the test makes when the system is to work again."""

from __future__ import annotations

import os
from pathlib import Path

SYSTEM = "files"
MODULE = "support.trust_tasks"


def needs(path: str) -> str:
    """Fail while the system is down."""
    if not Path(path).exists():
        raise ConnectionError(f"{SYSTEM} is down")
    return os.environ["OUTRIDER_AGENT"]


def waits(path: str) -> int:
    """Wait for the system as often as it takes; returns how often that was."""
    from outrider.worker import current

    waited = 0
    while not Path(path).exists():
        current.wait_external(SYSTEM, "no such file")
        waited += 1
    return waited


def works_only_on(agent: str) -> str:
    """Fail on every other agent, as work does where something is not installed."""
    here = os.environ["OUTRIDER_AGENT"]
    if here != agent:
        raise RuntimeError(f"not on {here}")
    return here
