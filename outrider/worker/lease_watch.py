"""Ends an exclusive attempt whose lease is over, when the keeper does not: that may be stopped itself, or hang.

Owns the look at the clock while such an attempt runs, and the end of everything it has started. It must not know
sockets, nor how work is run. The end of the lease stands in the page that the keeper shares, on CLOCK_BOOTTIME, which
goes on while the machine sleeps.

Invariants: an exclusive attempt does not begin once its lease is over; what is left of it then is dead within
`SLACK_US` and a few ticks, which is less than the coordinator waits; no other attempt ends by this. A function that
keeps the interpreter's lock to itself for that long keeps this from looking, too.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from outrider.worker.endings import LEASE_EXPIRED, AttemptFailed

if TYPE_CHECKING:
    from outrider.worker.active import Active

#: The keeper, when it is well, ends the attempt at the end of the lease, and with force half a second later.
SLACK_US: Final = 750_000
TICK_S: Final = 0.1


class LeaseWatch:
    """The watch of one worker. ``lease_end_us`` reads the page; ``kill`` ends the process and does not return."""

    def __init__(self, lease_end_us: Callable[[], int], kill: Callable[[Active], None]) -> None:
        self._lease_end_us = lease_end_us
        self._kill = kill
        self._active: Active | None = None
        self._has_begun = threading.Event()
        self._deciding = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, active: Active) -> None:
        """An exclusive attempt begins. Raises `AttemptFailed` when it came too late for that."""
        if _boot_us() >= self._lease_end_us():
            text = "it arrived when the lease of exclusive tasks was over, so it was not started"
            raise AttemptFailed(LEASE_EXPIRED, text, recoverable=True)
        self._active = active
        if self._thread is None:
            self._thread = threading.Thread(target=self._look_on, name="outrider-lease", daemon=True)
            self._thread.start()
        self._has_begun.set()

    def finish(self) -> None:
        """It has ended; when it is being killed this moment, this does not return."""
        self._has_begun.clear()
        with self._deciding:
            self._active = None

    def _look_on(self) -> None:
        while self._has_begun.wait():
            with self._deciding:
                if self._active is not None and _boot_us() >= self._lease_end_us() + SLACK_US:
                    self._kill(self._active)
            time.sleep(TICK_S)


def kill_started(active: Active) -> None:
    """SIGKILL everything that an attempt has started and that can be found from here."""
    from outrider import sweep

    active.signal_group(signal.SIGKILL)
    key = active.run.environment.get(sweep.ATTEMPT_VARIABLE)
    if key:
        sweep.send(sweep.attempt_markers(key), signal.SIGKILL)
    sweep.send_below(os.getpid(), signal.SIGKILL)


def _boot_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
