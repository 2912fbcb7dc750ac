"""When an attempt's messages leave for the outbox: at once, or after waiting for company.

Owns what is held back: a function's start waits a few milliseconds for its end, so that a short function is one report,
and progress waits while the outbox is busy, so that of a flood only the latest is stored. It must not know the outbox,
the board or what a message means; the order within an attempt is its `Narrator`'s.

Invariant: whatever of an attempt is reported takes along, or sends ahead, everything of it that is held back.
"""

from __future__ import annotations

from collections.abc import Callable

from outrider.worker import messages
from outrider_agent import clock
from outrider_agent.assignment import Dossier
from outrider_agent.outlet import Outlet
from outrider_agent.reports import Report

#: How long a start waits for the end of a short function.
START_PATIENCE_US = 5_000
#: Nobody waits for these.
_PATIENT = (messages.Started, messages.LogOutput)


class Reporter:
    """Reports to ``outlet``; ``later`` calls back after some seconds, and ``wake`` is called when something was due."""

    def __init__(
        self, outlet: Outlet, later: Callable[[float, Callable[[], None]], object], wake: Callable[[], None]
    ) -> None:
        self._outlet = outlet
        self._later = later
        self._wake = wake
        self._progress: dict[int, Dossier] = {}
        #: When the patience with each start ends, oldest first; while there is one, there is one timer.
        self._starts: dict[int, tuple[int, Dossier]] = {}
        self._has_timer = False

    def report(self, dossier: Dossier, message: Report) -> None:
        """One message of an attempt; nothing once the attempt is fenced."""
        if dossier.is_silent:
            return
        key, is_patient = dossier.attempt.key, isinstance(message, _PATIENT)
        *before, last = dossier.narrator.tell(message)
        for encoded in before:
            self._outlet.report(key, encoded, is_terminal=False, is_patient=is_patient)
        self._outlet.report(key, last, is_terminal=dossier.narrator.is_ended, is_patient=is_patient)

    def hold_start(self, dossier: Dossier, message: messages.Started, now_us: int) -> None:
        """Report a start with the end if that follows soon, ahead of anything else that comes first, or alone."""
        dossier.narrator.held_start = message
        self._starts[message.key] = (now_us + START_PATIENCE_US, dossier)
        self._set_timer(START_PATIENCE_US)

    def hold_progress(self, dossier: Dossier, message: messages.Progress) -> None:
        """Report progress once the outbox is idle, unless newer progress comes before that."""
        dossier.narrator.held_back = message
        self._progress[message.key] = dossier

    def drop(self, key: int) -> None:
        """The attempt has ended, or nobody wants to hear of it: hold nothing of it any more."""
        self._progress.pop(key, None)
        self._starts.pop(key, None)

    def settle(self) -> None:
        """Report the progress that is held back when it would be written at once."""
        if self._progress and self._outlet.is_idle:
            held, self._progress = self._progress, {}
            for key in sorted(held):
                self._catch_up(held[key], is_patient=True)

    def _set_timer(self, delay_us: int) -> None:
        if not self._has_timer:
            self._has_timer = True
            self._later(delay_us / 1e6, self._lose_patience)

    def _lose_patience(self) -> None:
        """Report the starts that have waited long enough."""
        self._has_timer = False
        now_us = clock.boot_us()
        for key, (due_us, dossier) in list(self._starts.items()):
            if due_us > now_us:
                self._set_timer(due_us - now_us)
                break
            del self._starts[key]
            self._catch_up(dossier, is_patient=False)
        self._wake()

    def _catch_up(self, dossier: Dossier, *, is_patient: bool) -> None:
        if not dossier.is_silent:
            for encoded in dossier.narrator.catch_up():
                self._outlet.report(dossier.attempt.key, encoded, is_terminal=False, is_patient=is_patient)
