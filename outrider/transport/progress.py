"""Progress of tasks for callbacks: the latest report first, then every one from then on, each once and in order.

One watch serves all tasks that the client submitted itself; a task of somebody else has its own. Belongs to the loop of
its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

from outrider import errors
from outrider.v1 import event_pb2, task_pb2, task_service_pb2

FIRST_TERMINAL, LAST_TERMINAL = event_pb2.EVENT_TYPE_TASK_SUCCEEDED, event_pb2.EVENT_TYPE_TASK_SKIPPED
TYPES = (event_pb2.EVENT_TYPE_TASK_PROGRESS, *range(FIRST_TERMINAL, LAST_TERMINAL + 1))

Callback = Callable[[task_pb2.Progress], None]


class Watching(Protocol):
    """What this needs of a connection; `transport.connection` says more of each."""

    @property
    def namespace(self) -> str:
        """Whose tasks these are."""

    @property
    def tasks(self) -> Any:
        """The stub of TaskService."""

    def is_foreign(self, task_id: str) -> bool:
        """Whether the watch of our own tasks does not have it."""

    def start(self, coroutine: Coroutine[Any, Any, None]) -> object:
        """Run in the background."""

    async def call(self, method: Any, request: Any) -> Any:
        """One call, repeated while the coordinator is away."""

    def watch(
        self, task_ids: list[str], types: tuple[int, ...], after: int | None, *, own: bool = False
    ) -> AsyncIterator[task_service_pb2.WatchResponse]:
        """Frames with events, resumed after breaks."""


class _Subscriber:
    """One callback, and which report it starts with: (attempt, Unix ns by the agent's clock)."""

    def __init__(self, callback: Callback) -> None:
        self._callback = callback
        self._begins_after = (0, 0)
        self._has_begun = False

    def begin(self, attempt: int, latest: task_pb2.Progress) -> None:
        """The latest report so far, unless the watch was quicker."""
        if not self._has_begun:
            self._begins_after = (attempt, latest.update_time.ToNanoseconds())
            self._callback(latest)

    def hear(self, attempt: int, report: task_pb2.Progress) -> None:
        """A report from the watch."""
        if (attempt, report.update_time.ToNanoseconds()) > self._begins_after:
            self._has_begun = True
            self._callback(report)


class ProgressReports:
    """Who wants to hear of which task."""

    def __init__(self, connection: Watching) -> None:
        self._connection = connection
        self._subscribers: dict[str, list[_Subscriber]] = {}
        self._own_watch: asyncio.Event | None = None

    def subscribe(self, task_id: str, callback: Callback) -> None:
        """Call back, on the loop, with the latest progress of an accepted task and every report from now on."""
        subscriber = _Subscriber(callback)
        self._subscribers.setdefault(task_id, []).append(subscriber)
        self._connection.start(self._begin(task_id, subscriber))

    async def _begin(self, task_id: str, subscriber: _Subscriber) -> None:
        # First the watch, then the question: nothing falls in between, and `_Subscriber` leaves out what comes twice.
        if self._connection.is_foreign(task_id):
            await self._watching([task_id]).wait()
        else:
            if self._own_watch is None:
                self._own_watch = self._watching([])
            await self._own_watch.wait()
        with contextlib.suppress(errors.OutriderError):
            request = task_service_pb2.GetRequest(namespace=self._connection.namespace, task_id=task_id)
            task = (await self._connection.call(self._connection.tasks.Get, request)).task
            if task.HasField("progress"):
                subscriber.begin(len(task.attempts), task.progress)
            if task.state >= task_pb2.TASK_STATE_SUCCEEDED:
                self._subscribers.pop(task_id, None)

    def _watching(self, task_ids: list[str]) -> asyncio.Event:
        """Start a watch; what is returned is set once it hears everything."""
        is_live = asyncio.Event()
        self._connection.start(self._watch(task_ids, is_live))
        return is_live

    async def _watch(self, task_ids: list[str], is_live: asyncio.Event) -> None:
        try:
            async for frame in self._connection.watch(task_ids, TYPES, None, own=not task_ids):
                if frame.HasField("caught_up"):
                    is_live.set()
                for event in frame.events.events:
                    self._hear(event)
                if task_ids and task_ids[0] not in self._subscribers:
                    return
        except errors.OutriderError:
            is_live.set()

    def _hear(self, event: event_pb2.Event) -> None:
        if event.type == event_pb2.EVENT_TYPE_TASK_PROGRESS:
            for subscriber in self._subscribers.get(event.task_id, ()):
                subscriber.hear(event.attempt, event.progress)
        else:
            self._subscribers.pop(event.task_id, None)
