"""The threads that write the store: one makes batches durable at once, one applies them in its own time.

Queues and threads of their own instead of an executor: no future for each commit, and half the way from one thread to
the other. Invariants: batches become durable in the order given, one at a time, and never wait for an apply; one apply
is under way at most, and it has everything durable when it began; what was submitted can be read after
`StoreThread.applied`; after a failure nothing more is done, and whoever waits is told.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, ParamSpec, Protocol, TypeVar

from outrider_coordinator.core.records import Write
from outrider_coordinator.store.errors import StoreFailed

#: An apply begins with so much to do, or when the oldest of it is so old, or when somebody wants to read.
APPLY_ROWS, APPLY_BYTES, APPLY_AFTER_S = 32_768, 16 << 20, 0.5

Work = TypeVar("Work")
Values = ParamSpec("Values")


class Store(Protocol[Work]):
    """What the threads need of a store."""

    @property
    def backlog_rows(self) -> int:
        """Rows to apply."""

    @property
    def backlog_bytes(self) -> int:
        """How large they are."""

    def append(self, rows: Sequence[Write]) -> None:
        """Make these rows durable."""

    def take_backlog(self) -> Work:
        """Everything appended and not taken yet; the last that was taken is applied."""

    def apply(self, work: Work) -> None:
        """Make it readable; in another thread, while `append` goes on."""


class StoreThread(Generic[Work]):
    """``committed`` hears of every batch how long it took, in seconds, ``applied`` that `unapplied_rows` fell.

    ``failed`` hears of the exception that ended it all. All methods are called on the loop, and so are these.
    """

    def __init__(
        self,
        store: Store[Work],
        committed: Callable[[float], None],
        applied: Callable[[], None],
        failed: Callable[[BaseException, str], None],
    ) -> None:
        self._applied = applied
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        #: Rows of each batch that cannot be read yet, in order; how many batches came before these.
        self._unapplied: deque[int] = deque()
        self._applied_batches = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._error: BaseException | None = None
        self._is_closed = False
        self.unapplied_rows = 0
        self._writing = _Writing(
            store, self._on_loop(committed), self._on_loop(self._now_applied), self._on_loop(self._now_failed)
        )
        self._thread = threading.Thread(target=self._writing.run, name="store", daemon=True)
        self._thread.start()

    def submit(self, batch: Sequence[Write]) -> None:
        """Make this durable next; an empty batch only comes back in its turn."""
        self._unapplied.append(len(batch))
        self.unapplied_rows += len(batch)
        self._writing.orders.put(functools.partial(self._writing.commit, batch))

    async def applied(self) -> None:
        """Wait until everything submitted so far can be read. Raises `StoreFailed` when that will never be."""
        if self._error is not None:
            raise StoreFailed(f"the store has failed: {self._error}")
        if self.unapplied_rows and not self._is_closed:
            future = self._loop.create_future()
            self._waiting.append((self._applied_batches + len(self._unapplied), future))
            self._writing.orders.put(self._writing.hurry)
            await future

    def close(self) -> None:
        """Wait until everything submitted is done and can be read, and end the thread."""
        self._is_closed = True
        self._writing.orders.put(self._writing.end)
        self._thread.join()

    def _on_loop(self, hear: Callable[Values, None]) -> Callable[Values, None]:
        """What the threads call for ``hear`` to be called on the loop."""

        def tell(*args: Values.args, **kwargs: Values.kwargs) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(functools.partial(hear, *args, **kwargs))

        return tell

    def _now_failed(self, error: BaseException, what: str) -> None:
        self._end(error)
        self._failed(error, what)

    def _now_applied(self, batches: int) -> None:
        while self._applied_batches < batches:
            self.unapplied_rows -= self._unapplied.popleft()
            self._applied_batches += 1
        ready = [future for wanted, future in self._waiting if wanted <= batches]
        self._waiting = [(wanted, future) for wanted, future in self._waiting if wanted > batches]
        for future in ready:
            if not future.done():
                future.set_result(None)
        self._applied()

    def _end(self, error: BaseException) -> None:
        self._error = error
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(StoreFailed(f"the store has failed: {error}"))


class _Writing(Generic[Work]):
    """The store thread's side, and the apply thread's."""

    def __init__(
        self,
        store: Store[Work],
        committed: Callable[[float], None],
        applied: Callable[[int], None],
        failed: Callable[[BaseException, str], None],
    ) -> None:
        self.orders: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._store = store
        self._committed = committed
        self._applied = applied
        self._failed = failed
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._batches = 0
        self._due_s = 0.0
        self._applying_batches = 0
        self._is_wanted = self._is_applying = self._is_ending = self._has_failed = False

    def run(self) -> None:
        """Carry out orders until the end, and until everything is applied then."""
        applier = threading.Thread(target=self._apply, name="apply", daemon=True)
        applier.start()
        try:
            while not self._is_ending or self._is_applying or self._store.backlog_rows:
                self._next_order()()
                if not self._is_applying and self._is_due():
                    self._begin_apply()
        except BaseException as error:
            self._failed(error, "what was committed could not be applied" if self._has_failed else "a commit failed")
        self._work.put(None)
        applier.join()

    def commit(self, batch: Sequence[Write]) -> None:
        """Make one batch durable."""
        began_s = time.perf_counter()
        if batch:
            if not self._store.backlog_rows:
                self._due_s = began_s + APPLY_AFTER_S
            self._store.append(batch)
        self._batches += 1
        self._committed(time.perf_counter() - began_s)

    def hurry(self) -> None:
        """Somebody wants to read what is durable by now."""
        self._is_wanted = True

    def end(self) -> None:
        """Nothing more will come."""
        self._is_ending = self._is_wanted = True

    def _next_order(self) -> Callable[[], object]:
        if self._is_applying or not self._store.backlog_rows:
            return self.orders.get()
        try:
            return self.orders.get(timeout=max(0.0, self._due_s - time.perf_counter()))
        except Empty:
            return self._wake

    def _wake(self) -> None:
        """The oldest batch has waited for long enough."""

    def _is_due(self) -> bool:
        store = self._store
        if self._is_wanted or self._is_ending or not store.backlog_rows:
            return self._is_wanted or self._is_ending
        is_large = store.backlog_rows >= APPLY_ROWS or store.backlog_bytes >= APPLY_BYTES
        return is_large or time.perf_counter() >= self._due_s

    def _begin_apply(self) -> None:
        self._is_wanted = False
        if self._store.backlog_rows:
            self._is_applying = True
            self._applying_batches = self._batches
            self._work.put(self._store.take_backlog())
        else:
            self._applied(self._batches)

    def _end_apply(self) -> None:
        self._is_applying = False
        self._applied(self._applying_batches)

    def _fail_apply(self, error: BaseException) -> None:
        self._has_failed = True
        raise error

    def _apply(self) -> None:
        """The apply thread."""
        while (work := self._work.get()) is not None:
            try:
                self._store.apply(work)
            except BaseException as error:
                self.orders.put(functools.partial(self._fail_apply, error))
                return
            self.orders.put(self._end_apply)
