"""An agent's machine: one keeper at a time, with everything of it that decides, on a model disk behind a model network.

Real: `Conversation`, `Runner`, `Reporter`, `Outboxes`, `Board`, `Session`, `Ledger`, `Deadlines`, the narrators and all
frames. Modelled: the keeper's loop (turns, ticks, heartbeats, leaving), the link process, workers, the kill ladder, the
outbox's files. The keeper's clock is the machine's: it drifts, and its wall clock steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from outrider_agent import clock
from outrider_agent.assignment import Origin
from outrider_agent.conversation import Conversation
from outrider_agent.core.board import Limits
from outrider_agent.core.session import Phase, Session
from outrider_agent.frames import Identity
from outrider_agent.host import Load
from outrider_agent.link_frames import Closed, Kind, Target
from outrider_agent.outboxes import Outboxes
from outrider_agent.policy.gate import open_gate
from outrider_agent.reporter import Reporter
from outrider_agent.runner import Runner
from sim.kernel import Pausable
from sim.model_disk import ModelOutbox, left_behind
from sim.network import Connection
from sim.workers import ModelExecutioner, ModelPool

if TYPE_CHECKING:
    from sim.machine import Machine

KILL_GRACE_S = 2.0
CHECK_EVERY = 8
BUSY_TICK_US, IDLE_TICK_US = 400_000, 2_000_000
ACK_TIMEOUT_US, STOP_TIMEOUT_US, HANG_UP_US = 10_000_000, 8_000_000, 2_000_000
_LOAD = Load(0.5, 0.1, 0.2)
_NO_WORKERS: list[Any] = []


class ModelLink:
    """The link process: a byte pump over one connection at a time."""

    pid = 0
    pending_bytes = 0

    def __init__(self, keeper: Keeper) -> None:
        self.connection: Connection | None = None
        self._keeper = keeper
        self._machine = keeper.machine
        self._process = 0

    def send(self, kind: Kind, body: bytes = b"") -> None:
        """One frame of the keeper."""
        if kind is Kind.CLOSE:
            self._hang_up()
        elif self.connection is not None:
            self.connection.up(body)

    def send_encoded(self, frame: bytes) -> None:
        """OPEN is the only one that comes this way here."""
        wire = self._machine.wire
        wire.kernel.after(wire.delay_us(), self._open, self._process)

    def die(self) -> None:
        """The link process is killed: the stream is reset, the keeper has a new link in milliseconds."""
        self._process += 1
        if self.connection is not None:
            self.connection.link_gone()
            self.connection.end_up("CANCELLED")
            self.connection = None
        self._machine.kernel.after(20_000, self._restarted, self._process)

    def vanish(self) -> None:
        """Power is lost: the other end hears nothing."""
        if self.connection is not None:
            self.connection.link_gone()
            self.connection.lanes["up"].is_open = False
            self.connection = None

    def received(self, frame: bytes) -> None:
        """One frame of the coordinator."""
        self._keeper.act(self._keeper.conversation.link_said, Kind.DATA, frame)

    def ended(self, code: str, reason: str, message: str) -> None:
        """The stream is over."""
        self.connection = None
        body = _closed(code, reason, message)
        self._keeper.act(self._keeper.conversation.link_said, Kind.CLOSED, body)

    def _open(self, process: int) -> None:
        if process != self._process or self._keeper.is_dead:
            return
        self.connection = self._machine.dial(self._machine, self)
        if self.connection is None:
            self._keeper.act(self._keeper.conversation.link_said, Kind.CLOSED, _closed("UNAVAILABLE", "", "refused"))
        else:
            self._keeper.act(self._keeper.conversation.link_said, Kind.OPENED, b"")

    def _hang_up(self) -> None:
        connection = self.connection
        if connection is None:
            self._machine.kernel.after(1_000, self._keeper.act, self._say_cancelled, self._process)
            return
        connection.end_up()
        self._machine.kernel.after(1_000_000, self._cancel, connection)

    def _cancel(self, connection: Connection) -> None:
        """The coordinator did not end the stream soon."""
        if self.connection is connection and not self._keeper.is_dead:
            self.connection = None
            connection.link_gone()
            self._keeper.act(self._keeper.conversation.link_said, Kind.CLOSED, _closed("CANCELLED", "", "closed"))

    def _say_cancelled(self, process: int) -> None:
        if process == self._process and self.connection is None:
            self._keeper.conversation.link_said(Kind.CLOSED, _closed("CANCELLED", "", "closed"))

    def _restarted(self, process: int) -> None:
        if process == self._process:
            self._keeper.act(self._keeper.conversation.link_lost)


class Keeper:
    """One keeper process: real parts, and the turns of its loop."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._kernel = machine.kernel
        self._witness = machine.witness
        self._pausable = Pausable(machine.kernel)
        self._is_settling = False
        self._turns = 0
        self._beaten_epoch = 0
        self._tick_us = 0
        self._beat_number = 0
        self._leaving: list[tuple[Callable[[], bool], int | None, Callable[[], None]]] = []
        self._is_leaving = self._is_hurried = False
        self._phase_us = 0
        self._compose()
        self._act(self._begin)

    def _compose(self) -> None:
        machine, plan = self.machine, self.machine.plan
        instance_id = f"{machine.label}-{machine.incarnations}"
        self._enter()
        self.session = Session(("coordinator",), machine.boot_us())
        identity = Identity(
            name=plan.name,
            machine_id=machine.machine_id,
            boot_id=f"{machine.label}-boot-{machine.boots}",
            instance_id=instance_id,
            previous_instance_id=machine.disk.known().instance_id,
            instance_start_ms=machine.kernel.now_us // 1000,
            version="sim",
            host=plan.name,
            slots=plan.slots,
            prefetch_credit=plan.prefetch_credit,
            parked_max=plan.parked_max,
            labels=dict(plan.labels),
            **plan.hello,
        )
        self.conversation = Conversation(
            identity,
            self.session,
            machine.disk,  # type: ignore[arg-type]  # known and remember are all it asks of a StateDirectory
            {"coordinator": Target("coordinator")},
            wake=self._wake,
            give_up=self._give_up,
            drain=self._drain,
            renew=lambda: None,
            exports_spans=False,
            jitter=machine.random.random,
        )
        limits = Limits(plan.slots, plan.prefetch_credit, plan.parked_max, 32, plan.slots)
        old = left_behind(machine.disk, machine.witness)
        current = ModelOutbox(machine.disk, f"{instance_id}-box", self._synced, machine.witness)
        self.outboxes = Outboxes(old, current)
        self.outbox = current
        reporter = Reporter(self.outboxes, self._later, self._wake)
        origin = Origin(plan.name, instance_id, "scratch")
        self.runner = Runner(limits, origin, self.conversation, reporter, self._wake, KILL_GRACE_S, open_gate())
        self.pool = ModelPool(
            machine.kernel,
            machine.witness,
            machine.label,
            machine.incarnations,
            machine.wall_ns,
            machine.boot_us,
            self.act,
        )
        self.pool.unborn_chance = machine.unborn_chance
        self.pool.listener = self.runner
        # The one part of the runner that is not injected: the ladder works on processes.
        self.runner._executioner = ModelExecutioner(  # type: ignore[assignment]  # same methods
            machine.kernel, self.pool, self.runner, KILL_GRACE_S, self.act
        )
        self.runner.attach(self.pool, lambda: set())  # type: ignore[arg-type]  # same methods
        self.link = ModelLink(self)
        self.conversation.attach(self.link, self.outboxes, self.runner)  # type: ignore[arg-type]  # same methods

    # --- being a process -------------------------------------------------------------------------------------------

    @property
    def is_dead(self) -> bool:
        """Whether the process is over."""
        return self._pausable.is_dead

    def _enter(self) -> None:
        """The keeper's modules read this machine's clocks from now on."""
        clock.boot_us, clock.wall_ns = self.machine.boot_us, self.machine.wall_ns

    def _act(self, action: Callable[..., Any], *arguments: Any) -> None:
        self._enter()
        action(*arguments)

    def act(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Something happens in this process now, or when it is let go on."""
        self._pausable.do(self._live, action, *arguments)

    def _live(self, action: Callable[..., Any], *arguments: Any) -> None:
        machine = self.machine
        clock.boot_us, clock.wall_ns = machine.boot_us, machine.wall_ns
        self._witness.agent_events += 1
        action(*arguments)

    def pause(self, until_us: int) -> None:
        """SIGSTOP, and SIGCONT then."""
        self._pausable.pause(until_us)

    def resume(self) -> None:
        """SIGCONT, at once."""
        self._pausable.resume()

    def die(self) -> None:
        """SIGKILL: the disk keeps what it has, the link goes too, workers within 2 s."""
        if self.is_dead:
            return
        self._pausable.is_dead = True
        self._kernel.tell(self.machine.label, "keeper is killed")
        self.outbox.crash()
        if self.link.connection is not None:
            self.link.connection.link_gone()
            self.link.connection.end_up("CANCELLED")
        self._bury_workers()

    def _bury_workers(self) -> None:
        self.pool.is_closed = True
        for worker in list(self.pool.workers.values()):
            self._kernel.after(self.machine.random.randrange(1_000, 2_000_000), worker.kill)
        self.machine.doomed += self.pool.workers.values()
        for run in self.machine.witness.active_runs():
            run.is_apart |= run.agent == self.machine.label

    # --- the turn of the loop --------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._tick(0)
        self._beat(0)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._kernel.after(int(delay_s * 1e6), self.act, action)

    def _wake(self) -> None:
        if not self._is_settling:
            self._is_settling = True
            self._kernel.after(10, self.act, self._settle)

    def _synced(self) -> None:
        self.act(self._pump)

    def _pump(self) -> None:
        self.conversation.pump()
        self._wake()

    def _settle(self) -> None:
        self._is_settling = False
        self.runner.settle()
        self._turns += 1
        if self._turns % CHECK_EVERY == 0:
            self.runner.board.check()
        self.conversation.settle()
        self.conversation.tick(self.machine.boot_us())
        session = self.session
        if session.is_live and session.epoch != self._beaten_epoch:
            self._beat(self._beat_number)
        if self.runner.board.unfinished and self._tick_us - self._kernel.now_us > BUSY_TICK_US:
            self._plan_tick()
        if self._leaving:
            self._go_on_leaving()

    def _tick(self, tick_us: int) -> None:
        if tick_us == self._tick_us:
            self._settle()
            self._plan_tick()

    def _plan_tick(self) -> None:
        is_busy = self.runner.board.unfinished > 0 or not self.session.is_live or self._is_leaving
        self._tick_us = self._kernel.now_us + (BUSY_TICK_US if is_busy else IDLE_TICK_US)
        self._kernel.at(self._tick_us, self.act, self._tick, self._tick_us)

    def _beat(self, number: int) -> None:
        if number != self._beat_number:
            return
        self._beat_number += 1
        self._beaten_epoch = self.session.epoch
        self.conversation.heartbeat(_LOAD, _NO_WORKERS)
        self._kernel.after(self.session.heartbeat_us, self.act, self._beat, self._beat_number)

    # --- leaving ---------------------------------------------------------------------------------------------------

    def _give_up(self, message: str) -> None:
        self._kernel.tell(self.machine.label, "gives up", message)
        self._is_hurried = True
        self.leave("refused", 0, 2_000_000)

    def _drain(self, timeout_s: float | None) -> None:
        self.leave("drained", None if timeout_s is None else int(timeout_s * 1e6), 3_000_000)

    def leave(self, message: str, timeout_us: int | None, restart_us: int) -> None:
        """Finish or stop what runs, deliver the reports, say goodbye; the machine starts the agent again."""
        if self._is_leaving:
            return
        self._is_leaving = True
        runner, session, outboxes = self.runner, self.session, self.outboxes

        def stop() -> None:
            if not runner.is_idle:
                runner.stop(f"agent {message}", KILL_GRACE_S)

        def goodbye() -> None:
            if session.is_live:
                self.conversation.goodbye(message)

        def exit_process() -> None:
            session.leave()
            self._exit(restart_us)

        runner.drain()
        self._beat(self._beat_number)
        self._leaving = [
            (lambda: runner.is_idle or self._is_hurried, timeout_us, stop),
            (lambda: runner.is_idle, STOP_TIMEOUT_US, _nothing),
            (lambda: outboxes.current.is_idle, STOP_TIMEOUT_US, _nothing),
            (lambda: outboxes.pending == 0 or not session.is_live, ACK_TIMEOUT_US, goodbye),
            (lambda: self.conversation.is_hung_up or session.phase is not Phase.LIVE, HANG_UP_US, exit_process),
        ]
        self._phase_us = self._kernel.now_us
        self._wake()

    def _go_on_leaving(self) -> None:
        """Enter the next phases whose condition holds or whose time is over."""
        while self._leaving:
            is_over, timeout_us, then = self._leaving[0]
            late = timeout_us is not None and self._kernel.now_us >= self._phase_us + timeout_us
            if not (late or is_over()):
                return
            self._leaving.pop(0)
            self._phase_us = self._kernel.now_us
            then()

    def _exit(self, restart_us: int) -> None:
        self._pausable.is_dead = True
        self._kernel.tell(self.machine.label, "keeper exits")
        self.pool.kill_all()
        self.outbox.close()
        if self.link.connection is not None:
            self.link.connection.link_gone()
            self.link.connection.end_up("CANCELLED")
        self.machine.keeper = None
        self._kernel.after(restart_us, self.machine.start)


def _closed(code: str, reason: str, message: str) -> bytes:
    return msgspec.json.encode(Closed(code, reason, message))


def _nothing() -> None:
    """Only the waiting counts."""
