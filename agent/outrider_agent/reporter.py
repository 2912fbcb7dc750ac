"""When an attempt's messages leave for the outbox: at once, or after waiting for company.

Owns what is held back: a function's start waits a few milliseconds for its end, so that a short function is one report,
and progress waits while the outbox is busy, so that of a flood only the latest is stored. It must not know the outbox,
the board or what a message means; the order within an attempt is its `Narrator`'s.

Invariant: whatever of an attempt is reported takes along, or sends ahead, everything of it that is held back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from outrider.worker import messages
from outrider_agent import clock
from outrider_agent.assignment import Dossier
from outrider_agent.reports import Report

#: How long a start waits for the end of a short function.
START_PATIENCE_US = 5_000
#: Nobody waits for these.
_PATIENT = frozenset((messages.Started, messages.LogOutput))


class Shelf(Protocol):
    """Where reports go: the outbox as it is seen from here."""

    def append(self, key: int, payload: bytes, *, is_terminal: bool, is_patient: bool) -> int:
        """One encoded WorkerMessage of the attempt ``key``; a patient one may wait a moment for others. Its seq."""

    @property
    def synced_seq(self) -> int:
        """Everything up to here survives a crash."""

    @property
    def is_idle(self) -> bool:
        """True when a report would be written at once; otherwise progress waits for its successor."""


class Reporter:
    """Reports to ``shelf``; ``later`` calls back after some seconds, and ``wake`` is called when something was due."""

    def __init__(
        self, shelf: Shelf, later: Callable[[float, Callable[[], None]], object], wake: Callable[[], None]
    ) -> None:
        self._shelf = shelf
        self._later = later
        self._wake = wake
        #: Attempts that have held progress, by key, unless that has been reported meanwhile.
        self._progress: dict[int, Dossier] = {}
        #: When the patience with each start ends, in order; also starts that have been reported meanwhile.
        self._starts: deque[tuple[int, Dossier]] = deque()

    @property
    def synced_seq(self) -> int:
        """Reports up to here survive a crash."""
        return self._shelf.synced_seq

    def report(self, dossier: Dossier, message: Report) -> int:
        """One message of an attempt; nothing once the attempt is fenced. Returns its seq, 0 for nothing."""
        if dossier.is_silent:
            return 0
        narrator, key, is_patient = dossier.narrator, dossier.attempt.key, type(message) in _PATIENT
        if narrator.must_catch_up(message):
            self._catch_up(dossier, is_patient=is_patient)
        encoded = narrator.tell(message)
        return self._shelf.append(key, encoded, is_terminal=narrator.is_ended, is_patient=is_patient)

    def hold_start(self, dossier: Dossier, message: messages.Started, now_us: int) -> None:
        """Report a start with the end if that follows soon, ahead of anything else that comes first, or alone."""
        dossier.narrator.held_start = message
        if not self._starts:
            self._later(START_PATIENCE_US / 1e6, self._lose_patience)
        self._starts.append((now_us + START_PATIENCE_US, dossier))

    def hold_progress(self, dossier: Dossier, message: messages.Progress) -> None:
        """Report progress once the outbox is idle, unless newer progress comes before that."""
        dossier.narrator.held_back = message
        self._progress[message.key] = dossier

    def settle(self) -> None:
        """Report the progress that is held back when it would be written at once."""
        if self._progress and self._shelf.is_idle:
            held, self._progress = self._progress, {}
            for key in sorted(held):
                self._catch_up(held[key], is_patient=True)

    def _lose_patience(self) -> None:
        """Report the starts that have waited long enough; there is a timer while there are others."""
        now_us = clock.boot_us()
        while self._starts:
            due_us, dossier = self._starts[0]
            if dossier.narrator.held_start is not None:
                if due_us > now_us:
                    self._later((due_us - now_us) / 1e6, self._lose_patience)
                    return
                self._catch_up(dossier, is_patient=False)
                self._wake()
            self._starts.popleft()

    def _catch_up(self, dossier: Dossier, *, is_patient: bool) -> None:
        if not dossier.is_silent:
            for encoded in dossier.narrator.catch_up():
                self._shelf.append(dossier.attempt.key, encoded, is_terminal=False, is_patient=is_patient)
