"""The coordinator's composition root: what is wired to what, what starts first, and how it stops.

Start: store (locked, epoch raised) - memory rebuilt - engine - server - ready. Stop: health says no - submits are
refused - calls end - everything committed - store closed. A failed write ends the process at once with code 70.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import asyncio
import contextlib
import json
import logging
import secrets
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import uvloop
from grpc_health.v1 import health, health_pb2

from outrider import collector, discovery, errors
from outrider.endpoint import Endpoint
from outrider.sdnotify import notify, watchdog_interval_s
from outrider.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    agent_service_pb2,
    agent_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    join_service_pb2_grpc,
    limit_service_pb2,
    limit_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
    schedule_service_pb2,
    schedule_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
)
from outrider_coordinator.access.access import AUTHORITY, Access
from outrider_coordinator.access.authority import Authority
from outrider_coordinator.access.principals import Door
from outrider_coordinator.access.quotas import Quotas
from outrider_coordinator.clock import Clock, stepped_us, watch_wall
from outrider_coordinator.core.schedules.events import WallClockMoved
from outrider_coordinator.core.step import new_state
from outrider_coordinator.doors import Adder, Doors, sorted_doors
from outrider_coordinator.engine import Engine
from outrider_coordinator.quarantine import Quarantine
from outrider_coordinator.rpc.access_service import AccessService
from outrider_coordinator.rpc.agent_session import AgentService
from outrider_coordinator.rpc.calls import Service
from outrider_coordinator.rpc.convert import Converter
from outrider_coordinator.rpc.fleet_service import FleetService
from outrider_coordinator.rpc.ids import IdMaker
from outrider_coordinator.rpc.join_service import JoinService, join_throttle
from outrider_coordinator.rpc.limit_service import LimitService
from outrider_coordinator.rpc.run_service import RunService
from outrider_coordinator.rpc.schedule_service import ScheduleService
from outrider_coordinator.rpc.schedule_specs import ScheduleReader, stored_schedule
from outrider_coordinator.rpc.specs import SpecReader, stored_spec
from outrider_coordinator.rpc.task_service import TaskService
from outrider_coordinator.settings import CoordinatorSettings, core_settings, default_state_directory
from outrider_coordinator.store.errors import StoreFailed, StoreRefused
from outrider_coordinator.store.load import restore
from outrider_coordinator.store.sqlite import SqliteStore
from outrider_coordinator.telemetry import DispatchTracer, span_exporter
from outrider_coordinator.tls import ServerTls, source_of

logger = logging.getLogger("outrider.coordinator")

EXIT_OK, EXIT_REFUSED, EXIT_FATAL = 0, 1, 70
ADDRESSES_FILE, SUSPECTS_FILE = "addresses.json", "suspects.json"
#: How often the server's certificate is read again.
RELOAD_S = 10.0
MODULES = (
    task_service_pb2,
    run_service_pb2,
    fleet_service_pb2,
    limit_service_pb2,
    schedule_service_pb2,
    access_service_pb2,
    agent_service_pb2,
)
#: How long a stopping coordinator waits for the trace collector.
TRACES_DEADLINE_S = 2.0
#: A stopping coordinator has answered everything when for so long nothing arrived.
QUIET_S = 0.05


def run(settings: CoordinatorSettings) -> int:
    """Serve until told to stop; returns the exit code. One clear line on stderr when it cannot start."""
    folder = Path(settings.state_directory or default_state_directory())
    try:
        core_settings(settings)
        logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        authority = Authority(folder / AUTHORITY) if (folder / AUTHORITY).exists() else None
        source = source_of(settings, authority)
        tls = ServerTls(source) if source is not None else None
        listen_on = sorted_doors(settings, tls)
        store = SqliteStore(folder)
    except (errors.OutriderError, StoreRefused) as error:
        print(f"outrider-coordinator: {error}", file=sys.stderr)
        return EXIT_REFUSED
    try:
        return uvloop.run(_Daemon(settings, store, folder, authority, tls).serve(listen_on))
    except errors.InvalidRequest as error:
        print(f"outrider-coordinator: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except StoreFailed as error:
        print(f"outrider-coordinator: {error}", file=sys.stderr)
        return EXIT_FATAL
    finally:
        store.close()


def _options(settings: CoordinatorSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 3),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.max_concurrent_streams", 1000),
        # Who connects and says nothing costs memory: 20 KB before TLS, twice that after.
        ("grpc.max_allowed_incoming_connections", settings.connections_max),
        ("grpc.server_handshake_timeout_ms", 20_000),
        ("grpc.max_connection_idle_ms", 300_000),
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        ("grpc.max_send_message_length", settings.message_bytes_max),
    ]


class _Daemon:
    """One run of the daemon inside its event loop."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        store: SqliteStore,
        folder: Path,
        authority: Authority | None,
        tls: ServerTls | None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._folder = folder
        self._tls = tls
        self._fatal: BaseException | None = None
        self._announced: Path | None = None
        self._exporter = span_exporter(store.store_id)
        self._access = Access(
            folder,
            authority,
            timedelta(seconds=settings.agent_certificate_s),
            Quotas(settings.caller_rate, settings.caller_streams),
        )

    async def serve(self, listen_on: list[tuple[Door, Endpoint]]) -> int:
        """Start, wait for the order to stop, stop."""
        self._stop = asyncio.Event()
        self._watch_for_orders()
        engine = self._engine()
        doors, drain = await self._doors(engine)
        try:
            doors.open(listen_on)
        except errors.OutriderError as error:
            print(f"outrider-coordinator: {error}", file=sys.stderr)
            await engine.close()
            self._access.close()
            return EXIT_REFUSED
        await doors.start()
        collector.calm()
        self._announce(doors)
        beside = [
            asyncio.create_task(self._watchdog()),
            asyncio.create_task(watch_wall(engine.clock, lambda offset_us: engine.post(WallClockMoved(offset_us)))),
            asyncio.create_task(self._access.guard.keep_rechecking()),
            asyncio.create_task(self._keep_reloading()),
        ]
        await self._stop.wait()
        for task in beside:
            task.cancel()
        notify("STOPPING=1")
        logger.info("stopping: new submits are refused, calls in progress may end")
        # After a failed commit nothing can be answered any more.
        grace_s = 0.0 if self._fatal else self._settings.drain_timeout_s
        await drain(grace_s)
        await doors.stop(grace_s)
        await engine.close()
        self._access.close()
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.close, TRACES_DEADLINE_S)
        (self._folder / ADDRESSES_FILE).unlink(missing_ok=True)
        if self._announced is not None:
            self._announced.unlink(missing_ok=True)
        return EXIT_FATAL if self._fatal else EXIT_OK

    def _engine(self) -> Engine:
        clock = Clock(self._store.reader.last_event_us())
        settings = core_settings(self._settings)
        epoch, seed = self._store.coordinator_epoch, secrets.randbits(64)
        state = new_state(settings, coordinator_epoch=epoch, now_us=clock.now_us(), seed=seed)
        state.store_id = self._store.store_id
        state.schedules.wall_offset_us = stepped_us(clock)
        recovered = restore(state, self._store.reader, stored_spec, stored_schedule)
        if state.epoch == 1:
            state.requests.is_complete = True
        engine = Engine(state, self._store, clock, self._on_fatal, Quarantine(self._folder / SUSPECTS_FILE))
        engine.start(recovered)
        logger.info("epoch %d: %d open tasks, %d known agents", state.epoch, len(state.tasks), len(state.agents))
        return engine

    def _on_fatal(self, error: BaseException) -> None:
        logger.critical("stopping at once: %s", error)
        self._fatal = error
        self._stop.set()

    def _watch_for_orders(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        parent = os.environ.get("OUTRIDER_PARENT_FD", "")
        if parent.isdigit():
            loop.add_reader(int(parent), self._stop.set)

    async def _doors(self, engine: Engine) -> tuple[Doors, _Drain]:
        tracer = DispatchTracer(self._exporter, engine.clock.now_us) if self._exporter else None
        converter = Converter(IdMaker(), SpecReader(self._settings.payload_bytes_max))
        registrar = self._access.registrar
        tasks, runs = TaskService(engine, converter), RunService(engine, converter)
        fleet = FleetService(engine, registrar, lambda: self._reached_at(doors, Door.TOKEN))
        limits, schedules = LimitService(engine), ScheduleService(engine, ScheduleReader(converter))
        sessions = AgentService(engine, registrar.labels_of, tracer)
        access = AccessService(registrar, self._access.audit.path, lambda: self._reached_at(doors, Door.CERTIFICATE))
        joining = JoinService(registrar, join_throttle(), lambda: [self._reached_at(doors, Door.CERTIFICATE)])
        services: list[Adder] = [
            lambda server: task_service_pb2_grpc.add_TaskServiceServicer_to_server(tasks, server),
            lambda server: run_service_pb2_grpc.add_RunServiceServicer_to_server(runs, server),
            lambda server: fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(fleet, server),
            lambda server: limit_service_pb2_grpc.add_LimitServiceServicer_to_server(limits, server),
            lambda server: schedule_service_pb2_grpc.add_ScheduleServiceServicer_to_server(schedules, server),
            lambda server: access_service_pb2_grpc.add_AccessServiceServicer_to_server(access, server),
            lambda server: agent_service_pb2_grpc.add_AgentServiceServicer_to_server(sessions, server),
        ]
        checks = health.aio.HealthServicer()
        names = [service.full_name for module in MODULES for service in module.DESCRIPTOR.services_by_name.values()]
        for name in ("", *names):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        doors = Doors(
            self._access.guard,
            self._tls,
            _options(self._settings),
            services,
            lambda server: join_service_pb2_grpc.add_JoinServiceServicer_to_server(joining, server),
            names,
            checks,
        )
        registrar.on_authority_changed = lambda: self._authority_changed(sessions)
        return doors, _Drain(checks, (tasks, runs, fleet, limits, schedules, access, sessions, joining))

    def _authority_changed(self, sessions: AgentService) -> None:
        """Serve with the new certificate, and have the agents get theirs."""
        if self._tls is not None:
            self._tls.reload()
        sessions.order_renewal()

    def _reached_at(self, doors: Doors, door: Door) -> str:
        """How other machines reach the first door of a kind: by the host name that `coordinator init` wrote."""
        found = doors.addresses(door)
        if not found:
            return ""
        return Endpoint(self._settings.host or found[0].host, found[0].port).target

    def _announce(self, doors: Doors) -> None:
        """Write where it listens (a port of 0 is known only now), then say that it is ready."""
        bound = [(door.value, endpoint.target) for door, endpoint in doors.bound]
        join = [target for door, target in bound if door == Door.TOKEN.value]
        addresses = [target for door, target in bound if door != Door.TOKEN.value] or join
        path = self._folder / ADDRESSES_FILE
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps({"addresses": addresses, "join": join, "pid": os.getpid()}))
        partial.replace(path)
        logger.info("serving on %s", ", ".join(f"{target} ({door})" for door, target in bound))
        sockets = [target for door, target in bound if target.startswith("unix:")]
        if self._settings.announce and sockets and not discovery.find():
            self._announced = discovery.announce(sockets[0], os.getpid())
        notify("READY=1\nSTATUS=serving on " + ", ".join(addresses))

    async def _keep_reloading(self) -> None:
        """Look for new certificates of the server, for ever."""
        while self._tls is not None:
            await asyncio.sleep(RELOAD_S)
            await asyncio.to_thread(self._tls.reload)

    async def _watchdog(self) -> None:
        interval_s = watchdog_interval_s()
        with contextlib.suppress(asyncio.CancelledError):
            while interval_s:
                notify("WATCHDOG=1")
                await asyncio.sleep(interval_s)


class _Drain:
    """Say no to new work on every service, answer what has arrived, then end the streams."""

    def __init__(self, checks: health.aio.HealthServicer, services: Sequence[Service]) -> None:
        self._checks = checks
        self._services = services

    async def __call__(self, timeout_s: float) -> None:
        for service in self._services:
            service.is_draining = True
        await self._checks.enter_graceful_shutdown()
        await self._settle(timeout_s)
        for service in self._services:
            service.end_streams()

    async def _settle(self, timeout_s: float) -> None:
        """Wait for a moment in which nothing arrives: gRPC cancels what it has not handed out yet when it stops."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        seen = -1
        while loop.time() < deadline_s:
            begun = sum(service.begun for service in self._services)
            if begun == seen and not any(service.under_way for service in self._services):
                return
            seen = begun
            await asyncio.sleep(QUIET_S)
