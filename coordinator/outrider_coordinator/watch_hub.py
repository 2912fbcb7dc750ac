"""Committed events to whoever watches them: history first, then live, without a gap and without a repeat.

Live events reach a subscription's own bounded queue; a reader that falls behind is cut off with the cursor to resume
after. The hub belongs to the event loop; history is read on the reader thread.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from outrider_coordinator.core.records import InsertEvent, InsertLog
from outrider_coordinator.store.reader import EventFilter, Reader

QUEUE_EVENTS_MAX = 20_000
PAGE_EVENTS = 500

Result = TypeVar("Result")
#: Runs a blocking read on the reader thread.
RunRead = Callable[[Callable[[], Result]], Awaitable[Result]]


class TooSlow(Exception):
    """The reader fell behind; ``cursor`` is the last event it was given."""

    def __init__(self, cursor: int) -> None:
        super().__init__(f"resume after cursor {cursor}")
        self.cursor = cursor


@dataclass(slots=True, eq=False)
class Subscription:
    """One watcher's queue of live events."""

    wanted: EventFilter
    queue: deque[InsertEvent] = field(default_factory=deque)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    is_cut: bool = False

    def put(self, event: InsertEvent) -> None:
        """Add one event, or cut the reader off when its queue is full."""
        if len(self.queue) >= QUEUE_EVENTS_MAX:
            self.is_cut = True
        elif not self.is_cut:
            self.queue.append(event)
        self.ready.set()


class WatchHub:
    """Fans committed events out; finds the interested by task, run or client without asking everybody."""

    def __init__(self, reader: Reader, run_read: RunRead) -> None:  # type: ignore[type-arg]  # any result
        self._reader = reader
        self._run_read = run_read
        self._by_key: dict[str, set[Subscription]] = {}
        self._logs: dict[str, set[asyncio.Event]] = {}
        self.last_cursor = reader.cursors()[1]

    def publish(self, events: list[InsertEvent]) -> None:
        """Hand committed events, in cursor order, to every subscription that wants them."""
        for event in events:
            self.last_cursor = event.cursor
            if event.task_id in self._logs:
                self._wake(event.task_id)
            for key in {"", event.task_id, event.run_id, event.client_id}:
                for subscription in self._by_key.get(key, ()):
                    if subscription.wanted.matches(event):
                        subscription.put(event)

    def publish_logs(self, logs: list[InsertLog]) -> None:
        """Wake those who follow the output of these tasks."""
        for task_id in {log.task_id for log in logs}:
            self._wake(task_id)

    def _wake(self, task_id: str) -> None:
        for waiting in self._logs.get(task_id, ()):
            waiting.set()

    def follow_logs(self, task_id: str) -> asyncio.Event:
        """Set whenever output or an event of this task was committed; give it back to `unfollow_logs`."""
        waiting = asyncio.Event()
        self._logs.setdefault(task_id, set()).add(waiting)
        return waiting

    def unfollow_logs(self, task_id: str, waiting: asyncio.Event) -> None:
        """Stop following."""
        followers = self._logs.get(task_id, set())
        followers.discard(waiting)
        if not followers:
            self._logs.pop(task_id, None)

    async def watch(self, wanted: EventFilter, after_cursor: int | None) -> AsyncIterator[list[InsertEvent] | int]:
        """Lists of events after a cursor (None: from now on); once, between history and live, the cursor reached.

        Raises `TooSlow` when the reader falls behind.
        """
        subscription = Subscription(wanted)
        keys = _keys(wanted)
        for key in keys:
            self._by_key.setdefault(key, set()).add(subscription)
        try:
            until = cursor = self.last_cursor
            if after_cursor is not None:
                cursor = after_cursor
                async for page in self._history(wanted, after_cursor, until):
                    cursor = page[-1].cursor
                    yield page
            cursor = max(cursor, until)
            yield cursor
            while True:
                events = await self._live(subscription, cursor)
                cursor = events[-1].cursor
                yield events
        finally:
            for key in keys:
                self._by_key[key].discard(subscription)
                if not self._by_key[key]:
                    del self._by_key[key]

    async def _history(self, wanted: EventFilter, after: int, until: int) -> AsyncIterator[list[InsertEvent]]:
        while after < until:
            read = functools.partial(self._reader.events, wanted, after, until, PAGE_EVENTS)
            page: list[InsertEvent] = await self._run_read(read)
            if not page:
                return
            yield page
            after = page[-1].cursor

    async def _live(self, subscription: Subscription, cursor: int) -> list[InsertEvent]:
        await subscription.ready.wait()
        if subscription.is_cut:
            raise TooSlow(cursor)
        subscription.ready.clear()
        events = list(subscription.queue)
        subscription.queue.clear()
        return events


def _keys(wanted: EventFilter) -> list[str]:
    """Where to register: one kind of key that every wanted event has, so that none arrives twice."""
    if wanted.task_ids:
        return sorted(wanted.task_ids)
    return [wanted.run_id or wanted.client_id]
