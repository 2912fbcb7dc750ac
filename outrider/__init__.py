"""Outrider runs long work on many machines and keeps it honest.

The names below are loaded on first use, so that a worker process can import ``outrider.worker`` without
paying for gRPC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outrider.client import Client as Client
    from outrider.client import TaskHandle as TaskHandle
    from outrider.executor import Executor as Executor

__version__ = "0.1.0"

_LAZY = {"Client": "outrider.client", "Executor": "outrider.executor", "TaskHandle": "outrider.client"}

__all__ = ["Client", "Executor", "TaskHandle", "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public class from its module the first time somebody asks for it."""
    if name not in _LAZY:
        raise AttributeError(f"module 'outrider' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
