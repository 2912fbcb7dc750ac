"""An event loop in a thread of its own, for programs that have none.

Invariant: every coroutine that was taken is run to its end, or cancelled when the loop stops, before the loop is
closed; after that none is taken. So nobody waits for what will never be run, whenever the loop stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent import futures
from typing import Any, TypeVar

import uvloop

from outrider.errors import Unreachable

Result = TypeVar("Result")

_END = object()


class LoopThread:
    """Runs coroutines for other threads until stopped. Callers must not be its own thread."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.loop.set_exception_handler(_report)
        # Reentrant, because collecting a generator of `iterate` takes it, and that may happen wherever it is held.
        self._taking = threading.RLock()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="outrider-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            with self._taking:
                self._is_stopped = True
            # What was taken until now stands before this in the loop's queue, so there it is a task that can be ended.
            self.loop.run_until_complete(_end_all())
            self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run to its end and return what it returns; interrupted, it is cancelled.

        Raises RuntimeError after `stop`, and `Unreachable` when stopped meanwhile.
        """
        future = self._take(coroutine)
        if future is None:
            raise RuntimeError("the client is closed")
        try:
            return future.result()
        except futures.CancelledError:
            raise Unreachable("the client was closed meanwhile") from None
        except BaseException:
            future.cancel()
            raise

    def _take(self, coroutine: Coroutine[Any, Any, Result]) -> futures.Future[Result] | None:
        """Hand it to the loop; None when the loop has stopped."""
        with self._taking:
            if not self._is_stopped:
                return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        coroutine.close()
        return None

    def iterate(self, items: AsyncGenerator[Result, None]) -> Iterator[Result]:
        """The items, each fetched when asked for; leaving early ends the generator too. Raises as `run`."""

        async def following() -> Any:
            return await anext(items, _END)

        try:
            while (item := self.run(following())) is not _END:
                yield item
        finally:
            # Not waited for: a generator may be collected on any thread, also on the loop's own.
            # A loop that has stopped ends all generators itself.
            self._take(_ended(items))

    def is_current(self) -> bool:
        """Whether the caller is on the loop's own thread."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """End what still runs, the loop and its thread."""
        with contextlib.suppress(RuntimeError):  # stopped before
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5.0)


async def _ended(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


async def _end_all() -> None:
    """Cancel what callers in other threads still wait for."""
    own = {asyncio.current_task()}
    while tasks := asyncio.all_tasks() - own:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # All loops of a process share grpc.aio's poller. It wakes each of them for every event, and the ones that come too
    # late find nothing to read; and it fails to hand an event on to the loop of a client that has closed meanwhile.
    is_the_pollers = "PollerCompletionQueue" in repr(context.get("handle"))
    if not (is_the_pollers and isinstance(context.get("exception"), (BlockingIOError, RuntimeError))):
        loop.default_exception_handler(context)
