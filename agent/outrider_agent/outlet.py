"""Where the runner's answers go: the interface, so that whoever runs attempts need not know who listens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from outrider.worker import messages
from outrider_agent.core.board import Attempt

Ref = tuple[str, int, int]


class Outlet(Protocol):
    """Hears about attempts, in order."""

    def accepted(self, attempts: Sequence[Attempt]) -> None:
        """The agent will start them, or has."""

    def rejected(self, attempt: Ref, message: str, *, by_policy: bool = False) -> None:
        """The agent will not take it, ``by_policy`` never; nothing was started."""

    def revoked(self, attempt: Attempt) -> None:
        """It goes back unstarted."""

    def span(self, span: messages.Span) -> None:
        """One finished span."""

    @property
    def is_full(self) -> bool:
        """True when no more reports can be kept, so that no new work may be taken."""
