"""Waiting for something that another thread or process does: the one place in the tests that lets time pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

POLL_S = 0.01


def eventually(predicate: Callable[[], Found], timeout_s: float = 10.0, what: str | Callable[[], str] = "") -> Found:
    """Call ``predicate`` until it returns something true, and return that.

    Raises `AssertionError` naming ``what`` (or the predicate) after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        if found := predicate():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what() if callable(what) else what or predicate}")
        pause.wait(POLL_S)


def pass_time(seconds: float) -> None:
    """Let time pass, for claims about time itself, such as an outage of so many seconds; else use `eventually`."""
    threading.Event().wait(seconds)
