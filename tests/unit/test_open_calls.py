"""Whoever waits on a connection is woken by its close, and can tell that from being cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from outrider.errors import Unreachable
from outrider.transport.open_calls import OpenCalls

TIMEOUT_S = 10


async def for_ever() -> None:
    """Waits for nothing."""
    await asyncio.Event().wait()


async def one_and_no_more() -> AsyncIterator[int]:
    """One item, and then none for ever."""
    yield 1
    await for_ever()


async def drain(items: AsyncIterator[int], has_read: asyncio.Event) -> None:
    """Read to the end."""
    async for _ in items:
        has_read.set()


async def waiting(calls: OpenCalls) -> asyncio.Task[None]:
    """A task that waits for ever, and has begun to."""
    begun = asyncio.Event()

    async def begin() -> None:
        begun.set()
        await for_ever()

    task = asyncio.create_task(calls.answer(begin))
    await begun.wait()
    return task


async def test_a_close_wakes_those_who_wait() -> None:
    """Calls and readers get `Unreachable`, before the close returns."""
    calls, has_read = OpenCalls(), asyncio.Event()
    call, reader = await waiting(calls), asyncio.create_task(drain(calls.each(one_and_no_more), has_read))
    await has_read.wait()
    await asyncio.wait_for(calls.close(), TIMEOUT_S)
    for task in (call, reader):
        with pytest.raises(Unreachable, match="the client was closed meanwhile"):
            await asyncio.wait_for(task, TIMEOUT_S)


async def test_a_reader_between_two_items_is_told() -> None:
    """It was not waiting when it was closed, and gets `Unreachable` when it asks for the next one."""
    calls = OpenCalls()
    items = calls.each(one_and_no_more)
    assert await anext(items) == 1
    await calls.close()
    with pytest.raises(Unreachable):
        await asyncio.wait_for(anext(items), TIMEOUT_S)


async def test_nothing_begins_after_the_close() -> None:
    """Neither a call nor a stream; it says that the client is closed."""
    calls, begun = OpenCalls(), list[int]()
    await calls.close()

    async def begin() -> None:
        begun.append(1)

    with pytest.raises(RuntimeError, match="the client is closed"):
        await calls.answer(begin)
    with pytest.raises(RuntimeError, match="the client is closed"):
        await anext(calls.each(one_and_no_more))
    assert not begun


async def test_a_cancelled_caller_stays_cancelled() -> None:
    """Also when the close comes in the same moment: a cancellation is never taken for the close."""
    calls = OpenCalls()
    before, together = await waiting(calls), await waiting(calls)
    before.cancel()
    with pytest.raises(asyncio.CancelledError):
        await before
    together.cancel()
    await asyncio.wait_for(calls.close(), TIMEOUT_S)
    with pytest.raises(asyncio.CancelledError):
        await together


async def test_a_timeout_of_the_call_itself_is_passed_on() -> None:
    """A TimeoutError that is not the close's."""
    calls = OpenCalls()

    async def late() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await calls.answer(late)
