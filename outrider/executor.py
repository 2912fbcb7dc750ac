"""`concurrent.futures` over a fleet: code written for a process pool runs unchanged, on many machines."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, ParamSpec, TypeVar

from outrider.aio import chunks
from outrider.batch import call_many
from outrider.client import Client, Submitter, TaskHandle
from outrider.errors import OutriderError, TaskCancelled
from outrider.work import function_name

__all__ = ["Executor", "TaskFuture"]

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")


class TaskFuture(futures.Future[Value]):
    """The future of one task. Unlike a pool's, it can be cancelled while it runs."""

    handle: TaskHandle[Value]

    def cancel(self) -> bool:
        """Cancel the task; True when that decides its outcome."""
        if self.done():
            return self.cancelled()
        try:
            decided = self.handle.cancel()
        except OutriderError:
            return False
        return decided and super().cancel()


class Executor(futures.Executor):
    """Submits every call as a task. Closes ``client`` on shutdown when it made it itself."""

    def __init__(self, client: Submitter | None = None) -> None:
        self._own_client = Client() if client is None else None
        self._submitter: Submitter = client or self._own_client  # type: ignore[assignment]  # one of them is set
        self._lock = threading.Lock()
        self._open: set[TaskFuture[Any]] = set()
        self._is_shut_down = False

    def submit(
        self, fn: Callable[Parameters, Value], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> TaskFuture[Value]:
        """Run ``fn`` on the fleet; errors as `Client.submit`, RuntimeError after `shutdown`."""
        future: TaskFuture[Value] = TaskFuture()
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("cannot submit after shutdown")
            future.handle = self._submitter.submit(fn, *args, **kwargs)
            self._open.add(future)
        future.handle.add_done_callback(lambda handle: self._ended(future, handle))
        return future

    def _ended(self, future: TaskFuture[Any], handle: TaskHandle[Any]) -> None:
        with self._lock:
            self._open.discard(future)
        failure = handle.exception()
        if future.cancelled() or (isinstance(failure, TaskCancelled) and futures.Future.cancel(future)):
            future.set_running_or_notify_cancel()
        elif failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(handle.result())

    def map(
        self,
        fn: Callable[..., Value],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[Value]:
        """As the base class; ``chunksize`` calls travel as one task."""
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        calls = chunks(iterables, chunksize)
        parts = super().map(call_many, itertools.repeat(function_name(fn)), calls, timeout=timeout)
        return itertools.chain.from_iterable(parts)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; with ``wait`` until all has ended, with ``cancel_futures`` after cancelling it."""
        with self._lock:
            self._is_shut_down = True
            left = list(self._open)
        if cancel_futures:
            for future in left:
                future.cancel()
        if wait:
            futures.wait(left)
        if self._own_client is not None:
            self._own_client.close()
