"""Everything about who may call, put together over the coordinator's folder."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from outrider.errors import InvalidRequest
from outrider_coordinator.access.audit import Audit
from outrider_coordinator.access.authority import AGENT_LIFE, Authority
from outrider_coordinator.access.book import Book
from outrider_coordinator.access.guard import Guard
from outrider_coordinator.access.identity import Identities
from outrider_coordinator.access.quotas import Quotas
from outrider_coordinator.access.registrar import Registrar

__all__ = ["AUDIT", "AUTHORITY", "Access"]

AUTHORITY, BOOK, AUDIT = "authority", "access.sqlite", "audit.log"


class Access:
    """The book, the audit log, the guard and the registrar of one coordinator."""

    def __init__(
        self,
        folder: Path,
        authority: Authority | None,
        agent_life: timedelta = AGENT_LIFE,
        quotas: Quotas | None = None,
    ) -> None:
        """Raises `InvalidRequest` when a file cannot be read or written."""
        try:
            self.audit = Audit(folder / AUDIT)
        except OSError as error:
            raise InvalidRequest(f"cannot write the audit log {folder / AUDIT}: {error.strerror}") from None
        self.book = Book(folder / BOOK, _wall_us)
        identities = Identities(self.book, authority.cluster if authority is not None else "", _wall_us)
        self.guard = Guard(identities, self.audit, quotas or Quotas())
        self.registrar = Registrar(self.book, self.guard, authority, _wall_us, agent_life)

    def close(self) -> None:
        """Write the last line of the audit log and close the files."""
        self.audit.close()
        self.book.close()


def _wall_us() -> int:
    """Certificates and tokens end by the wall clock, which other machines share."""
    return time.time_ns() // 1000
