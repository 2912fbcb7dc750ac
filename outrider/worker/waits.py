"""Waits of one attempt: opened by user code in any thread, resolved by the keeper, each by its key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from outrider.errors import BlockedTimeout, Deadlock, WaitFailed, WaitRefused
from outrider.worker.channel import KeeperChannel, now_ns
from outrider.worker.endings import DEADLOCK, WAIT_REFUSED
from outrider.worker.messages import Blocked, Resolve, Unblocked


class Waits:
    """Open and resolved waits of the attempt with number ``key``. ``check_cancelled`` raises when it must stop.

    ``earlier`` are answers that earlier attempts were given.
    """

    def __init__(
        self, key: int, channel: KeeperChannel, check_cancelled: Callable[[], None], earlier: Iterable[Resolve] = ()
    ) -> None:
        self._key = key
        self._channel = channel
        self._check_cancelled = check_cancelled
        self._changed = threading.Condition()
        self._resolved: dict[str, Resolve] = {one.wait_key: one for one in earlier}
        self._asked: dict[str, Blocked] = {}

    def resolve(self, message: Resolve) -> None:
        """The keeper says that a wait has ended."""
        with self._changed:
            self._resolved[message.wait_key] = message
            self._changed.notify_all()

    def wake(self) -> None:
        """Let every waiting thread look again whether it must stop."""
        with self._changed:
            self._changed.notify_all()

    def poll(self, blocked: Blocked) -> Resolve | None:
        """Ask without waiting: the resolution if there is one, None while it is pending. Asked once per key.

        Raises WaitFailed or one of its kinds when the wait ended without what it waited for.
        """
        with self._changed:
            if blocked.wait_key in self._resolved:
                return _checked(self._resolved[blocked.wait_key])
            if blocked.wait_key in self._asked:
                return None
            self._asked[blocked.wait_key] = blocked
        self._channel.send(msgspec.structs.replace(blocked, keeps_running=True))
        return None

    def wait(self, blocked: Blocked, timeout_s: float | None = None) -> Resolve:
        """Ask and wait.

        Raises BlockedTimeout after ``timeout_s``, WaitFailed as `poll`, and whatever ``check_cancelled`` raises.
        """
        key = blocked.wait_key
        with self._changed:
            known = self._resolved.get(key)
        if known is not None:
            return _checked(known)
        self._channel.send(blocked)
        try:
            return _checked(self._await(key, timeout_s))
        finally:
            self._channel.send(Unblocked(self._key, now_ns(), key))

    def _await(self, key: str, timeout_s: float | None) -> Resolve:
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while key not in self._resolved:
                self._check_cancelled()
                left_s = None if end_s is None else end_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise BlockedTimeout(f"nobody resolved {key!r} within {timeout_s} s")
                self._changed.wait(left_s)
            return self._resolved[key]


def _checked(resolution: Resolve) -> Resolve:
    if not resolution.error_reason:
        return resolution
    text = resolution.error_message or f"the wait {resolution.wait_key!r} ended without what it waited for"
    raise {DEADLOCK: Deadlock, WAIT_REFUSED: WaitRefused}.get(resolution.error_reason, WaitFailed)(text)
