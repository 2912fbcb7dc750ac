"""When the agent connects, to which address, which frames count, and when it gives up for good.

Owns the life of the conversation with the coordinator: waiting -> opening -> greeting -> live, and back to waiting with
a full-jitter backoff. It must not know sockets, processes or the content of frames; times are microseconds of the boot
clock and randomness is an argument (``jitter``, 0 to 1).

Invariants: one stream at a time; a frame counts only with the epoch of the live session; an end is either retried or
final, and a final one says in one line what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

BACKOFF_FIRST_US = 100_000
BACKOFF_MAX_US = 3_000_000
#: From opening the stream to Welcome.
WELCOME_TIMEOUT_US = 15_000_000
#: Silence after which a live session counts as broken, in heartbeat intervals and at least.
SILENCE_HEARTBEATS = 3
SILENCE_MIN_US = 10_000_000

#: Refusals of Hello that another try does not change, with what to do about them.
_FINAL = {
    "AGENT_NAME_TAKEN": "",
    "AGENT_REMOVED": "start it again to register it anew",
    "SESSION_SUPERSEDED": "only one agent of a name can be connected; this one stops",
    "INVALID_REQUEST": "",
    "UNAUTHENTICATED": "",
    "PERMISSION_DENIED": "",
}
#: These are final also in the middle of a session.
_FINAL_WHEN_LIVE = {"AGENT_REMOVED"}


class Phase(Enum):
    """Where the conversation is."""

    WAITING = "waiting"
    OPENING = "opening"
    GREETING = "greeting"
    LIVE = "live"
    CLOSING = "closing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class End:
    """How a stream ended: the gRPC status name, the ErrorInfo reason (often empty) and the text."""

    code: str
    reason: str
    message: str


class Session:
    """The conversation as state; the caller carries out what the methods return."""

    def __init__(self, addresses: tuple[str, ...], now_us: int) -> None:
        assert addresses, "no coordinator address"
        self.phase = Phase.WAITING
        self.epoch = 0
        self.heartbeat_us = 2_000_000
        self.coordinator_epoch = 0
        self.store_id = ""
        self.last_problem = ""
        self.is_moving = False
        self._addresses = addresses
        self._tries = 0
        self._due_us = now_us
        self._heard_us = now_us

    @property
    def address(self) -> str:
        """The address of the current or next try; each try takes the next one of the list."""
        return self._addresses[self._tries % len(self._addresses)]

    @property
    def is_live(self) -> bool:
        """True between Welcome and the end of the stream."""
        return self.phase is Phase.LIVE

    def due_us(self) -> int:
        """When `tick` has something to do next, if nothing else happens before."""
        if self.phase is Phase.LIVE:
            return self._heard_us + self._silence_us
        return self._due_us

    def tick(self, now_us: int) -> str:
        """What is due: ``open`` a stream to `address`, ``close`` the stream that hangs, or nothing (empty)."""
        if self.phase in (Phase.ENDED, Phase.CLOSING) or now_us < self.due_us():
            return ""
        if self.phase is Phase.WAITING:
            self.phase = Phase.OPENING
            self._due_us = now_us + WELCOME_TIMEOUT_US
            return "open"
        self.phase = Phase.CLOSING
        return "close"

    def opened(self) -> bool:
        """The stream is open. True: send Hello."""
        if self.phase is not Phase.OPENING:
            return False
        self.phase = Phase.GREETING
        return True

    def welcomed(self, epoch: int, coordinator_epoch: int, store_id: str, heartbeat_us: int, now_us: int) -> bool:
        """Welcome arrived. False: nobody waits for it."""
        if self.phase is not Phase.GREETING:
            return False
        self.phase, self.epoch, self._tries, self.last_problem = Phase.LIVE, epoch, 0, ""
        if store_id == self.store_id:
            self.coordinator_epoch = max(self.coordinator_epoch, coordinator_epoch)
        else:
            self.store_id, self.coordinator_epoch = store_id, coordinator_epoch
        self.heartbeat_us = heartbeat_us or self.heartbeat_us
        self._heard_us = now_us
        return True

    def heard(self, epoch: int, now_us: int) -> bool:
        """A frame arrived. False: it belongs to another session and does not count."""
        if self.phase is not Phase.LIVE or epoch != self.epoch:
            return False
        self._heard_us = now_us
        return True

    def lost_link(self, now_us: int) -> None:
        """The link process is gone, and the stream with it; a new link can connect at once."""
        if self.phase is not Phase.ENDED:
            self.phase, self.epoch, self.is_moving, self._due_us = Phase.WAITING, 0, False, now_us

    def closed(self, end: End, now_us: int, jitter: float) -> str:
        """The stream has ended. Returns why that is final, or an empty string when another try is due."""
        was, self.epoch = self.phase, 0
        if was is Phase.ENDED:
            return ""
        final = _FINAL_WHEN_LIVE if was is Phase.LIVE else _FINAL
        if end.reason in final:
            self.phase = Phase.ENDED
            advice = _FINAL[end.reason]
            return f"{end.message}; {advice}" if advice else end.message
        if self.is_moving:
            self.phase, self.is_moving, self._due_us = Phase.WAITING, False, now_us
            return ""
        backoff_us = min(BACKOFF_MAX_US, BACKOFF_FIRST_US << min(self._tries, 10))
        self._tries += 1
        self.phase, self._due_us = Phase.WAITING, now_us + int(backoff_us * jitter)
        return ""

    def move(self) -> bool:
        """Another connection stands ready. True: close the stream; the next one is opened as soon as it has ended."""
        if self.phase is not Phase.LIVE:
            return False
        self.phase, self.is_moving = Phase.CLOSING, True
        return True

    def leave(self) -> None:
        """The agent stops: no more tries."""
        self.phase, self.epoch = Phase.ENDED, 0

    @property
    def _silence_us(self) -> int:
        return max(SILENCE_MIN_US, SILENCE_HEARTBEATS * self.heartbeat_us)
