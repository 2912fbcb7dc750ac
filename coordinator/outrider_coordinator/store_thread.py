"""The one thread that writes the store: makes batches durable at once, and applies them when there is time for it.

A queue and a thread of its own instead of an executor: no future for each commit, and half the way from one thread to
the other. Invariants: batches become durable in the order given, one at a time, and an apply never holds one up for
longer than a few statements; what was submitted can be read after `StoreThread.applied`; after a failure nothing more
is done, and whoever waits is told.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Protocol

from outrider_coordinator.core.records import Write
from outrider_coordinator.store.errors import StoreFailed

#: An apply begins with so much to do, or when the oldest of it is so old, or when somebody wants to read.
APPLY_ROWS, APPLY_BYTES, APPLY_AFTER_S = 32_768, 16 << 20, 0.5
#: An apply goes on by at least so many statements between two batches, and by one more for so many of their rows.
STATEMENTS_MIN, ROWS_PER_STATEMENT = 4, 64


class Store(Protocol):
    """What the thread needs of a store."""

    @property
    def backlog_rows(self) -> int:
        """Rows to apply."""

    @property
    def backlog_bytes(self) -> int:
        """How large they are."""

    def append(self, rows: Sequence[Write]) -> None:
        """Make these rows durable."""

    def apply(self) -> Iterator[None]:
        """Make everything appended readable, step by step."""


class StoreThread:
    """``committed`` hears of every batch how long it took, in seconds, ``applied`` that `unapplied_rows` fell.

    ``failed`` hears of the exception that ended it all. All methods are called on the loop, and so are these.
    """

    def __init__(
        self,
        store: Store,
        committed: Callable[[float], None],
        applied: Callable[[], None],
        failed: Callable[[BaseException, str], None],
    ) -> None:
        self._committed = committed
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
        self._orders: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._writing = _Writing(store, self._orders, self._tell)
        self._thread = threading.Thread(target=self._writing.run, name="store", daemon=True)
        self._thread.start()

    def submit(self, batch: Sequence[Write]) -> None:
        """Make this durable next; an empty batch only comes back in its turn."""
        self._unapplied.append(len(batch))
        self.unapplied_rows += len(batch)
        self._orders.put(functools.partial(self._writing.commit, batch))

    async def applied(self) -> None:
        """Wait until everything submitted so far can be read. Raises `StoreFailed` when that will never be."""
        if self._error is not None:
            raise StoreFailed(f"the store has failed: {self._error}")
        if self.unapplied_rows and not self._is_closed:
            future = self._loop.create_future()
            self._waiting.append((self._applied_batches + len(self._unapplied), future))
            self._orders.put(self._writing.hurry)
            await future

    def close(self) -> None:
        """Wait until everything submitted is done and can be read, and end the thread."""
        self._is_closed = True
        self._orders.put(None)
        self._thread.join()

    def _tell(self, what: str, value: float | BaseException) -> None:
        """Called in the thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hear, what, value)

    def _hear(self, what: str, value: float | BaseException) -> None:
        if isinstance(value, BaseException):
            self._end(value)
            self._failed(value, what)
        elif what == "committed":
            self._committed(value)
        else:
            self._now_applied(int(value))
            self._applied()

    def _now_applied(self, batches: int) -> None:
        while self._applied_batches < batches:
            self.unapplied_rows -= self._unapplied.popleft()
            self._applied_batches += 1
        ready = [future for wanted, future in self._waiting if wanted <= batches]
        self._waiting = [(wanted, future) for wanted, future in self._waiting if wanted > batches]
        for future in ready:
            if not future.done():
                future.set_result(None)

    def _end(self, error: BaseException) -> None:
        self._error = error
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(StoreFailed(f"the store has failed: {error}"))


class _Writing:
    """The thread's side."""

    def __init__(
        self,
        store: Store,
        orders: SimpleQueue[Callable[[], object] | None],
        tell: Callable[[str, float | BaseException], None],
    ) -> None:
        self._store = store
        self._orders = orders
        self._tell = tell
        self._apply: Iterator[None] | None = None
        self._is_wanted = False
        self._batches = 0
        self._applying_batches = 0
        self._due_s = 0.0
        self._statements = 0

    def run(self) -> None:
        """Carry out orders until None; then apply what is left."""
        what = "a commit failed"
        try:
            while (order := self._next_order()) is not None:
                order()
                what = "what was committed could not be applied"
                self._go_on()
                what = "a commit failed"
            what = "what was committed could not be applied"
            while self._apply is not None or self._store.backlog_rows:
                self.hurry()
                self._no_order()
                self._go_on()
        except BaseException as error:
            self._tell(what, error)

    def commit(self, batch: Sequence[Write]) -> None:
        """Make one batch durable."""
        began_s = time.perf_counter()
        if batch:
            if not self._store.backlog_rows:
                self._due_s = began_s + APPLY_AFTER_S
            self._store.append(batch)
        self._batches += 1
        self._statements += STATEMENTS_MIN + len(batch) // ROWS_PER_STATEMENT
        self._tell("committed", time.perf_counter() - began_s)

    def hurry(self) -> None:
        """Somebody wants to read what is durable by now."""
        self._is_wanted = True

    def _next_order(self) -> Callable[[], object] | None:
        """The next order, or none to wait for: then there is an apply to begin or to go on with."""
        try:
            if self._apply is not None:
                return self._orders.get_nowait()
            if not self._store.backlog_rows:
                return self._orders.get()
            return self._orders.get(timeout=max(0.0, self._due_s - time.perf_counter()))
        except Empty:
            return self._no_order

    def _no_order(self) -> None:
        self._statements += STATEMENTS_MIN

    def _go_on(self) -> None:
        if self._apply is None and self._is_due():
            self._is_wanted = False
            self._applying_batches = self._batches
            self._statements = STATEMENTS_MIN
            self._apply = self._store.apply() if self._store.backlog_rows else iter(())
        while self._apply is not None and self._statements > 0:
            self._statements -= 1
            if next(self._apply, self) is self:
                self._apply = None
                self._tell("applied", self._applying_batches)

    def _is_due(self) -> bool:
        store = self._store
        if self._is_wanted or not store.backlog_rows:
            return self._is_wanted
        is_large = store.backlog_rows >= APPLY_ROWS or store.backlog_bytes >= APPLY_BYTES
        return is_large or time.perf_counter() >= self._due_s
