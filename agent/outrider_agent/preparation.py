"""What some attempts need before they start: secrets, and that it is on disk that they may have started.

Owns those that are held for it; most attempts need neither. It must not know workers: the board starts what is
released.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from outrider.worker.messages import Secret
from outrider_agent import clock
from outrider_agent.assignment import Dossier
from outrider_agent.core.board import Board, State
from outrider_agent.reporter import Reporter
from outrider_agent.reports import Taken
from outrider_agent.vault import Vault


class Preparation:
    """Attempts that the board holds. ``done`` hears of each with secrets: what is wrong, or nothing."""

    def __init__(self, board: Board, reporter: Reporter, vault: Vault, done: Callable[[Dossier, str], None]) -> None:
        self._board = board
        self._reporter = reporter
        self._vault = vault
        self._done = done
        #: Attempts that start once the outbox is synced up to the seq beside them.
        self._taken: deque[tuple[int, int]] = deque()

    def begin(self, dossier: Dossier) -> None:
        """Get what an attempt that was admitted needs."""
        if dossier.uses:
            namespace = dossier.run.environment["OUTRIDER_NAMESPACE"]
            self._vault.fetch(dossier.uses, namespace, dossier.work, partial(self._fetched, dossier))
        else:
            self._take(dossier)

    def settle(self) -> None:
        """Release what is on disk by now."""
        while self._taken and self._taken[0][0] <= self._reporter.synced_seq:
            self._board.release(self._taken.popleft()[1])

    def _take(self, dossier: Dossier) -> None:
        """From here on an attempt that runs at most once may have started."""
        key = dossier.attempt.key
        self._taken.append((self._reporter.report(dossier, Taken(key, clock.wall_ns())), key))

    def _fetched(self, dossier: Dossier, secrets: list[Secret], fault: str) -> None:
        """The secrets of an attempt are there, or one of them cannot be had; it may have been withdrawn meanwhile."""
        if dossier.attempt.state is not State.ACCEPTED:
            return
        dossier.run = msgspec.structs.replace(dossier.run, secrets=secrets)
        if not fault and dossier.is_at_most_once:
            self._take(dossier)
        elif not fault:
            self._board.release(dossier.attempt.key)
        self._done(dossier, fault)
