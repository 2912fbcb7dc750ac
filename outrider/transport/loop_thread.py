"""An event loop in a thread of its own, for programs that have none."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

import uvloop

Result = TypeVar("Result")


class LoopThread:
    """Runs coroutines for other threads until stopped. Callers must not be its own thread."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.loop.set_exception_handler(_report)
        self._thread = threading.Thread(target=self._run, name="outrider-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run to its end and return what it returns; interrupted, it is cancelled."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[Result]) -> Iterator[Result]:
        """The items as they come; leaving early ends the asynchronous iterator too."""
        arrived: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

        async def pump() -> None:
            try:
                async for item in items:
                    arrived.put((item, None))
                arrived.put((None, StopIteration()))
            except BaseException as error:
                arrived.put((None, error))
                raise

        future = asyncio.run_coroutine_threadsafe(pump(), self.loop)
        try:
            while True:
                item, error = arrived.get()
                if isinstance(error, StopIteration):
                    return
                if error is not None:
                    raise error
                yield item  # type: ignore[misc]  # None only beside an error
        finally:
            future.cancel()

    def stop(self) -> None:
        """End the loop and its thread."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(5.0)
        with contextlib.suppress(RuntimeError):
            self.loop.close()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # grpc.aio's poller wakes every loop of the process, and the ones with nothing to read say so with this error.
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)
