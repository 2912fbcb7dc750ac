"""Callers of a loop in another thread, when it stops: every interleaving is made by hand, none is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Iterator

import pytest

from outrider.errors import Unreachable
from outrider.transport.loop_thread import LoopThread

TIMEOUT_S = 10


class Stopping:
    """A loop that somebody stops, held up in the middle of ending what still runs."""

    def __init__(self) -> None:
        self.loop = LoopThread()
        self._began, self._may_end = threading.Event(), threading.Event()
        self._runs = threading.Event()
        self._threads: list[threading.Thread] = []

    def stop_half(self) -> None:
        """Stop it, up to where it has seen what still runs and waits for that."""
        self.start(lambda: self.loop.run(self._hold_up()))
        assert self._runs.wait(TIMEOUT_S)
        self.start(self.loop.stop)
        assert self._began.wait(TIMEOUT_S)

    def finish(self) -> None:
        """Let it end; nobody who called it waits any more."""
        self._may_end.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        assert not [thread for thread in self._threads if thread.is_alive()]

    def start(self, call: Callable[[], object]) -> None:
        """Call it in a thread of its own."""
        self._threads.append(threading.Thread(target=_quietly, args=(call,), daemon=True))
        self._threads[-1].start()

    async def _hold_up(self) -> None:
        self._runs.set()
        try:
            await asyncio.Event().wait()
        finally:
            self._began.set()
            self._may_end.wait(TIMEOUT_S)


def _quietly(call: Callable[[], object]) -> None:
    with contextlib.suppress(Unreachable):
        call()


@pytest.fixture
def stopping() -> Iterator[Stopping]:
    """One for a test, ended after it."""
    made = Stopping()
    yield made
    made.finish()


async def for_ever() -> None:
    """Waits for nothing."""
    await asyncio.Event().wait()


async def numbers() -> AsyncGenerator[int, None]:
    """Two numbers, and then none for ever."""
    yield 1
    yield 2
    await asyncio.Event().wait()


def told(call: Callable[[], object]) -> BaseException:
    """What a call raises; it is made in another thread, so that a test ends also when the call does not."""
    raised: list[BaseException] = []

    def calling() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)
        else:
            raised.append(AssertionError("it returned as if nothing had happened"))

    thread = threading.Thread(target=calling, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    assert raised, "it waits for what will never be"
    return raised[0]


def test_a_call_that_comes_while_the_loop_ends_is_refused(stopping: Stopping) -> None:
    """After the loop has looked at what still runs, nothing is taken that it would not see."""
    stopping.stop_half()
    assert isinstance(told(lambda: stopping.loop.run(for_ever())), RuntimeError)


def test_a_reader_between_two_items_is_told(stopping: Stopping) -> None:
    """Its iterator neither waits nor ends as if there were no more, while the loop ends and after it."""
    items, others = stopping.loop.iterate(numbers()), stopping.loop.iterate(numbers())
    assert (next(items), next(others)) == (1, 1)
    stopping.stop_half()
    assert isinstance(told(functools.partial(next, items)), RuntimeError)
    stopping.finish()
    assert isinstance(told(functools.partial(next, others)), RuntimeError)


def test_a_reader_that_waits_is_woken(stopping: Stopping) -> None:
    """`Unreachable`, when the loop stops."""
    items = stopping.loop.iterate(numbers())
    assert (next(items), next(items)) == (1, 2)
    raised: list[BaseException] = []
    stopping.start(lambda: raised.append(told(functools.partial(next, items))))
    stopping.stop_half()
    stopping.finish()
    assert isinstance(raised[0], (Unreachable, RuntimeError))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_call_in_the_same_turn_as_the_stop_is_ended(is_first: bool) -> None:
    """Taken just before or just after the stop, by a loop that has seen neither yet."""
    loop, busy, go_on = LoopThread(), threading.Event(), threading.Event()

    def be_busy() -> None:
        busy.set()
        go_on.wait(TIMEOUT_S)

    loop.loop.call_soon_threadsafe(be_busy)
    assert busy.wait(TIMEOUT_S)
    if not is_first:
        loop.loop.call_soon_threadsafe(loop.loop.stop)
    taken = loop._take(for_ever())
    go_on.set()
    loop.stop()
    assert taken is not None
    assert taken.cancelled()


def test_leaving_an_iterator_of_a_stopped_loop_is_quiet(recwarn: pytest.WarningsRecorder) -> None:
    """No coroutine is left that nobody awaits."""
    loop = LoopThread()
    items = loop.iterate(numbers())
    assert next(items) == 1
    loop.stop()
    del items
    assert not list(recwarn)
    assert isinstance(told(lambda: loop.run(for_ever())), RuntimeError)
