"""Runs one attempt at a time in a process of its own, and gives user code `current`.

Functions use `current`; commands, and what they start, use `outrider-task`, which finds the attempt by
``OUTRIDER_TASK_SOCKET``. Programs that a function starts have no such socket: making one would cost every short
function more than the call itself.

Imports neither gRPC nor protobuf nor an exporter: a worker starts in tens of milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outrider.worker.context import Current
    from outrider.worker.endings import DependencyFailed, TaskCancelled

    current: Current

__all__ = ["DependencyFailed", "TaskCancelled", "current"]


def __getattr__(name: str) -> Any:
    """Load the context on first use, so that tools which need only the messages stay light."""
    if name not in __all__:
        raise AttributeError(f"module 'outrider.worker' has no attribute {name!r}")
    from outrider.worker import context, endings

    value = context.Current() if name == "current" else getattr(endings, name)
    globals()[name] = value
    return value
