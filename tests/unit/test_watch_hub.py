"""The watch hub over a real store: history and live as one sequence, bounded for those who do not read."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outrider_coordinator import watch_hub
from outrider_coordinator.core.records import InsertEvent, InsertLog
from outrider_coordinator.store.filters import EventFilter
from outrider_coordinator.store.reader import PAGE_BYTES_MAX
from outrider_coordinator.store.sqlite import SqliteStore
from outrider_coordinator.watch_hub import TooSlow, UnknownCursor, WatchHub
from support.memory_folders import MemoryFolders

ALL = EventFilter()


class Log:
    """A store, its hub, and the two moments between which an event is committed and not yet published."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.during_read: list[Callable[[], None]] = []
        self.hub = WatchHub(store.reader, self._read)
        self._cursors = itertools.count(store.reader.cursors()[1] + 1)

    async def _read(self, reading: Callable[[], Any]) -> Any:
        """As the engine reads: what happens meanwhile happens before or after the read itself."""
        for happens in self.during_read[:1]:
            happens()
        found = reading()
        for happens in self.during_read[1:]:
            happens()
        self.during_read = []
        return found

    def commit(self, task_ids: str, **fields: Any) -> list[InsertEvent]:
        """One event for each letter, on disk."""
        events = [InsertEvent(next(self._cursors), 4, 1, "default", task_id, **fields) for task_id in task_ids]
        self.store.commit(events)
        return events

    def add(self, task_ids: str, **fields: Any) -> None:
        """One event for each letter, on disk and published."""
        self.hub.publish(self.commit(task_ids, **fields))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """An empty log."""
    store = SqliteStore(tmp_path)
    yield Log(store)
    store.close()


def soon(awaitable: Awaitable[Any]) -> Awaitable[Any]:
    """The same within 10 seconds."""
    return asyncio.wait_for(awaitable, 10)


async def take(watch: AsyncIterator[Any], count: int) -> list[int | str]:
    """Cursors of the next events, and "caught up"; stops after ``count`` of these."""
    seen: list[int | str] = []
    while len(seen) < count:
        item = await soon(anext(watch))
        seen += ["caught up"] if isinstance(item, int) else [event.cursor for event in item]
    return seen


async def is_silent(watch: AsyncIterator[Any]) -> bool:
    """Whether the watch has nothing to give; ends it."""
    more = asyncio.ensure_future(anext(watch))
    for _ in range(5):
        await asyncio.sleep(0)
    is_silent = not more.done()
    more.cancel()
    await asyncio.gather(more, return_exceptions=True)
    return is_silent


async def test_history_comes_first_then_live(log: Log) -> None:
    """A watch after a cursor gives what is in the store, says that it caught up, and goes on live."""
    log.add("aaa")
    async with aclosing(log.hub.watch(ALL, 1)) as watch:
        assert await take(watch, 3) == [2, 3, "caught up"]
        log.add("a")
        assert await take(watch, 1) == [4]
        assert await is_silent(watch)


async def test_without_a_cursor_only_news_arrive(log: Log) -> None:
    """A watch from now on begins with the cursor reached, and then what is published."""
    log.add("aaa")
    async with aclosing(log.hub.watch(ALL, None)) as watch:
        assert await soon(anext(watch)) == 3
        log.add("a")
        assert await take(watch, 1) == [4]


@pytest.mark.parametrize("moment", ["before the read", "after the read"])
async def test_an_event_committed_while_history_is_read_arrives_once(log: Log, moment: str) -> None:
    """What is committed and published during the read of history is neither missed nor given twice."""
    log.add("aaa")
    log.during_read = [lambda: None, lambda: None]
    log.during_read[moment == "after the read"] = lambda: log.add("a")
    async with aclosing(log.hub.watch(ALL, 0)) as watch:
        assert await take(watch, 5) == [1, 2, 3, "caught up", 4]
        assert await is_silent(watch)


async def test_an_event_on_disk_that_is_not_published_yet_arrives_once(log: Log) -> None:
    """A commit whose events were not handed out yet when the watch began is given live, not from history."""
    log.add("a")
    pending = log.commit("aa")
    async with aclosing(log.hub.watch(ALL, 0)) as watch:
        assert await take(watch, 2) == [1, "caught up"]
        log.hub.publish(pending)
        assert await take(watch, 2) == [2, 3]
        assert await is_silent(watch)


MOVES = st.lists(
    st.one_of(st.tuples(st.just("add"), st.text("abc", min_size=1, max_size=4)), st.just(("read", ""))), max_size=25
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("abc", max_size=12), st.integers(0, 12), st.sampled_from(["", "a", "ab"]), MOVES)
def test_every_wanted_event_arrives_once_and_in_order(
    memory_folders: MemoryFolders, before: str, after: int, wanted: str, moves: list[tuple[str, str]]
) -> None:
    """However events, reads and publishing interleave, a watch gives all it asked for after its cursor, in order."""
    store = SqliteStore(memory_folders.make())
    try:
        asyncio.run(_walk(Log(store), before, min(after, len(before)), frozenset(wanted), moves))
    finally:
        store.close()


async def _walk(log: Log, before: str, after: int, wanted: frozenset[str], moves: list[tuple[str, str]]) -> None:
    log.add(before)
    during = [lambda task_ids=task_ids: log.add(task_ids) for kind, task_ids in moves[:2] if kind == "add"]
    log.during_read = during  # type: ignore[assignment]  # lambdas with a bound default
    made = before + "".join(task_ids for kind, task_ids in moves[:2] if kind == "add") * (after < len(before))
    seen: list[int | str] = []
    async with aclosing(log.hub.watch(EventFilter(task_ids=wanted), after)) as watch:
        while "caught up" not in seen:
            seen += await take(watch, 1)
        for kind, task_ids in moves[2:]:
            if kind == "add":
                log.add(task_ids)
                made += task_ids
            elif len(seen) - 1 < len(_expected(made, after, wanted)):
                seen += await take(watch, 1)
        seen += await take(watch, len(_expected(made, after, wanted)) + 1 - len(seen))
    seen.remove("caught up")
    assert seen == _expected(made, after, wanted)


def _expected(made: str, after: int, wanted: frozenset[str]) -> list[int]:
    return [cursor for cursor, task_id in enumerate(made, 1) if cursor > after and (not wanted or task_id in wanted)]


async def test_a_cursor_of_another_store_is_refused(log: Log) -> None:
    """A cursor that was never given out here is an error at once, not a watch that waits until it is passed."""
    log.add("aa")
    with pytest.raises(UnknownCursor, match="cursor 3 was never given out here, the last one is 2"):
        await soon(anext(log.hub.watch(ALL, 3)))
    with pytest.raises(UnknownCursor):
        await soon(anext(log.hub.watch(ALL, 1 << 64)))
    assert await soon(anext(log.hub.watch(ALL, 2))) == 2


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (EventFilter(task_ids=frozenset("ab")), [1, 2]),
        (EventFilter(run_id="r"), [2]),
        (EventFilter(client_id="a"), [3]),
        (EventFilter(run_id="r", client_id="a"), []),
        (EventFilter(types=frozenset((4,))), [1, 2, 3]),
        (EventFilter(types=frozenset((5,))), []),
        (EventFilter("default"), [1, 2, 3]),
        (EventFilter("other"), []),
    ],
)
async def test_history_and_live_select_the_same(log: Log, wanted: EventFilter, expected: list[int]) -> None:
    """Every filter gives from the store what it gives live, each event once, though ids of all kinds look alike."""
    async with aclosing(log.hub.watch(wanted, 0)) as live:
        assert await soon(anext(live)) == 0
        log.add("a")
        log.add("b", run_id="r")
        log.add("c", client_id="a")
        if expected:
            assert await take(live, len(expected)) == expected
        assert await is_silent(live)
    async with aclosing(log.hub.watch(wanted, 0)) as history:
        assert await take(history, len(expected) + 1) == [*expected, "caught up"]


async def test_a_reader_too_many_events_behind_is_cut_off(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is given up, and it is told the cursor after which the store has the rest."""
    monkeypatch.setattr(watch_hub, "QUEUE_EVENTS_MAX", 5)
    async with aclosing(log.hub.watch(ALL, 0)) as watch:
        assert await soon(anext(watch)) == 0
        log.add("a")
        assert await take(watch, 1) == [1]
        log.add("aaaaaa")
        with pytest.raises(TooSlow) as cut:
            await soon(anext(watch))
    assert cut.value.cursor == 1
    async with aclosing(log.hub.watch(ALL, cut.value.cursor)) as watch:
        assert await take(watch, 7) == [2, 3, 4, 5, 6, 7, "caught up"]


async def test_a_reader_too_many_bytes_behind_is_cut_off(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large results count, those it did not ask for do not."""
    monkeypatch.setattr(watch_hub, "QUEUE_BYTES_MAX", 1000)
    with_results, without = log.hub.watch(EventFilter(include_results=True), 0), log.hub.watch(ALL, 0)
    async with aclosing(with_results), aclosing(without):
        assert await soon(anext(with_results)) == await soon(anext(without)) == 0
        log.add("aaa", outcome=b"x" * 400)
        with pytest.raises(TooSlow) as cut:
            await soon(anext(with_results))
        assert cut.value.cursor == 0
        (events,) = [await soon(anext(without))]
        assert [event.outcome for event in events] == [b""] * 3
        log.add("aaa", body=b"x" * 400)
        with pytest.raises(TooSlow):
            await soon(anext(without))


async def test_one_event_larger_than_the_queue_still_arrives(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty queue takes any event: a reader that is not behind is never cut off."""
    monkeypatch.setattr(watch_hub, "QUEUE_BYTES_MAX", 10)
    async with aclosing(log.hub.watch(ALL, 0)) as watch:
        assert await soon(anext(watch)) == 0
        for cursor in (1, 2):
            log.add("a", body=b"x" * 100)
            assert await take(watch, 1) == [cursor]


async def test_pages_are_bounded_in_bytes(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither history nor live gives more at once than one frame should carry."""
    body = b"x" * (PAGE_BYTES_MAX // 2)
    log.add("aaaaa", body=body)
    async with aclosing(log.hub.watch(ALL, 0)) as watch:
        pages = [await soon(anext(watch)) for _ in range(4)]
        assert [len(page) for page in pages[:3]] == [2, 2, 1]
        assert pages[3] == 5
        log.add("aaaaa", body=body)
        assert [len(await soon(anext(watch))) for _ in range(3)] == [2, 2, 1]


async def test_a_watch_leaves_nothing_behind(log: Log) -> None:
    """Once a watch is closed the hub holds nothing of it."""
    for wanted in (ALL, EventFilter(task_ids=frozenset("ab")), EventFilter(run_id="r"), EventFilter(client_id="c")):
        watch = log.hub.watch(wanted, None)
        await soon(anext(watch))
        await watch.aclose()
    tables = (log.hub._by_task, log.hub._by_run, log.hub._by_client, log.hub._others)
    assert not any(tables)


async def test_followers_of_logs_are_woken_by_output_and_by_events(log: Log) -> None:
    """Output and events of a task wake those who follow it, and nobody else."""
    mine, other = log.hub.follow_logs("a"), log.hub.follow_logs("b")
    log.hub.publish_logs([InsertLog("a", 1, 1, 1, b"")])
    assert mine.is_set()
    mine.clear()
    log.add("a")
    assert mine.is_set()
    assert not other.is_set()
    mine.clear()
    log.hub.unfollow_logs("a", mine)
    log.hub.publish_logs([InsertLog("a", 1, 2, 1, b"")])
    assert not mine.is_set()
