"""The store's threads: batches become durable at once and are applied in their own time; nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from outrider_coordinator import store_thread
from outrider_coordinator.core.records import DeleteAgent, Write
from outrider_coordinator.store.errors import StoreFailed
from outrider_coordinator.store_thread import StoreThread
from support.waiting import eventually


class MemoryStore:
    """A store whose applies wait at a gate."""

    def __init__(self) -> None:
        self.durable: list[Write] = []
        self.readable: list[Write] = []
        self.backlog: list[Write] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.applies = 0

    @property
    def backlog_rows(self) -> int:
        """Rows to apply."""
        return len(self.backlog)

    @property
    def backlog_bytes(self) -> int:
        """Nothing is large here."""
        return 0

    def append(self, rows: Sequence[Write]) -> None:
        """Note them."""
        self.durable += rows
        self.backlog += rows

    def take_backlog(self) -> list[Write]:
        """Hand them out."""
        rows, self.backlog = self.backlog, []
        return rows

    def apply(self, work: list[Write]) -> None:
        """Wait, then make them readable or fail."""
        self.applies += 1
        assert self.gate.wait(10), "the gate stayed shut"
        if self.failure is not None:
            raise self.failure
        self.readable += work


class World:
    """A thread over such a store, with what it told."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.committed = 0
        self.room = 0
        self.failures: list[BaseException] = []
        self.thread = StoreThread(self.store, self._committed, self._applied, self._failed)

    def _committed(self, seconds: float) -> None:
        assert seconds >= 0
        self.committed += 1

    def _applied(self) -> None:
        self.room += 1

    def _failed(self, error: BaseException, what: str) -> None:
        self.failures.append(error)

    def submit(self, *names: str) -> list[DeleteAgent]:
        """One batch."""
        batch = [DeleteAgent(name) for name in names]
        self.thread.submit(batch)
        return batch


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A thread that applies only when it is asked to."""
    monkeypatch.setattr(store_thread, "APPLY_AFTER_S", 3600.0)
    world = World()
    yield world
    world.store.gate.set()
    world.thread.close()


async def until(predicate: Any) -> None:
    """Let the loop run until something holds."""
    await asyncio.to_thread(eventually, predicate)


async def test_what_was_submitted_can_be_read_after_waiting(world: World) -> None:
    """Durable at once, readable when somebody asks, in order."""
    rows = world.submit("a", "b") + world.submit("c")
    await until(lambda: world.committed == 2)
    assert world.store.durable == rows
    assert world.store.readable == []
    assert world.thread.unapplied_rows == 3
    await asyncio.wait_for(world.thread.applied(), 10)
    assert world.store.readable == rows
    assert world.thread.unapplied_rows == 0
    assert world.room == 1
    await asyncio.wait_for(world.thread.applied(), 10)
    assert world.store.applies == 1


async def test_many_may_wait_at_once_and_each_sees_what_came_before(world: World) -> None:
    """A wait that begins while an apply is under way is for what that apply does not have, too."""
    world.store.gate.clear()
    first = world.submit("a")
    waits = [asyncio.ensure_future(world.thread.applied())]
    await until(lambda: world.store.applies == 1)
    second = world.submit("b")
    waits.append(asyncio.ensure_future(world.thread.applied()))
    await asyncio.sleep(0)
    world.store.gate.set()
    await asyncio.wait_for(asyncio.gather(*waits), 10)
    assert world.store.readable == first + second


async def test_a_commit_does_not_wait_for_an_apply(world: World) -> None:
    """What comes while a long apply is under way becomes durable meanwhile."""
    world.store.gate.clear()
    world.submit("a")
    wait = asyncio.ensure_future(world.thread.applied())
    await until(lambda: world.store.applies == 1)
    world.submit("late")
    await until(lambda: world.committed == 2)
    assert world.store.readable == []
    world.store.gate.set()
    await asyncio.wait_for(wait, 10)


async def test_a_commit_that_fails_beside_an_apply_tells_those_who_wait(world: World) -> None:
    """The apply ends, the thread ends, and nobody waits for ever."""
    world.store.gate.clear()
    world.submit("a")
    wait = asyncio.ensure_future(world.thread.applied())
    await until(lambda: world.store.applies == 1)

    def refuse(rows: Sequence[Write]) -> None:
        raise OSError("the disk is gone")

    world.store.append = refuse  # type: ignore[method-assign]  # this one store
    world.submit("b")
    with pytest.raises(StoreFailed, match="the disk is gone"):
        await asyncio.wait_for(wait, 10)
    world.store.gate.set()
    world.thread.close()
    assert [str(error) for error in world.failures] == ["the disk is gone"]


async def test_what_is_old_or_much_is_applied_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is readable after a while, and before that when much has gathered."""
    monkeypatch.setattr(store_thread, "APPLY_AFTER_S", 0.01)
    world = World()
    rows = world.submit("a")
    await until(lambda: world.store.readable == rows)
    monkeypatch.setattr(store_thread, "APPLY_AFTER_S", 3600.0)
    monkeypatch.setattr(store_thread, "APPLY_ROWS", 2)
    rows += world.submit("b") + world.submit("c")
    await until(lambda: world.store.readable == rows)
    world.thread.close()


async def test_close_applies_what_is_left(world: World) -> None:
    """After a stop in good order nothing is left for the next start."""
    rows = world.submit(*(f"agent{number}" for number in range(100)))
    world.thread.close()
    assert world.store.readable == rows
    await asyncio.wait_for(world.thread.applied(), 10)


async def test_a_failed_apply_tells_the_daemon_and_all_who_wait(world: World) -> None:
    """Nobody waits for what will never be; who comes later hears the same."""
    world.store.failure = OSError("the disk is gone")
    world.submit("a")
    with pytest.raises(StoreFailed, match="the disk is gone"):
        await asyncio.wait_for(world.thread.applied(), 10)
    with pytest.raises(StoreFailed, match="the disk is gone"):
        await world.thread.applied()
    assert world.failures == [world.store.failure]


async def test_a_waiter_that_has_gone_disturbs_nobody(world: World) -> None:
    """A read that was cancelled while it waited is forgotten."""
    world.store.gate.clear()
    rows = world.submit("a")
    gone, stays = (asyncio.ensure_future(world.thread.applied()) for _ in range(2))
    await until(lambda: world.store.applies == 1)
    gone.cancel()
    world.store.gate.set()
    await asyncio.wait_for(stays, 10)
    assert world.store.readable == rows
    assert world.failures == []
