"""The keeper: puts session, outbox, pool and link together, keeps the clock going, and leaves in good order.

The composition root of the agent; the rules are elsewhere. It must not import gRPC (what spawns must not have it) nor
run user code. Everything happens in one loop: facts change state at once and call `wake`, and one `_settle` per turn of
the loop carries out what follows from all of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable

import outrider
from outrider import collector, sdnotify, sweep, telemetry
from outrider.v1 import agent_service_pb2
from outrider_agent import clock, host, trees
from outrider_agent.assignment import Origin
from outrider_agent.conversation import Conversation
from outrider_agent.core.board import Limits, State
from outrider_agent.core.session import Session
from outrider_agent.frames import Identity
from outrider_agent.link_frames import Target
from outrider_agent.link_process import LinkProcess
from outrider_agent.outboxes import open_outboxes
from outrider_agent.policy.policy import Policy
from outrider_agent.pool import Pool, WorkerProcess
from outrider_agent.renewal import Renewal
from outrider_agent.reporter import Reporter
from outrider_agent.runner import Runner
from outrider_agent.secret_sources import Sources
from outrider_agent.settings import AgentSettings
from outrider_agent.state_directory import StateDirectory
from outrider_agent.vault import Vault

BUSY_TICK_S, IDLE_TICK_S = 0.05, 0.5
RETIRE_INTERVAL_US = 1_000_000
#: How long being ready waits for the first session.
FIRST_SESSION_US = 2_000_000
#: Reports that the disk has not taken yet: above, workers are not read any more; below half of it they are again.
UNSYNCED_BYTES_MAX = 8 << 20
#: How long the end of the stream, of the link and of the workers is waited for when leaving.
HANG_UP_S, LAST_SYNC_S = 2.0, 5.0
#: The grace of attempts that are stopped because somebody is in a hurry.
HURRY_GRACE_S = 1.0

_logger = logging.getLogger(__name__)


class Keeper:
    """One agent process. `run` returns the exit code."""

    def __init__(
        self,
        settings: AgentSettings,
        state: StateDirectory,
        identity: Identity,
        targets: list[Target],
        policy: Policy,
        vault: Vault,
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._vault = vault
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._exit: asyncio.Future[int] = self._loop.create_future()
        self._leaving: asyncio.Task[None] | None = None
        self._is_hurried = False
        self._is_settling = False
        self._is_hushed = False
        self._is_ready = False
        self._began_us = clock.boot_us()
        self._status = ""
        self._retired_us = 0
        self._beaten_epoch = 0
        self._tick_handle: asyncio.TimerHandle | None = None
        self._heartbeat_handle: asyncio.TimerHandle | None = None
        self._compose(identity, targets)

    def _compose(self, identity: Identity, targets: list[Target]) -> None:
        settings, state = self._settings, self._state
        exports_spans = telemetry.is_configured()
        self._session = Session(tuple(target.address for target in targets), clock.boot_us())
        self._renewal = Renewal(state.path, lambda: self._conversation.move())
        self._conversation = Conversation(
            identity,
            self._session,
            state,
            {target.address: target for target in targets},
            wake=self._wake,
            give_up=self._give_up,
            drain=lambda timeout_s: self._begin_leaving("drained", timeout_s, 0),
            renew=self._renewal.now,
            exports_spans=exports_spans,
        )
        limits = Limits(
            slots=settings.slots,
            prefetch_credit=settings.prefetch_credit,
            parked_max=settings.parked_max,
            worker_queue_max=settings.worker_queue_max,
            workers_min=settings.slots,
        )
        origin = Origin(settings.name, identity.instance_id, str(state.scratch))
        self._outboxes = open_outboxes(
            state.outbox,
            identity.instance_id,
            self._loop,
            self._synced,
            bytes_max=settings.outbox_bytes_max,
            memory_bytes_max=settings.outbox_memory_bytes,
        )
        reporter = Reporter(self._outboxes, self._loop.call_later, self._wake)
        self._runner = Runner(
            limits,
            origin,
            self._conversation,
            reporter,
            self._wake,
            settings.kill_grace_s,
            self._policy.gate,
            self._vault,
        )
        self._runner.tasks_max = settings.worker_tasks_max
        environment = {**os.environ, sweep.KEEPER_VARIABLE: identity.instance_id}
        if exports_spans:
            environment["OUTRIDER_TRACE_USER"] = "1"
        self._pool = Pool(
            self._loop,
            self._runner,
            working_directory=settings.working_directory,
            environment=environment | self._policy.confinement.environment,
            module=self._policy.confinement.module,
        )
        self._link = LinkProcess(self._loop, self._conversation, identity.instance_id, os.environ)
        self._runner.attach(self._pool, self._own_pids)
        self._conversation.attach(self._link, self._outboxes, self._runner)
        self._markers = sweep.keeper_markers(identity.instance_id)

    async def run(self) -> int:
        """Serve until told to stop; returns the process's exit code."""
        if not trees.become_subreaper():
            _logger.warning("cannot become a subreaper: what attempts leave behind may be found late")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._signalled, number)
        self._watch_parent()
        self._link.start()
        self._renewal.start()
        self._tick()
        self._beat()
        self._feed_watchdog()
        try:
            return await self._exit
        finally:
            await self._close()

    def _own_pids(self) -> set[int]:
        """Children that no attempt has left behind: nobody but their owners reaps them."""
        return self._pool.pids | {self._link.pid} | self._vault.pids | self._renewal.pids

    # --- the turn of the loop ----------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Settle once, after everything that has arrived in this turn of the loop."""
        if not self._is_settling:
            self._is_settling = True
            self._loop.call_soon(self._settle)

    def _synced(self) -> None:
        """Reports are durable: they leave at once, for somebody waits for them; what else follows can wait its turn."""
        self._conversation.pump()
        self._wake()

    def _settle(self) -> None:
        self._is_settling = False
        self._runner.settle()
        self._conversation.settle()
        self._conversation.tick(clock.boot_us())
        self._balance()
        if self._session.is_live and self._session.epoch != self._beaten_epoch:
            self._beat()
        self._changed.set()
        if not self._is_ready:
            self._become_ready()

    def _tick(self) -> None:
        """What happens because time passes."""
        now_us = clock.boot_us()
        if now_us - self._retired_us > RETIRE_INTERVAL_US:
            self._retired_us = now_us
            self._runner.retire_workers(now_us, int(self._settings.worker_idle_s * 1e6))
            self._show_status()
        self._settle()
        is_busy = self._runner.board.unfinished > 0 or not self._session.is_live
        self._tick_handle = self._loop.call_later(BUSY_TICK_S if is_busy else IDLE_TICK_S, self._tick)

    def _balance(self) -> None:
        """Do not read from workers what the disk does not take; tick often once there is work."""
        unsynced = self._outboxes.current.unsynced_bytes
        if unsynced > UNSYNCED_BYTES_MAX or (self._is_hushed and unsynced > UNSYNCED_BYTES_MAX // 2):
            self._pool.hush(is_quiet=True)
            self._is_hushed = True
        elif self._is_hushed:
            self._pool.hush(is_quiet=False)
            self._is_hushed = False
        handle = self._tick_handle
        if handle is not None and self._runner.board.unfinished and handle.when() - self._loop.time() > BUSY_TICK_S:
            handle.cancel()
            self._tick_handle = self._loop.call_later(BUSY_TICK_S, self._tick)

    def _beat(self) -> None:
        """A heartbeat now, and again after the interval that the coordinator asked for."""
        if self._heartbeat_handle is not None:
            self._heartbeat_handle.cancel()
        self._beaten_epoch = self._session.epoch
        workers = [self._worker_info(worker) for worker in self._pool.workers.values()] if self._session.is_live else []
        self._conversation.heartbeat(host.load(), workers)
        self._heartbeat_handle = self._loop.call_later(self._session.heartbeat_us / 1e6, self._beat)

    def _worker_info(self, worker: WorkerProcess) -> agent_service_pb2.WorkerInfo:
        place = self._runner.board.workers.get(worker.worker_id)
        attempt = self._runner.board.attempts[place.queue[0]] if place is not None and place.queue else None
        if worker.is_leaving:
            state = "stopping"
        elif place is None:
            state = "starting"
        elif attempt is None:
            state = "idle"
        else:
            state = "blocked" if attempt.state is State.BLOCKED else "busy"
        return agent_service_pb2.WorkerInfo(
            pid=worker.pid,
            state=state,
            task_id=attempt.task_id if attempt is not None else "",
            tasks_done=worker.tasks_done,
            last_error=worker.last_error,
            rss_bytes=host.rss_bytes(worker.pid),
        )

    # --- the service manager and the parent --------------------------------------------------------------------

    def _become_ready(self) -> None:
        """Once the workers are up and the coordinator knows us, or does not answer: it will find us ready."""
        is_settled = self._session.is_live or clock.boot_us() - self._began_us > FIRST_SESSION_US
        if is_settled and len(self._runner.board.workers) >= self._settings.slots:
            self._is_ready = True
            collector.calm()
            sdnotify.notify("READY=1")
            _logger.info("agent %s is up: %d slots, pid %d", self._settings.name, self._settings.slots, os.getpid())

    def _show_status(self) -> None:
        board = self._runner.board
        link = f"connected to {self._session.address}" if self._session.is_live else "not connected"
        status = f"STATUS={link}; {board.slots_used} of {board.limits.slots} slots in use, {board.parked} parked"
        if status != self._status:
            self._status = status
            sdnotify.notify(status)

    def _feed_watchdog(self) -> None:
        interval_s = sdnotify.watchdog_interval_s()
        if interval_s is not None:
            sdnotify.notify("WATCHDOG=1")
            self._loop.call_later(interval_s, self._feed_watchdog)

    def _watch_parent(self) -> None:
        """Stop when whoever started this process is gone: the other end of this descriptor is closed then."""
        text = os.environ.get("OUTRIDER_PARENT_FD", "")
        if not text.isdigit():
            return
        descriptor = int(text)
        os.set_inheritable(descriptor, False)

        def readable() -> None:
            if not os.read(descriptor, 4096):
                self._loop.remove_reader(descriptor)
                _logger.warning("whoever started this agent is gone: stopping at once")
                self._is_hurried = True
                self._changed.set()
                self._begin_leaving("orphaned", 0.0, 0)

        self._loop.add_reader(descriptor, readable)

    # --- leaving -----------------------------------------------------------------------------------------------

    def _signalled(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._leaving is None:
            _logger.info("%s: finishing what runs for up to %g s", name, self._settings.drain_timeout_s)
            self._begin_leaving("stopped", self._settings.drain_timeout_s, 0)
        else:
            _logger.info("%s again: stopping now", name)
            self._is_hurried = True
            self._changed.set()

    def _give_up(self, message: str) -> None:
        """The coordinator will never take this agent."""
        _logger.error("%s", message)
        self._is_hurried = True
        self._changed.set()
        self._begin_leaving("refused", 0.0, 1)

    def _begin_leaving(self, message: str, timeout_s: float | None, exit_code: int) -> None:
        if self._leaving is None:
            sdnotify.notify("STOPPING=1")
            self._leaving = self._loop.create_task(self._leave(message, timeout_s, exit_code))

    async def _leave(self, message: str, timeout_s: float | None, exit_code: int) -> None:
        """Finish or stop what runs, hand back the rest, deliver the reports, say goodbye."""
        self._runner.drain()
        self._beat()  # says that it takes nothing new
        runner, outboxes, session = self._runner, self._outboxes, self._session
        await self._until(lambda: runner.is_idle or self._is_hurried, timeout_s)
        if not runner.is_idle:
            grace_s = HURRY_GRACE_S if self._is_hurried else self._settings.kill_grace_s
            runner.stop(f"agent {self._settings.name} {message} while the attempt ran", grace_s)
            await self._until(lambda: runner.is_idle, grace_s + trees.GONE_TIMEOUT_S + 1)
        await self._until(lambda: outboxes.current.is_idle, LAST_SYNC_S)
        await self._until(lambda: outboxes.pending == 0 or not session.is_live, self._settings.ack_timeout_s)
        if session.is_live:
            self._conversation.goodbye(message)
            await self._until(lambda: self._conversation.is_hung_up, HANG_UP_S)
        session.leave()
        self._exit.set_result(exit_code)

    async def _until(self, is_so: Callable[[], bool], timeout_s: float | None) -> None:
        """Wait for something that a turn of the loop brings about, at most ``timeout_s`` (None: for ever)."""
        deadline_s = None if timeout_s is None else self._loop.time() + timeout_s
        while not is_so():
            self._changed.clear()
            left_s = None if deadline_s is None else deadline_s - self._loop.time()
            if left_s is not None and left_s <= 0:
                return
            try:
                await asyncio.wait_for(self._changed.wait(), left_s)
            except TimeoutError:
                return

    async def _close(self) -> None:
        """End every process of this agent, and the outbox in order."""
        for handle in (self._tick_handle, self._heartbeat_handle):
            if handle is not None:
                handle.cancel()
        await self._renewal.close()
        await self._vault.close()
        self._link.close()
        self._pool.close()
        await asyncio.to_thread(sweep.kill_all, self._markers, HANG_UP_S)
        await asyncio.to_thread(self._link.wait, HANG_UP_S)
        self._outboxes.close()
        self._policy.gate.close()
        self._state.close()


async def serve(
    settings: AgentSettings, state: StateDirectory, instance_id: str, targets: list[Target], policy: Policy
) -> int:
    """Run one keeper on an open state directory; returns the exit code."""
    marks = {sweep.KEEPER_VARIABLE: instance_id}
    vault = Vault(settings.secrets, Sources(settings.secrets, os.environ, marks))
    identity = Identity(
        name=settings.name,
        machine_id=host.machine_id(settings.machine_id, state.path / "machine-id"),
        boot_id=host.boot_id(),
        instance_id=instance_id,
        previous_instance_id="" if state.left_behind else state.known().instance_id,
        instance_start_ms=clock.wall_ns() // 1_000_000,
        version=outrider.__version__,
        host=host.host_name(),
        slots=settings.slots,
        prefetch_credit=settings.prefetch_credit,
        parked_max=settings.parked_max,
        labels=settings.labels | policy.gate.labels,
        resources=host.resources() | settings.resources,
        task_types=tuple(sorted(settings.task_types)),
        runners=tuple(sorted(settings.runners)),
        secrets=vault.offers,
    )
    return await Keeper(settings, state, identity, targets, policy, vault).run()
