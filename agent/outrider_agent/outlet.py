"""Where the runner's answers and reports go: the interface, so that whoever runs attempts need not know who listens."""

from __future__ import annotations

from typing import Protocol

from outrider.worker import messages
from outrider_agent.core.board import Attempt

Ref = tuple[str, int, int]


class Outlet(Protocol):
    """Hears about attempts, in order."""

    def accepted(self, attempt: Attempt) -> None:
        """The agent will start it."""

    def rejected(self, attempt: Ref, message: str) -> None:
        """The agent will not take it; nothing was started."""

    def revoked(self, attempt: Attempt) -> None:
        """It goes back unstarted."""

    def report(self, key: int, message: bytes, *, is_terminal: bool, is_patient: bool) -> None:
        """One encoded WorkerMessage for the outbox; a patient one may wait a moment for others."""

    def span(self, span: messages.Span) -> None:
        """One finished span."""

    @property
    def is_full(self) -> bool:
        """True when no more reports can be kept, so that no new work may be taken."""

    @property
    def is_idle(self) -> bool:
        """True when a report would be written at once; otherwise progress waits for its successor."""
