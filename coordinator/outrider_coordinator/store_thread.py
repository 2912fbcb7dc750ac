"""The one thread that writes the store: takes a batch, commits it, says so on the loop.

A queue and a thread of its own instead of an executor: no future for each commit, and half the way from one thread to
the other. Invariant: batches are committed in the order given, one at a time; after a failure nothing more is.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from outrider_coordinator.core.records import Write


class StoreThread:
    """Runs ``commit`` for every batch; ``committed`` hears its duration in seconds, ``failed`` its exception."""

    def __init__(
        self,
        commit: Callable[[Sequence[Write]], None],
        committed: Callable[[float], None],
        failed: Callable[[BaseException, str], None],
    ) -> None:
        self._commit = commit
        self._committed = committed
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._batches: SimpleQueue[Sequence[Write] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def submit(self, batch: Sequence[Write]) -> None:
        """Commit this next; an empty batch only comes back in its turn."""
        self._batches.put(batch)

    def close(self) -> None:
        """Wait until everything submitted is done, and end the thread."""
        self._batches.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            began_s = time.perf_counter()
            try:
                if batch:
                    self._commit(batch)
            except BaseException as error:
                self._loop.call_soon_threadsafe(self._failed, error, "a commit failed")
                return
            self._loop.call_soon_threadsafe(self._committed, time.perf_counter() - began_s)
