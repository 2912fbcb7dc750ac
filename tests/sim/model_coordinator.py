"""The coordinator as a process: the real core and the real release rule between a model store and a model network.

Real: `core.step`, `store.load.restore`, `release.ReleaseQueue`, the conversion of wire and facts. Modelled: the
event loop of `engine.Engine` (same order of take, commit and release), threads, the gRPC server. A `Process` that is
killed does nothing more; one that is stopped does everything later, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from outrider_coordinator.core import invariants
from outrider_coordinator.core.effects import (
    Effects,
    EndSession,
    LoadOutcomes,
    PushAnswer,
    PushAssign,
    Reply,
    rows,
)
from outrider_coordinator.core.events import OutcomesLoaded, PauseNoticed, Ticked
from outrider_coordinator.core.records import InsertTask
from outrider_coordinator.core.schedules.events import WallClockMoved
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Spec
from outrider_coordinator.core.state import State
from outrider_coordinator.core.step import Event, new_state, next_due_us, step
from outrider_coordinator.engine import PAUSE_US
from outrider_coordinator.release import ReleaseQueue
from outrider_coordinator.rpc.schedule_specs import stored_schedule
from outrider_coordinator.rpc.specs import stored_spec
from outrider_coordinator.store.load import restore
from sim.kernel import Kernel, Pausable
from sim.model_store import ModelStore
from sim.observer import Witness

STORE_ID = "store"
#: `invariants.check` looks at everything, so only after so many steps that changed anything durable.
WATCH_INTERVAL_US = 5_000_000
CHECK_EVERY = 10


class Committed(NamedTuple):
    """What of a step becomes visible with its commit."""

    rows: Sequence[Any]
    sends: Sequence[Any]
    step: int
    at_us: int


class Batch(NamedTuple):
    """One transaction with the steps it holds."""

    rows: Sequence[Any]
    steps: Sequence[Committed]


class Process:
    """One start of the coordinator, until it is killed or fails."""

    def __init__(
        self,
        kernel: Kernel,
        store: ModelStore,
        settings: CoreSettings,
        witness: Witness,
        wall_offset_us: int,
        failed: Callable[[], None],
    ) -> None:
        #: Called when something has left the coordinator.
        self.released: Callable[[], None] = _nothing
        self.sessions: dict[int, Any] = {}
        self.streams: set[Any] = set()
        self.waiting_calls: list[Callable[[], None]] = []
        self.kernel = kernel
        self.store = store
        self.witness = witness
        self.marks = witness.marks
        self._offset_us = max(wall_offset_us, store.tables.last_event_us() - kernel.now_us)
        self._wall_offset_us = self._told_offset_us = wall_offset_us
        self._failed = failed
        self.pausable = Pausable(kernel)
        self._inbox: list[Event] = []
        self._is_scheduled = False
        self._timer_us = 0
        self._unchecked = 0
        self._releases: ReleaseQueue[Any, Committed] = ReleaseQueue()
        self._loading: dict[int, deque[Any]] = {}
        self._random = kernel.stream("coordinator")
        epoch = store.open()
        self.state: State = new_state(
            settings, coordinator_epoch=epoch, now_us=self.now_us(), seed=self._random.getrandbits(64)
        )
        self.state.store_id = STORE_ID
        self.state.schedules.wall_offset_us = wall_offset_us - self._offset_us
        recovered = restore(self.state, store.tables, read_spec, stored_schedule)  # type: ignore[arg-type]  # reads like a Reader
        if epoch == 1:
            self.state.requests.is_complete = True
        kernel.tell("coordinator", "started", epoch, len(self.state.tasks))
        witness.started(self.state)
        self._take(recovered)
        self.post(Ticked())

    def now_us(self) -> int:
        """The coordinator's line of time, as `clock.Clock`: no step of the wall clock moves it, nor does it go back."""
        return self.kernel.now_us + self._offset_us

    def clock_stepped(self, wall_offset_us: int) -> None:
        """Somebody has set the wall clock; the watch over it looks within seconds."""
        self._wall_offset_us = wall_offset_us
        self.later(self._random.randrange(WATCH_INTERVAL_US), self._look_at_wall)

    def _look_at_wall(self) -> None:
        if self._told_offset_us != self._wall_offset_us:
            self._told_offset_us = self._wall_offset_us
            self.post(WallClockMoved(self._wall_offset_us - self._offset_us))

    # --- being a process -------------------------------------------------------------------------------------------

    def later(self, delay_us: int, action: Callable[..., None], *arguments: Any) -> None:
        """Do this in the event loop, so much later at the earliest."""
        self.kernel.after(delay_us, self.pausable.do, action, *arguments)

    @property
    def is_dead(self) -> bool:
        """Whether the process is over."""
        return self.pausable.is_dead

    def vanish(self) -> None:
        """Nothing of what follows is told to those who are connected."""
        for stream in sorted(self.streams, key=lambda stream: stream.number):
            stream.machine_vanished()

    def kill(self) -> None:
        """SIGKILL: nothing more happens in here; the peers of its connections find out."""
        if self.is_dead:
            return
        self.pausable.is_dead = True
        self.store.crash()
        for stream in sorted(self.streams, key=lambda stream: stream.number):
            stream.process_died()
        for lost in self.waiting_calls:
            lost()
        self.waiting_calls = []

    # --- the loop of the engine ------------------------------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Give the core one more fact; it is taken with everything else that waits, in one step."""
        self._inbox.append(event)
        if not self._is_scheduled:
            self._is_scheduled = True
            self.later(self._random.randrange(20, 400), self._step)

    def _step(self) -> None:
        self._is_scheduled = False
        events, self._inbox = self._inbox, []
        paused_us, self.pausable.paused_us = self.pausable.paused_us, 0
        if paused_us > PAUSE_US:
            events.insert(0, PauseNoticed(paused_us))
        witness = self.witness
        witness.stepping(events)
        effects = step(self.state, events, self.now_us())
        self._take(effects)
        if self._unchecked >= CHECK_EVERY:
            self._unchecked = 0
            invariants.check(self.state)
        self._arm_timer()
        if witness.is_rebuild_due():
            witness.rebuilt(self.state, [*self.pending_rows()], self.store.tables)

    def _take(self, effects: Effects) -> None:
        made = rows(effects)
        self._unchecked += bool(made)
        committed = Committed(made, effects.sends, self.witness.step, self.kernel.now_us)
        self.witness.stepped(effects)
        self._release(self._releases.add(made, [committed]))
        self._commit_if_idle()

    def _commit_if_idle(self) -> None:
        if self._releases.next_commit() is not None:
            flight = self._releases.in_flight
            assert flight is not None
            # Steps that write nothing may join the batch in flight: they wait for it and are no part of it.
            self.store.commit(Batch(flight.rows, tuple(flight.releases)), self._stored)

    def _stored(self, is_durable: bool) -> None:
        self.pausable.do(self._committed if is_durable else self._fail)

    def _committed(self) -> None:
        released = self._releases.committed()
        self._commit_if_idle()
        self._release(released)

    def _fail(self) -> None:
        self.kernel.tell("coordinator", "stops: a commit failed")
        self._failed()

    def pending_rows(self) -> list[Any]:
        flight = self._releases.in_flight
        batches = ([flight] if flight is not None else []) + list(self._releases.waiting)
        return [row for batch in batches for row in batch.rows]

    def _release(self, released: Sequence[Committed]) -> None:
        for committed in released:
            self.witness.releasing(committed)
            for send in committed.sends:
                if self.is_dead:
                    return
                self._send(send)
                self.released()

    def _arm_timer(self) -> None:
        due_us = next_due_us(self.state)
        now_us = self.now_us()
        if due_us is None or now_us < self._timer_us <= due_us:
            return
        self._timer_us = max(due_us, now_us + 1)
        self.later(self._timer_us - now_us, self._tick, self._timer_us)

    def _tick(self, timer_us: int) -> None:
        if timer_us == self._timer_us:
            self._timer_us = 0
            self.post(Ticked())

    # --- what goes out ---------------------------------------------------------------------------------------------

    def _send(self, send: Any) -> None:
        if isinstance(send, Reply):
            send.reply(send.value)
        elif isinstance(send, LoadOutcomes):
            self.later(self._random.randrange(300, 5_000), self._load_states, send)
        elif isinstance(send, EndSession):
            session = self.sessions.pop(send.epoch, None)
            if session is not None:
                session.end(send.refused.reason, send.refused.message)
        else:
            self._push(send)

    def _push(self, send: Any) -> None:
        queue = self._loading.get(send.epoch)
        if queue is not None:
            queue.append(send)
        elif _needs(send):
            self._loading[send.epoch] = deque((send,))
            self.later(self._random.randrange(300, 5_000), self._load_and_push, send.epoch)
        else:
            self._hand_over(send, {})

    def _hand_over(self, send: Any, outcomes: dict[str, bytes]) -> None:
        session = self.sessions.get(send.epoch)
        if session is not None:
            self.witness.pushing(send)
            session.push(send, outcomes)

    def _load_and_push(self, epoch: int) -> None:
        queue = self._loading.pop(epoch)
        for send in queue:
            self._hand_over(send, self.store.tables.outcomes(_needs(send)))

    def _load_states(self, order: LoadOutcomes) -> None:
        tables, ids = self.store.tables, order.task_ids
        self.post(OutcomesLoaded.of(tables.task_states(ids), tables.task_namespaces(ids)))


def _nothing() -> None:
    """Nobody wants to know."""


def _needs(send: Any) -> tuple[str, ...]:
    if isinstance(send, PushAssign):
        return tuple(task_id for _, task_id in send.inputs)
    if isinstance(send, PushAnswer) and send.dependency_id:
        return (send.dependency_id,)
    return ()


def read_spec(row: InsertTask) -> Spec:
    """As the daemon reads it."""
    return stored_spec(row)
