"""What callers wait for over one connection, so that its close wakes every one of them with a reason.

Left to itself, grpc.aio answers a close with a CancelledError that nobody asked for, or not at all: whoever is between
two streams finds a closed channel. Belongs to the loop of its connection. It must not know what is waited for.
Invariants: after `close` nobody waits here, and nothing begins here any more.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import TypeVar

from outrider.errors import Unreachable

Result = TypeVar("Result")

_END = object()


class OpenCalls:
    """The calls and streams that somebody waits for now."""

    def __init__(self) -> None:
        self._scopes: set[asyncio.Timeout] = set()
        self._left = asyncio.Event()
        self._is_closed = False

    async def answer(self, begin: Callable[[], Awaitable[Result]]) -> Result:
        """Begin and wait. Raises RuntimeError after `close`, and `Unreachable` when closed meanwhile."""
        self._check()
        return await self._wait_for(begin)

    async def each(self, begin: Callable[[], AsyncIterable[Result]]) -> AsyncIterator[Result]:
        """Begin and pass on the items. Raises as `answer`."""
        self._check()
        items = aiter(begin())
        while True:
            if self._is_closed:
                raise _closed_meanwhile()
            item = await self._wait_for(functools.partial(anext, items, _END))
            if item is _END:
                return
            yield item

    async def close(self) -> None:
        """Wake everybody who waits; returns once they have left, so that none of them sees what is closed next."""
        self._is_closed = True
        for scope in self._scopes:
            scope.reschedule(0.0)
        while self._scopes:
            self._left.clear()
            await self._left.wait()

    def _check(self) -> None:
        if self._is_closed:
            raise RuntimeError("the client is closed")

    async def _wait_for(self, begin: Callable[[], Awaitable[Result]]) -> Result:
        # A timeout that only `close` sets: it tells its own cancellation from one that the caller's task was sent.
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes.add(scope)
                try:
                    return await begin()
                finally:
                    self._scopes.discard(scope)
                    self._left.set()
        except TimeoutError:
            if scope.expired():
                raise _closed_meanwhile() from None
            raise


def _closed_meanwhile() -> Unreachable:
    return Unreachable("the client was closed meanwhile")
