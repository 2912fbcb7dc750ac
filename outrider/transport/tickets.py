"""What a client knows of one task: whether it was accepted, and how it ended.

A ticket is written on the loop of its connection and read from any thread. It must not know of streams. Invariants: it
is accepted or refused once, it ends once, and each callback is called exactly once, after what it waits for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from outrider.errors import OutriderError
from outrider.v1 import event_pb2

Callback = Callable[[], None]


class Ticket:
    """One task as its client sees it. ``lock`` is shared by all tickets of a connection."""

    __slots__ = ("_on_accepted", "_on_ended", "event", "failure", "lock", "task_id")

    def __init__(self, lock: threading.Lock, task_id: str = "") -> None:
        self.lock = lock
        #: Full id; empty until the coordinator has accepted the task.
        self.task_id = task_id
        #: Why it will never end here: refused, or the client was closed.
        self.failure: OutriderError | None = None
        #: The terminal event, with the result or the error.
        self.event: event_pb2.Event | None = None
        self._on_accepted: list[Callback] | None = None
        self._on_ended: list[Callback] | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the coordinator has answered the submit, with yes or no."""
        return bool(self.task_id) or self.failure is not None

    @property
    def is_ended(self) -> bool:
        """Whether there is an outcome."""
        return self.event is not None or self.failure is not None

    def when_accepted(self, callback: Callback) -> None:
        """Call back once it is accepted or refused; at once when it is."""
        with self.lock:
            if not self.is_accepted:
                self._on_accepted = [*(self._on_accepted or ()), callback]
                return
        callback()

    def when_ended(self, callback: Callback) -> None:
        """Call back once it has ended; at once when it has."""
        with self.lock:
            if not self.is_ended:
                if self._on_ended is None:
                    self._on_ended = []
                self._on_ended.append(callback)
                return
        callback()

    def accept(self, task_id: str) -> None:
        """The coordinator has it on disk."""
        with self.lock:
            self.task_id = task_id
            callbacks, self._on_accepted = self._on_accepted, None
        if callbacks:
            _call(callbacks)

    def end(self, event: event_pb2.Event) -> None:
        """It reached a terminal state; a second end changes nothing."""
        with self.lock:
            if self.event is not None or self.failure is not None:
                return
            self.event = event
            callbacks, self._on_ended = self._on_ended, None
        if callbacks:
            _call(callbacks)

    def end_as(self, other: Ticket) -> None:
        """It is the same task as ``other``, which has ended or failed."""
        if other.event is not None:
            self.end(other.event)
        elif other.failure is not None:
            self.fail(other.failure)

    def fail(self, failure: OutriderError) -> None:
        """It was refused, or nobody here will hear of its end."""
        with self.lock:
            if self.is_ended:
                return
            self.failure = failure
            accepted, self._on_accepted = self._on_accepted, None
            ended, self._on_ended = self._on_ended, None
        _call(accepted)
        _call(ended)


def _call(callbacks: list[Callback] | None) -> None:
    for callback in callbacks or ():
        callback()
