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
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from outrider import collector, errors
from outrider.endpoint import Endpoint
from outrider.sdnotify import notify, watchdog_interval_s
from outrider.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    limit_service_pb2,
    limit_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
    schedule_service_pb2,
    schedule_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
)
from outrider_coordinator.clock import Clock, stepped_us, watch_wall
from outrider_coordinator.core.schedules.events import WallClockMoved
from outrider_coordinator.core.step import new_state
from outrider_coordinator.engine import Engine
from outrider_coordinator.quarantine import Quarantine
from outrider_coordinator.rpc.agent_session import AgentService
from outrider_coordinator.rpc.calls import Service, registry_of
from outrider_coordinator.rpc.convert import Converter
from outrider_coordinator.rpc.fleet_service import FleetService
from outrider_coordinator.rpc.ids import IdMaker
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

logger = logging.getLogger("outrider.coordinator")

EXIT_OK, EXIT_REFUSED, EXIT_FATAL = 0, 1, 70
ADDRESSES_FILE, SUSPECTS_FILE = "addresses.json", "suspects.json"
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
        listen_on = [_checked(Endpoint.parse(address), settings) for address in settings.listen]
        credentials = _credentials(settings)
        store = SqliteStore(folder)
    except (errors.OutriderError, StoreRefused) as error:
        print(f"outrider-coordinator: {error}", file=sys.stderr)
        return EXIT_REFUSED
    try:
        return uvloop.run(_Daemon(settings, store, folder).serve(listen_on, credentials))
    except StoreFailed as error:
        print(f"outrider-coordinator: {error}", file=sys.stderr)
        return EXIT_FATAL
    finally:
        store.close()


def _checked(endpoint: Endpoint, settings: CoordinatorSettings) -> Endpoint:
    if not endpoint.is_local and not settings.tls_certificate:
        raise errors.InvalidRequest(
            f"{endpoint} can be reached from other machines, and without TLS anybody there could run commands here; "
            "set tls_certificate and tls_key (and tls_client_ca), or listen on 127.0.0.1 or a Unix socket"
        )
    return endpoint


def _credentials(settings: CoordinatorSettings) -> grpc.ServerCredentials | None:
    if bool(settings.tls_certificate) != bool(settings.tls_key) or (settings.tls_client_ca and not settings.tls_key):
        raise errors.InvalidRequest("TLS needs tls_certificate and tls_key together; tls_client_ca comes with them")
    if not settings.tls_certificate:
        return None
    certificate, key = _read(settings.tls_certificate), _read(settings.tls_key)
    client_ca = _read(settings.tls_client_ca) if settings.tls_client_ca else None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except ssl.SSLError as error:
        files = f"{settings.tls_certificate} and {settings.tls_key}"
        raise errors.InvalidRequest(f"{files} are no certificate and its key, both PEM: {error}") from None
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=client_ca, require_client_auth=client_ca is not None
    )


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise errors.InvalidRequest(f"cannot read the TLS file {error.filename}: {error.strerror}") from None


def _options(settings: CoordinatorSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 3),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.max_concurrent_streams", 1000),
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        ("grpc.max_send_message_length", settings.message_bytes_max),
    ]


class _Daemon:
    """One run of the daemon inside its event loop."""

    def __init__(self, settings: CoordinatorSettings, store: SqliteStore, folder: Path) -> None:
        self._settings = settings
        self._store = store
        self._folder = folder
        self._fatal: BaseException | None = None
        self._exporter = span_exporter(store.store_id)

    async def serve(self, listen_on: list[Endpoint], credentials: grpc.ServerCredentials | None) -> int:
        """Start, wait for the order to stop, stop."""
        self._stop = asyncio.Event()
        self._watch_for_orders()
        engine = self._engine()
        server, drain = await self._server(engine)
        try:
            addresses = self._bind(server, listen_on, credentials)
        except errors.OutriderError as error:
            print(f"outrider-coordinator: {error}", file=sys.stderr)
            await engine.close()
            return EXIT_REFUSED
        await server.start()
        collector.calm()
        self._announce(addresses)
        beside = [
            asyncio.create_task(self._watchdog()),
            asyncio.create_task(watch_wall(engine.clock, lambda offset_us: engine.post(WallClockMoved(offset_us)))),
        ]
        await self._stop.wait()
        for task in beside:
            task.cancel()
        notify("STOPPING=1")
        logger.info("stopping: new submits are refused, calls in progress may end")
        # After a failed commit nothing can be answered any more.
        grace_s = 0.0 if self._fatal else self._settings.drain_timeout_s
        await drain(grace_s)
        await server.stop(grace_s)
        await engine.close()
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.close, TRACES_DEADLINE_S)
        (self._folder / ADDRESSES_FILE).unlink(missing_ok=True)
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

    async def _server(self, engine: Engine) -> tuple[grpc.aio.Server, _Drain]:
        tracer = DispatchTracer(self._exporter, engine.clock.now_us) if self._exporter else None
        converter = Converter(IdMaker(), SpecReader(self._settings.payload_bytes_max))
        tasks, runs, fleet = TaskService(engine, converter), RunService(engine, converter), FleetService(engine)
        server = grpc.aio.server(options=_options(self._settings))
        registry = registry_of(server)
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(tasks, registry)
        run_service_pb2_grpc.add_RunServiceServicer_to_server(runs, registry)
        fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(fleet, registry)
        limits = LimitService(engine)
        limit_service_pb2_grpc.add_LimitServiceServicer_to_server(limits, registry)
        schedules = ScheduleService(engine, ScheduleReader(converter))
        schedule_service_pb2_grpc.add_ScheduleServiceServicer_to_server(schedules, registry)
        sessions = AgentService(engine, tracer)
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(sessions, registry)
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        modules = (
            task_service_pb2,
            run_service_pb2,
            fleet_service_pb2,
            limit_service_pb2,
            schedule_service_pb2,
            agent_service_pb2,
        )
        names = [service.full_name for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
        for name in ("", *names):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server, _Drain(checks, (tasks, runs, fleet, limits, schedules, sessions))

    def _bind(
        self, server: grpc.aio.Server, listen_on: list[Endpoint], credentials: grpc.ServerCredentials | None
    ) -> list[str]:
        addresses = []
        for endpoint in listen_on:
            try:
                if credentials is None or endpoint.path:
                    port = server.add_insecure_port(endpoint.target)
                else:
                    port = server.add_secure_port(endpoint.target, credentials)
            except RuntimeError:
                raise errors.InvalidRequest(
                    f"cannot listen on {endpoint}: it is in use or not an address of this machine; "
                    "stop the other program or choose another --listen"
                ) from None
            bound = Endpoint(endpoint.host, port) if not endpoint.path else endpoint
            addresses.append(bound.target)
        return addresses

    def _announce(self, addresses: list[str]) -> None:
        """Write where it listens (a port of 0 is known only now), then say that it is ready."""
        path = self._folder / ADDRESSES_FILE
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps({"addresses": addresses, "pid": os.getpid()}))
        partial.replace(path)
        logger.info("serving on %s", ", ".join(addresses))
        notify("READY=1\nSTATUS=serving on " + ", ".join(addresses))

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
