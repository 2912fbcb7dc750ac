"""Committed events to whoever watches them: history first, then live, without a gap and without a repeat.

Live events reach a subscription's own queue, bounded in events and in bytes; a reader that falls behind is cut off
with the cursor to resume after, and finds the rest in the store. The hub belongs to the event loop; history is read on
the reader thread, page by page.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from outrider_coordinator.core.records import InsertEvent, InsertLog
from outrider_coordinator.store.filters import EventFilter
from outrider_coordinator.store.reader import PAGE_BYTES_MAX, PAGE_EVENTS_MAX, EventPage, Reader, event_bytes

QUEUE_EVENTS_MAX = 20_000
QUEUE_BYTES_MAX = 64 << 20

#: Where these stand in an event.
_TASK_ID, _RUN_ID, _CLIENT_ID = (InsertEvent._fields.index(name) for name in ("task_id", "run_id", "client_id"))

Result = TypeVar("Result")
#: Runs a blocking read on the reader thread.
RunRead = Callable[[Callable[[], Result]], Awaitable[Result]]


class TooSlow(Exception):
    """The reader fell behind; ``cursor`` is the last event it was given."""

    def __init__(self, cursor: int) -> None:
        super().__init__(f"resume after cursor {cursor}")
        self.cursor = cursor


class UnknownCursor(ValueError):
    """No event has a cursor as high as the one to resume after: it was given out by another store."""

    def __init__(self, cursor: int, last_cursor: int) -> None:
        super().__init__(
            f"cursor {cursor} was never given out here, the last one is {last_cursor}: it belongs to another "
            "coordinator's store, or this one was restored from a backup; read the tasks anew and watch from now on"
        )


@dataclass(slots=True, eq=False)
class Subscription:
    """One watcher's queue of live events. Once cut, it stays empty."""

    wanted: EventFilter
    queue: deque[InsertEvent] = field(default_factory=deque)
    queue_bytes: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    is_cut: bool = False

    def put_wanted(self, events: list[InsertEvent]) -> None:
        """Add those of these events that the watcher wants."""
        for event in events:
            if self.wanted.matches(event):
                self.put(event)

    def put(self, event: InsertEvent) -> None:
        """Add one event, or cut the reader off when its queue is full. An empty queue takes any event."""
        if self.is_cut:
            return
        if event.outcome and not self.wanted.include_results:
            event = event._replace(outcome=b"")
        size_bytes = event_bytes(event)
        is_full = len(self.queue) >= QUEUE_EVENTS_MAX or self.queue_bytes + size_bytes > QUEUE_BYTES_MAX
        if is_full and self.queue:
            self.is_cut = True
            self.queue.clear()
        else:
            self.queue.append(event)
            self.queue_bytes += size_bytes
        self.ready.set()

    def take_page(self) -> list[InsertEvent]:
        """The oldest events, as many as one page may hold."""
        page: list[InsertEvent] = []
        page_bytes = 0
        while self.queue and len(page) < PAGE_EVENTS_MAX and page_bytes < PAGE_BYTES_MAX:
            page.append(self.queue.popleft())
            page_bytes += event_bytes(page[-1])
        self.queue_bytes -= page_bytes
        if not self.queue:
            self.ready.clear()
        return page


class WatchHub:
    """Fans committed events out; finds the interested by task, run or client without asking everybody."""

    def __init__(self, reader: Reader, run_read: RunRead[Any]) -> None:
        self._reader = reader
        self._run_read = run_read
        self._by_task: dict[str, set[Subscription]] = {}
        self._by_run: dict[str, set[Subscription]] = {}
        self._by_client: dict[str, set[Subscription]] = {}
        self._others: dict[str, set[Subscription]] = {}
        self._logs: dict[str, set[asyncio.Event]] = {}
        self.last_cursor = reader.cursors()[1]

    def publish(self, events: list[InsertEvent]) -> None:
        """Hand committed events, in cursor order, to every subscription that wants them."""
        if events:
            self.last_cursor = events[-1].cursor
        for task_id in self._logs.keys() & {event.task_id for event in events} if self._logs else ():
            self._wake(task_id)
        # A subscription stands in one table, under one key that an event can have: it gets an event at most once.
        for subscription in self._others.get("", ()):
            subscription.put_wanted(events)
        for key, table in ((_TASK_ID, self._by_task), (_RUN_ID, self._by_run), (_CLIENT_ID, self._by_client)):
            if table:
                self._publish_by(key, table, events)

    def _publish_by(self, key: int, table: dict[Any, set[Subscription]], events: list[InsertEvent]) -> None:
        """One event after the other: a watcher of several tasks gets them in the order of the log."""
        for event in events:
            for subscription in table.get(event[key], ()):
                wanted = subscription.wanted
                # Clients that wait for results want one event of five: this looks at the others no further.
                if (not wanted.types or event.type in wanted.types) and wanted.matches(event):
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
        _discard(self._logs, task_id, waiting)

    async def watch(
        self, wanted: EventFilter, after_cursor: int | None
    ) -> AsyncGenerator[list[InsertEvent] | int, None]:
        """Lists of events after a cursor (None: from now on); once, between history and live, the cursor reached.

        Raises `TooSlow` when the reader falls behind, `UnknownCursor` for a cursor that lies in the future.
        """
        cursor = self.last_cursor if after_cursor is None else after_cursor
        if cursor > self.last_cursor:
            raise UnknownCursor(cursor, self.last_cursor)
        with self._subscribed(wanted) as subscription:
            until = self.last_cursor
            while cursor < until:
                page = await self._history(wanted, cursor, until)
                cursor = page.reached
                if page.events:
                    yield page.events
            yield cursor
            while True:
                await subscription.ready.wait()
                if subscription.is_cut:
                    raise TooSlow(cursor)
                events = subscription.take_page()
                cursor = events[-1].cursor
                yield events

    @contextmanager
    def _subscribed(self, wanted: EventFilter) -> Iterator[Subscription]:
        subscription = Subscription(wanted)
        table, keys = self._place(wanted)
        for key in keys:
            table.setdefault(key, set()).add(subscription)
        try:
            yield subscription
        finally:
            for key in keys:
                _discard(table, key, subscription)

    def _place(self, wanted: EventFilter) -> tuple[dict[str, set[Subscription]], list[str]]:
        """Where to register: under one kind of key that every wanted event has, so that none arrives twice."""
        if wanted.task_ids:
            return self._by_task, sorted(wanted.task_ids)
        if wanted.run_id:
            return self._by_run, [wanted.run_id]
        if wanted.client_id:
            return self._by_client, [wanted.client_id]
        return self._others, [""]

    async def _history(self, wanted: EventFilter, after: int, until: int) -> EventPage:
        page: EventPage = await self._run_read(functools.partial(self._reader.events, wanted, after, until))
        return page


Member = TypeVar("Member")


def _discard(table: dict[str, set[Member]], key: str, member: Member) -> None:
    members = table.get(key, set())
    members.discard(member)
    if not members:
        table.pop(key, None)
