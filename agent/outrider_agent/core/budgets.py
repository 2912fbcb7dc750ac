"""How long attempts may still run, be silent, and take in all: three clocks for each attempt that has such a bound.

Running time and silence stand still while the attempt is blocked; the deadline of its task does not. Silence is counted
from the last message that was read, so a pause of the keeper, in which nothing was read, does not count as the
attempt's. Owns budgets and nothing else; time is an argument, in microseconds of the machine's boot clock.
"""

from __future__ import annotations

from enum import Enum

from outrider_agent.core.deadlines import Deadlines

#: Nobody looked for so long: what was said meanwhile has not been read.
PAUSE_US = 1_000_000


class Bound(Enum):
    """Which bound an attempt has reached."""

    TIMEOUT = "timeout"
    STALL = "stall"
    DEADLINE = "deadline"


class Budgets:
    """Methods on an attempt without bounds do nothing."""

    def __init__(self) -> None:
        self._timeouts = Deadlines()
        self._stalls = Deadlines()
        self._deadlines = Deadlines()
        self._silence_us: dict[int, int] = {}
        self._looked_us = 0

    def assigned(self, key: int, remaining_us: int, now_us: int) -> None:
        """The attempt arrived; its task has this much left, 0 for no deadline."""
        self._deadlines.start(key, remaining_us, now_us)

    def started(self, key: int, timeout_us: int, silence_us: int, now_us: int) -> None:
        """User code began; 0 means no bound."""
        self._timeouts.start(key, timeout_us, now_us)
        if silence_us:
            self._silence_us[key] = silence_us
            self._stalls.start(key, silence_us, now_us)

    def heard(self, key: int, now_us: int) -> None:
        """The attempt said something."""
        if key in self._silence_us:
            self._stalls.restart(key, self._silence_us[key], now_us)

    def blocked(self, key: int, now_us: int) -> None:
        """The attempt waits for somebody."""
        self._timeouts.pause(key, now_us)
        self._stalls.pause(key, now_us)

    def unblocked(self, key: int, now_us: int) -> None:
        """The attempt goes on."""
        self._timeouts.resume(key, now_us)
        self._stalls.resume(key, now_us)

    def extend(self, key: int, more_us: int) -> None:
        """Somebody granted more running time."""
        self._timeouts.extend(key, more_us)

    def drop(self, key: int) -> None:
        """The attempt has ended."""
        self._timeouts.drop(key)
        self._stalls.drop(key)
        self._deadlines.drop(key)
        self._silence_us.pop(key, None)

    def expired(self, now_us: int, *, is_listening: bool = True) -> list[tuple[int, Bound]]:
        """Take out and return the keys that have reached a bound; to be asked often while attempts run.

        While nobody is listening to workers no silence counts.
        """
        unheard_us = now_us - self._looked_us
        if self._silence_us and (unheard_us > PAUSE_US or not is_listening):
            for key in self._silence_us:
                self._stalls.extend(key, unheard_us)
        self._looked_us = now_us
        late = [(key, Bound.DEADLINE) for key in self._deadlines.expired(now_us)]
        late += [(key, Bound.TIMEOUT) for key in self._timeouts.expired(now_us)]
        late += [(key, Bound.STALL) for key in self._stalls.expired(now_us)]
        return late
