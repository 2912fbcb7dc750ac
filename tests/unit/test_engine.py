"""The engine over a real store: commit before anything goes out, and what happens when the disk says no."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import pytest

from outrider import errors
from outrider_coordinator import engine as engine_module
from outrider_coordinator.clock import Clock
from outrider_coordinator.core.effects import Effects, EndSession, PushAck, PushAnswer, PushAssign, Send
from outrider_coordinator.core.events import (
    AgentOrder,
    AgentOrdered,
    CancelRequested,
    Ref,
    Report,
    ReportKind,
    ReportsReceived,
    SessionOpened,
    Submission,
    TasksSubmitted,
    Ticked,
    WaitFacts,
)
from outrider_coordinator.core.records import Write
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Spec
from outrider_coordinator.core.states import TaskState
from outrider_coordinator.core.step import new_state
from outrider_coordinator.engine import Engine
from outrider_coordinator.rpc.task_service import watched
from outrider_coordinator.store.errors import StoreFailed
from outrider_coordinator.store.filters import EventFilter
from outrider_coordinator.store.sqlite import SqliteStore
from support.waiting import eventually


class GatedStore(SqliteStore):
    """A store whose commits wait while the gate is shut, and may be told to fail."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)
        self.failure: Exception | None = None
        self.commits = 0

    def append(self, rows: Sequence[Write]) -> None:
        """Wait, then make durable or fail."""
        self.arrived.release()
        assert self.gate.wait(10), "the gate stayed shut"
        self.commits += 1
        if self.failure is not None:
            raise self.failure
        super().append(rows)


@dataclass
class Agent:
    """The session of an agent that notes what it is pushed."""

    epoch: int = 0
    pushed: list[tuple[Send, dict[str, bytes]]] = field(default_factory=list)
    ended: list[EndSession] = field(default_factory=list)
    seq: int = 0

    def push(self, send: Send, outcomes: dict[str, bytes]) -> None:
        """Note it."""
        self.pushed.append((send, outcomes))

    def end(self, order: EndSession) -> None:
        """Note it."""
        self.ended.append(order)

    def of(self, kind: type) -> list[Any]:
        """Pushes of one kind."""
        return [send for send, _ in self.pushed if isinstance(send, kind)]


class World:
    """An engine with the replies it gave and the failures it reported."""

    def __init__(self, store: GatedStore) -> None:
        self.store = store
        self.fatal: list[BaseException] = []
        state = new_state(CoreSettings(), coordinator_epoch=store.coordinator_epoch, now_us=1)
        self.engine = Engine(state, store, Clock(), self.fatal.append)
        self.engine.start(Effects())
        self.replies: list[Any] = []
        self.made = 0

    def submit(self, count: int = 1, *, after: tuple[str, ...] = (), delay_us: int = 0) -> list[str]:
        """Post submits of functions and return their ids; the replies come when they may."""
        ids = []
        for _ in range(count):
            self.made += 1
            ids.append(f"t{self.made:04}")
            spec = Spec(b"spec", "m:f", True, not_before_us=delay_us and self.engine.clock.now_us() + delay_us)
            submission = Submission(ids[-1], "default", spec, dependency_ids=after)
            self.engine.post(TasksSubmitted([submission], self.replies.append))
        return ids

    async def connect(self, name: str = "a", slots: int = 1) -> Agent:
        """Open a session."""
        agent = Agent()

        def accepted(value: Any) -> None:
            agent.epoch = value.epoch
            self.engine.sessions[value.epoch] = agent

        self.open_session(name, slots, accepted)
        await self.engine.flush()
        return agent

    def open_session(self, name: str, slots: int, accepted: Callable[[Any], None]) -> None:
        """Post a hello."""
        self.engine.post(SessionOpened(name, "m", "i", 1, "1", "h", {}, slots, 0, 8, [], [], accepted))

    def report(self, agent: Agent, kind: int, **facts: Any) -> None:
        """One report of the last assignment."""
        agent.seq += 1
        assign = agent.of(PushAssign)[-1]
        ref = Ref(assign.task_id, assign.attempt, assign.fence)
        terminal = kind == ReportKind.COMPLETED
        report = Report(ref, agent.seq, 1, kind, terminal, facts.pop("body", b""), **facts)
        self.engine.post(ReportsReceived(assign.agent_id, agent.epoch, "box", agent.seq, [report]))

    async def complete(self, agent: Agent, outcome: bytes = b"done") -> None:
        """The last assignment starts and succeeds."""
        self.report(agent, ReportKind.STARTED)
        self.report(agent, ReportKind.COMPLETED, body=outcome)
        await self.engine.flush()


async def until(predicate: Callable[[], Any]) -> None:
    """Let the loop run until something holds; looked at from another thread."""
    await asyncio.to_thread(eventually, predicate)


async def commit_begins(store: GatedStore) -> None:
    """Until the store thread stands at the gate."""
    assert await asyncio.to_thread(store.arrived.acquire, timeout=10), "nothing was committed"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GatedStore]:
    """A new store."""
    store = GatedStore(tmp_path)
    yield store
    store.gate.set()
    store.close()


@pytest.fixture
async def world(store: GatedStore) -> AsyncIterator[World]:
    """A running engine, idle."""
    world = World(store)
    await world.engine.flush()
    yield world
    store.gate.set()
    await world.engine.close()


async def test_a_reply_waits_for_its_commit(world: World, store: GatedStore) -> None:
    """A submit is answered when its row is on disk, not before."""
    store.gate.clear()
    (task_id,) = world.submit()
    await commit_begins(store)
    await until(lambda: not world.engine._is_scheduled)
    assert world.replies == []
    assert store.reader.task("default", task_id) is None
    store.gate.set()
    await world.engine.flush()
    ((accepted,),) = world.replies
    assert accepted.id == task_id
    assert await world.engine.read(lambda: store.reader.task("default", task_id)) is not None


async def test_what_writes_nothing_waits_too(world: World, store: GatedStore) -> None:
    """A reply that rests on uncommitted memory waits for that commit, though its own step wrote nothing."""
    store.gate.clear()
    world.submit()
    await commit_begins(store)
    verdicts: list[Any] = []
    world.engine.post(CancelRequested(["unknown"], "", verdicts.append))
    await until(lambda: not world.engine._is_scheduled)
    assert verdicts == []
    store.gate.set()
    await world.engine.flush()
    assert len(verdicts) == 1


async def test_what_gathers_during_a_commit_is_one_transaction(world: World, store: GatedStore) -> None:
    """While one commit is under way the next one gathers, in order."""
    store.gate.clear()
    world.submit()
    await commit_begins(store)
    before = store.commits
    ids = world.submit(50)
    await until(lambda: not world.engine._is_scheduled)
    store.gate.set()
    await world.engine.flush()
    assert store.commits - before == 2
    assert [accepted.id for (accepted,) in world.replies] == ["t0001", *ids]


async def test_an_agent_that_is_removed_and_comes_back_at_once_is_kept(world: World, store: GatedStore) -> None:
    """A remove and the hello after it, taken in one step, leave the agent stored, without its old outboxes."""
    agent = await world.connect()
    world.submit()
    await world.engine.flush()
    await world.complete(agent)
    assert await world.engine.read(store.reader.outboxes)
    world.engine.post(AgentOrdered("a", AgentOrder.REMOVE, world.replies.append, force=True))
    world.open_session("a", 7, world.replies.append)
    await world.engine.flush()
    assert [(row.id, row.slots) for row in await world.engine.read(store.reader.agents)] == [("a", 7)]
    assert await world.engine.read(store.reader.outboxes) == []
    assert [order.refused.reason for order in agent.ended] == ["AGENT_REMOVED"]


async def test_a_look_into_the_past_waits_for_nothing(world: World, store: GatedStore) -> None:
    """What was committed long ago is read at once, beside a commit that takes its time."""
    store.gate.clear()
    world.submit()
    await commit_begins(store)
    assert await asyncio.wait_for(world.engine.read(store.reader.cursors, at_once=True), 10) == (1, 0)
    store.gate.set()
    assert await asyncio.wait_for(world.engine.read(store.reader.cursors), 10) == (1, 2)


async def test_a_cursor_of_another_store_is_an_invalid_request(world: World) -> None:
    """A client that resumes after a cursor from elsewhere is told which field is wrong."""
    with pytest.raises(errors.InvalidRequest, match="after_cursor: cursor 9 was never given out here") as refused:
        await anext(watched(world.engine, EventFilter(), 9))
    assert [violation.field for violation in refused.value.violations] == ["after_cursor"]


async def test_a_failed_commit_stops_everything(world: World, store: GatedStore) -> None:
    """Nothing that rests on a failed commit or comes after it is released, and the daemon is told once."""
    live = world.engine.hub.watch(EventFilter(), None)
    assert await anext(live) == 0
    store.gate.clear()
    store.failure = StoreFailed("the disk is gone")
    world.submit()
    await commit_begins(store)
    world.submit(5)
    store.gate.set()
    await until(lambda: world.fatal)
    world.submit(5)
    await world.engine.flush()
    await world.engine.close()
    assert world.fatal == [store.failure]
    assert world.replies == []
    assert world.engine.hub.last_cursor == 0
    assert store.commits == 1
    await live.aclose()


async def test_a_failed_sync_of_the_disk_is_a_failed_store(
    world: World, store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that the disk refuses reaches the daemon as `StoreFailed`, and nothing of it is answered."""

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    world.submit()
    await until(lambda: world.fatal)
    (error,) = world.fatal
    assert isinstance(error, StoreFailed)
    assert "coordinator.db failed" in str(error)
    assert world.replies == []


async def test_what_was_answered_outlives_a_database_that_takes_no_more(
    world: World, store: GatedStore, tmp_path: Path
) -> None:
    """What is durable but cannot be applied ends the daemon, whoever reads is told, and the next start has it all."""
    store._connection.pragma("query_only", True)
    (task_id,) = world.submit()
    await world.engine.flush()
    assert [accepted.id for (accepted,) in world.replies] == [task_id]
    with pytest.raises(StoreFailed, match="readonly"):
        await world.engine.read(store.reader.cursors)
    assert [type(error) for error in world.fatal] == [StoreFailed]
    with pytest.raises(StoreFailed, match="readonly"):
        await world.engine.read(store.reader.cursors)
    await world.engine.close()
    store.close()
    again = GatedStore(tmp_path)
    assert again.reader.task("default", task_id) is not None
    again.close()


async def test_a_failed_step_stops_everything(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours in the core ends the daemon: memory may no longer be what the disk says."""

    def broken(*_: object) -> Effects:
        raise AssertionError("I1")

    monkeypatch.setattr(engine_module, "step", broken)
    world.submit()
    await world.engine.flush()
    assert [str(error) for error in world.fatal] == ["I1"]
    assert world.replies == []


async def test_a_reply_that_cannot_be_given_is_fatal(world: World) -> None:
    """What is lost while handing out commits is never lost in silence."""

    def broken(_: object) -> None:
        raise RuntimeError("no")

    world.engine.post(CancelRequested(["unknown"], "", broken))
    await world.engine.flush()
    assert [str(error) for error in world.fatal] == ["no"]


async def test_pushes_behind_one_that_needs_results_keep_their_order(world: World) -> None:
    """An answer that carries another task's result is read first; what is pushed after it waits behind it."""
    agent = await world.connect(slots=2)
    (needed,) = world.submit()
    await world.engine.flush()
    await world.complete(agent, outcome=b"result")
    world.submit()
    await world.engine.flush()
    world.report(agent, ReportKind.STARTED)
    world.report(agent, ReportKind.BLOCKED, wait=WaitFacts("k", "dependency", required_task_id=needed))
    gc.collect()
    await until(lambda: agent.of(PushAnswer))
    await until(lambda: agent.of(PushAck)[-1].applied_seq == agent.seq)
    ((answer, outcomes),) = [(send, outcomes) for send, outcomes in agent.pushed if isinstance(send, PushAnswer)]
    assert answer.dependency_state == TaskState.SUCCEEDED
    assert outcomes == {needed: b"result"}
    assert not world.fatal


@pytest.mark.parametrize("method", ["outcomes", "task_states"])
async def test_a_failed_read_is_fatal(world: World, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """A result or a state that cannot be read ends the daemon instead of leaving a session or a wait hanging."""

    def broken(_: object) -> Any:
        raise StoreFailed(f"{method}: damaged")

    agent = await world.connect(slots=2)
    (needed,) = world.submit()
    await world.engine.flush()
    await world.complete(agent)
    world.submit()
    await world.engine.flush()
    monkeypatch.setattr(type(world.store.reader), method, lambda self, ids: broken(ids))
    world.report(agent, ReportKind.BLOCKED, wait=WaitFacts("k", "dependency", required_task_id=needed))
    await until(lambda: world.fatal)
    assert [str(error) for error in world.fatal] == [f"{method}: damaged"]


async def test_admission_stops_while_too_much_is_uncommitted(
    world: World, store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers that would add more wait until the disk has caught up."""
    monkeypatch.setattr(engine_module, "UNCOMMITTED_ROWS_MAX", 10)
    store.gate.clear()
    world.submit(20)
    await commit_begins(store)
    waiting = asyncio.ensure_future(world.engine.admit())
    await until(lambda: not world.engine._is_scheduled)
    assert not waiting.done()
    store.gate.set()
    await asyncio.wait_for(waiting, 10)


async def test_a_pause_of_this_process_is_noticed(world: World) -> None:
    """A step that finds that nothing has run for long tells the core first, whatever woke it."""
    await world.connect()
    clock = world.engine.clock
    late_us = clock.now_us() + 60_000_000
    world.engine.clock = SimpleNamespace(now_us=lambda: late_us)  # type: ignore[assignment]  # stands
    world.engine.post(Ticked())
    await world.engine.flush()
    assert world.engine.state.watch.paused_us == late_us
    assert world.engine.state.agents["a"].is_online
    world.engine.clock = clock


async def test_nothing_happens_after_close(world: World, store: GatedStore) -> None:
    """Close commits what was posted; afterwards no timer is armed and posts are dropped."""
    world.submit(delay_us=3_600_000_000)
    world.submit()
    await world.engine.close()
    assert len(world.replies) == 2
    timer = world.engine._timer
    assert timer is not None
    assert timer.cancelled()
    world.submit()
    assert not world.engine._is_scheduled
    assert world.engine._timer is timer
    await world.engine.close()
    assert len(world.replies) == 2
    assert not world.fatal
    with pytest.raises(RuntimeError):
        await world.engine.read(store.reader.cursors)


async def test_a_read_under_way_ends_with_close(world: World) -> None:
    """A read that nobody waits for any more neither holds up the close nor posts into a closed engine."""
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(10)

    async def load() -> None:
        await world.engine.read(slow)
        world.submit()

    world.engine._start_load(load())
    await until(begun.is_set)
    go_on.set()
    await world.engine.close()
    await until(lambda: not world.engine._loads)
    assert not world.fatal
    assert not world.engine._is_scheduled


async def test_damage_found_by_a_read_names_the_file(store: GatedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the reader cannot read is a `StoreFailed` that says which file and what to do."""

    class Broken:
        def execute(self, *_: object) -> Any:
            raise apsw.CorruptError("database disk image is malformed")

    with monkeypatch.context() as patched:
        patched.setattr(store.reader, "_connection", Broken())
        with pytest.raises(StoreFailed, match=r"coordinator\.db failed: .*malformed; restore a backup"):
            store.reader.cursors()
