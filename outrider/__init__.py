"""Runs long work on many machines and keeps it honest.

import outrider

with outrider.Client() as client:
    print(client.submit("math:sqrt", 2).result())
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outrider import aio, errors
    from outrider.client import Client, RunHandle, TaskHandle, as_completed
    from outrider.errors import OutriderError, TaskCancelled, TaskExpired, TaskFailed, TaskNotSucceeded, TaskSkipped
    from outrider.executor import Executor
    from outrider.schedules import At, Cron, Every
    from outrider.work import Options

__version__ = "0.1.0"

__all__ = [
    "At",
    "Client",
    "Cron",
    "Every",
    "Executor",
    "Options",
    "OutriderError",
    "RunHandle",
    "TaskCancelled",
    "TaskExpired",
    "TaskFailed",
    "TaskHandle",
    "TaskNotSucceeded",
    "TaskSkipped",
    "aio",
    "as_completed",
    "errors",
]

_MODULES = {name: "errors" for name in __all__ if name.startswith(("Task", "OutriderError"))}
_MODULES |= {"Client": "client", "RunHandle": "client", "TaskHandle": "client", "as_completed": "client"}
_MODULES |= dict.fromkeys(("At", "Cron", "Every"), "schedules")
_MODULES |= {"Executor": "executor", "Options": "work", "aio": "aio", "errors": "errors"}


def __getattr__(name: str) -> Any:
    """Load on first use: workers and the keeper import this package too, and must not pay for gRPC."""
    if name not in _MODULES:
        raise AttributeError(f"module 'outrider' has no attribute {name!r}")
    module = importlib.import_module(f"outrider.{_MODULES[name]}")
    value = module if name == _MODULES[name] else getattr(module, name)
    globals()[name] = value
    return value
