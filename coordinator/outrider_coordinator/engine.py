"""The one loop: events go in, the core decides, the store commits, and only then anything goes out.

The engine belongs to the event loop's thread. It owns the state, the store thread (the only writer) and the reader
thread. It knows nothing of gRPC: what is sent to an agent goes to the session registered under its epoch.

After a failure (of a step, a commit, a release, or a read that a push rests on) nothing is stepped, committed or
released any more, and ``on_fatal`` is called once. After `Engine.close` nothing happens at all.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import statistics
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from outrider_coordinator.clock import Clock
from outrider_coordinator.core import pacing
from outrider_coordinator.core.effects import (
    Effects,
    EndSession,
    LoadOutcomes,
    PushAnswer,
    PushAssign,
    Reply,
    Send,
    rows,
)
from outrider_coordinator.core.events import OutcomesLoaded, PauseNoticed, Ticked
from outrider_coordinator.core.records import InsertEvent, InsertLog, Write
from outrider_coordinator.core.state import State
from outrider_coordinator.core.step import Event, next_due_us, step
from outrider_coordinator.quarantine import Quarantine
from outrider_coordinator.release import ReleaseQueue
from outrider_coordinator.store.sqlite import SqliteStore
from outrider_coordinator.store_thread import StoreThread
from outrider_coordinator.watch_hub import WatchHub

logger = logging.getLogger(__name__)

#: Not having run for so long is a pause: what agents have said meanwhile has not been read.
PAUSE_US, PULSE_S = 2_000_000, 0.5
#: Above these nothing more is admitted: rows that are not durable yet, and rows that cannot be read yet.
UNCOMMITTED_ROWS_MAX, UNAPPLIED_ROWS_MAX = 100_000, 200_000
Result = TypeVar("Result")
_NO_OUTCOMES: dict[str, bytes] = {}


class Session(Protocol):
    """Where pushes of one agent session go. Called on the loop; must not block."""

    def push(self, send: Send, outcomes: dict[str, bytes]) -> None:
        """Queue one push; ``outcomes`` holds the serialized Completed of the tasks it refers to."""

    def end(self, order: EndSession) -> None:
        """End the stream with a refusal."""


@dataclass(slots=True)
class Committed:
    """What of a step becomes visible with its commit."""

    sends: list[Send]
    events: list[InsertEvent]
    logs: list[InsertLog]


class Engine:
    """Steps the core and keeps the promise that every effect waits for the commit it rests on."""

    def __init__(
        self,
        state: State,
        store: SqliteStore,
        clock: Clock,
        on_fatal: Callable[[BaseException], None],
        quarantine: Quarantine | None = None,
    ) -> None:
        self.state = state
        self.store = store
        self.clock = clock
        self.sessions: dict[int, Session] = {}
        self._on_fatal = on_fatal
        self._quarantine = quarantine
        self._loop = asyncio.get_running_loop()
        self._inbox: list[Event] = []
        self._is_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us = 0
        self._releases: ReleaseQueue[Write, Committed] = ReleaseQueue()
        self._writer = StoreThread(store, self._committed, self._make_room, self._fail)
        self._readers = ThreadPoolExecutor(1, "reader")
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._failed = False
        self._is_closed = False
        self._loads: set[asyncio.Task[None]] = set()
        self._commit_times_s: deque[float] = deque(maxlen=100)
        self._loading: dict[int, deque[Send]] = {}
        self._pulse_us = clock.now_us()
        self._pulse: asyncio.TimerHandle | None = None
        self.hub = WatchHub(store.reader, self.read)

    def start(self, recovered: Effects) -> None:
        """Begin with what recovery made; the first step follows at once."""
        self._take(recovered)
        self._beat()
        self.post(Ticked())

    def post(self, event: Event) -> None:
        """Give the core one more fact; it is taken with what else waits, in one step if that is not too much."""
        if self._is_closed:
            return
        self._inbox.append(event)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._step)

    async def admit(self) -> None:
        """Wait while too much is uncommitted: callers of submits and reports ask this first."""
        await self._room.wait()

    async def read(self, reading: Callable[[], Result], *, at_once: bool = False) -> Result:
        """Run a blocking read of the store on the reader thread: it sees everything that was released by now.

        ``at_once`` is for what was committed long ago: more than `UNAPPLIED_ROWS_MAX` rows, or before this start.
        """
        if not at_once:
            await self._writer.applied()
        return await self._loop.run_in_executor(self._readers, reading)

    async def flush(self) -> None:
        """Wait until everything posted so far is committed and released."""
        while self._is_scheduled or not self._idle.is_set():
            await asyncio.sleep(0)
            await self._idle.wait()

    async def close(self) -> None:
        """Commit what is left and stop the threads; the store itself stays open."""
        await self.flush()
        self._is_closed = True
        for timer in (self._timer, self._pulse):
            if timer is not None:
                timer.cancel()
        for load in self._loads:
            load.cancel()
        self._writer.close()
        self._readers.shutdown(wait=True)

    @property
    def commit_median_s(self) -> float:
        """Median duration of the last 100 commits, in seconds; 0 before the first."""
        return statistics.median(self._commit_times_s) if self._commit_times_s else 0.0

    def _step(self) -> None:
        self._is_scheduled = False
        if self._failed or self._is_closed:
            return
        count = pacing.fitting(self._inbox)
        events, self._inbox = self._inbox[:count], self._inbox[count:]
        if self._inbox:
            self._is_scheduled = True
            self._loop.call_soon(self._step)
        now_us = self.clock.now_us()
        if now_us - self._pulse_us > PAUSE_US:
            events.insert(0, PauseNoticed(now_us - self._pulse_us))
            self._pulse_us = now_us
        for batch in (events,) if self._quarantine is None else self._quarantine.batches(events):
            try:
                effects = step(self.state, batch, now_us)
            except Exception as error:
                if self._quarantine is not None:
                    self._quarantine.crashed(batch)
                self._fail(error, f"a step failed on {[type(event).__name__ for event in batch]}")
                return
            if self._quarantine is not None:
                self._quarantine.passed(batch)
            self._take(effects)
        self._arm_timer()

    def _take(self, effects: Effects) -> None:
        logs = [row for row in effects.inserts if isinstance(row, InsertLog)]
        released = self._releases.add(rows(effects), [Committed(effects.sends, effects.events, logs)])
        self._release(released)
        self._commit_if_idle()

    def _arm_timer(self) -> None:
        """See to it that a step comes when the next timer is due; one that comes too early does no harm."""
        due_us = next_due_us(self.state)
        if due_us is None or (self._timer is not None and self._timer_us <= due_us):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_us = due_us
        delay_s = max(0.0, (due_us - self.clock.now_us()) / 1e6)
        self._timer = self._loop.call_later(delay_s, self._tick)

    def _beat(self) -> None:
        """Show that this process runs; a step that finds no recent beat knows that it did not."""
        if self.clock.now_us() - self._pulse_us > PAUSE_US:
            self.post(Ticked())
        else:
            self._pulse_us = self.clock.now_us()
        self._pulse = self._loop.call_later(PULSE_S, self._beat)

    def _tick(self) -> None:
        self._timer = None
        self.post(Ticked())

    def _commit_if_idle(self) -> None:
        batch = self._releases.next_commit()
        if batch is not None:
            self._idle.clear()
            self._writer.submit(batch)
        elif self._releases.in_flight is None:
            self._idle.set()
        self._make_room()

    def _make_room(self) -> None:
        is_behind = self._releases.uncommitted_rows > UNCOMMITTED_ROWS_MAX
        if is_behind or self._writer.unapplied_rows > UNAPPLIED_ROWS_MAX:
            self._room.clear()
        else:
            self._room.set()

    def _committed(self, seconds: float) -> None:
        if self._failed:
            return
        self._commit_times_s.append(seconds)
        released = self._releases.committed()
        self._commit_if_idle()
        self._release(released)

    def _fail(self, error: BaseException, what: str) -> None:
        """Stop for good. Whoever waits to be admitted or for a flush goes on, and finds nothing happening."""
        if self._failed or self._is_closed:
            return
        logger.error(what, exc_info=error)
        self._failed = True
        self._room.set()
        self._idle.set()
        self._on_fatal(error)

    def _release(self, released: Iterable[Committed]) -> None:
        try:
            for committed in released:
                self._hand_out(committed)
        except Exception as error:
            self._fail(error, "what was committed could not be handed out")

    def _hand_out(self, committed: Committed) -> None:
        if committed.events:
            self.hub.publish(committed.events)
        if committed.logs:
            self.hub.publish_logs(committed.logs)
        for send in committed.sends:
            self._send(send)

    def _send(self, send: Send) -> None:
        if isinstance(send, Reply):
            send.reply(send.value)
        elif isinstance(send, LoadOutcomes):
            self._start_load(self._load_states(send))
        elif isinstance(send, EndSession):
            session = self.sessions.pop(send.epoch, None)
            if session is not None:
                session.end(send)
        else:
            self._push(send)

    def _push(self, send: Send) -> None:
        """To the agent's session, in order: behind a push whose data is still being read, wait."""
        epoch: int = send.epoch  # type: ignore[union-attr]  # every push has one
        queue = self._loading.get(epoch)
        if queue is not None:
            queue.append(send)
        elif _needs(send):
            self._loading[epoch] = deque((send,))
            self._start_load(self._load_and_push(epoch))
        elif epoch in self.sessions:
            self.sessions[epoch].push(send, _NO_OUTCOMES)

    async def _load_and_push(self, epoch: int) -> None:
        queue = self._loading[epoch]
        while queue:
            send = queue.popleft()
            needed = _needs(send)
            read = functools.partial(self.store.reader.outcomes, needed)
            outcomes = await self.read(read) if needed else {}
            if epoch in self.sessions:
                self.sessions[epoch].push(send, outcomes)
        del self._loading[epoch]

    def _start_load(self, load: Coroutine[None, None, None]) -> None:
        """Run a read that something waits for: the engine holds on to it, and its failure is fatal."""
        task = self._loop.create_task(load)
        self._loads.add(task)
        task.add_done_callback(self._load_ended)

    def _load_ended(self, load: asyncio.Task[None]) -> None:
        self._loads.discard(load)
        error = None if load.cancelled() else load.exception()
        if error is not None:
            self._fail(error, "a read that a push or a step rests on failed")

    async def _load_states(self, order: LoadOutcomes) -> None:
        reader, ids = self.store.reader, order.task_ids
        found, namespaces = await self.read(lambda: (reader.task_states(ids), reader.task_namespaces(ids)))
        self.post(OutcomesLoaded.of(found, namespaces))


def _needs(send: Send) -> tuple[str, ...]:
    """Tasks whose outcome a push carries."""
    if isinstance(send, PushAssign):
        return tuple(task_id for _, task_id in send.inputs) if send.inputs else ()
    if isinstance(send, PushAnswer) and send.dependency_id:
        return (send.dependency_id,)
    return ()
