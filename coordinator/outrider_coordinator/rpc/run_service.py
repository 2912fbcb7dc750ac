"""RunService: graphs accepted whole, read, watched, cancelled."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from outrider import errors
from outrider.v1 import run_service_pb2, run_service_pb2_grpc
from outrider_coordinator.core import graph
from outrider_coordinator.core.events import CancelRequested, RunSubmitted
from outrider_coordinator.core.model import Trace
from outrider_coordinator.core.schedule_book import REQUEST_ID_MARK
from outrider_coordinator.core.states import EventType
from outrider_coordinator.engine import Engine
from outrider_coordinator.rpc import client_frames, render
from outrider_coordinator.rpc.calls import Context, Service, asked, encoded, raised, run_id_of, streaming, unary
from outrider_coordinator.rpc.convert import Converter, submitter
from outrider_coordinator.rpc.fields import invalid
from outrider_coordinator.rpc.task_service import PAGE_DEFAULT, PAGE_MAX, watched
from outrider_coordinator.store.filters import EventFilter
from outrider_coordinator.store.reader import RunRecord


class RunService(Service, run_service_pb2_grpc.RunServiceServicer):
    """Handlers of RunService over one engine."""

    def __init__(self, engine: Engine, converter: Converter) -> None:
        super().__init__()
        self._engine = engine
        self._converter = converter

    @unary
    async def RetryRun(
        self, request: run_service_pb2.RetryRunRequest, context: Context
    ) -> run_service_pb2.RetryRunResponse:
        """Not there yet."""
        raise NotImplementedError

    @unary
    async def AddTasks(
        self, request: run_service_pb2.AddTasksRequest, context: Context
    ) -> run_service_pb2.AddTasksResponse:
        """Not there yet."""
        raise NotImplementedError

    @unary
    async def SubmitRun(
        self, request: run_service_pb2.SubmitRunRequest, context: Context
    ) -> run_service_pb2.SubmitRunResponse:
        """Accept a graph in one transaction."""
        self.check_open()
        namespace = request.namespace or "default"
        if request.request_id.startswith(REQUEST_ID_MARK):
            raise invalid("request_id", f"must not begin with {REQUEST_ID_MARK!r}: schedules do")
        members = self._converter.members(request.run)
        refused = graph.check(members)
        if refused is not None:
            raise raised(refused)
        digest = hashlib.blake2b(request.run.SerializeToString(deterministic=True), digest_size=16).digest()
        run_id = self._converter.ids.next()
        await self._engine.admit()
        known = await self._known(namespace, request.request_id)
        accepted = await asked(
            self._engine,
            lambda reply: RunSubmitted(
                run_id,
                namespace,
                request.run.title,
                request.run.description,
                members,
                reply,
                request.request_id,
                digest,
                request.client_id,
                Trace(request.trace.traceparent, request.trace.tracestate),
                known,
                submitter(request.submitter),
            ),
        )
        record = await self._record(namespace, accepted.id)
        return run_service_pb2.SubmitRunResponse(run=render.run(record, with_tasks=True), created=accepted.created)

    async def _known(self, namespace: str, request_id: str) -> tuple[str, bytes] | None:
        """What the store has under a request id that memory no longer knows."""
        requests = self._engine.state.requests
        if not request_id or requests.is_complete or requests.find(namespace, request_id):
            return None
        reader = self._engine.store.reader
        return await self._engine.read(lambda: reader.request(namespace, request_id, of_run=True), at_once=True)

    async def _record(self, namespace: str, prefix: str) -> RunRecord:
        run_id = await run_id_of(self._engine, namespace, prefix)
        record = await self._engine.read(lambda: self._engine.store.reader.run(namespace, run_id))
        if record is None:
            raise errors.NotFound(f"no run {prefix!r}; `outrider run list` shows those there are")
        return record

    @unary
    async def GetRun(self, request: run_service_pb2.GetRunRequest, context: Context) -> run_service_pb2.GetRunResponse:
        """One run as committed."""
        record = await self._record(request.namespace or "default", request.run_id)
        return run_service_pb2.GetRunResponse(run=render.run(record, with_tasks=True))

    @unary
    async def ListRuns(
        self, request: run_service_pb2.ListRunsRequest, context: Context
    ) -> run_service_pb2.ListRunsResponse:
        """A page of runs, newest first."""
        size = min(request.page_size or PAGE_DEFAULT, PAGE_MAX)
        reader = self._engine.store.reader
        records = await self._engine.read(
            lambda: reader.runs(
                request.namespace or "default",
                id_prefix=request.id_prefix,
                before_id=request.page_token,
                limit=size + 1,
            )
        )
        token = records[size - 1].run.id if len(records) > size else ""
        runs = [render.run(record, with_tasks=False) for record in records[:size]]
        return run_service_pb2.ListRunsResponse(runs=runs, next_page_token=token)

    @encoded
    @streaming
    async def WatchRun(self, request: run_service_pb2.WatchRunRequest, context: Context) -> AsyncIterator[bytes]:
        """Events of a run; ends by itself after RUN_ENDED."""
        namespace = request.namespace or "default"
        record = await self._record(namespace, request.run_id)
        wanted = EventFilter(namespace, run_id=record.run.id, include_results=request.include_results)
        after = request.after_cursor if request.HasField("after_cursor") else 0
        async for item in watched(self._engine, wanted, after):
            if isinstance(item, int):
                yield client_frames.caught_up(item)
                continue
            yield client_frames.events(item, include_results=request.include_results)
            if any(event.type == EventType.RUN_ENDED for event in item):
                return

    @unary
    async def CancelRun(
        self, request: run_service_pb2.CancelRunRequest, context: Context
    ) -> run_service_pb2.CancelRunResponse:
        """Cancel every task of a run that is not terminal, last ones first, so that none is skipped meanwhile."""
        record = await self._record(request.namespace or "default", request.run_id)
        task_ids = list(reversed(record.run.task_ids))
        verdicts = await asked(self._engine, lambda reply: CancelRequested(task_ids, request.message, reply))
        return run_service_pb2.CancelRunResponse(cancelled_count=sum(verdict.cancelled for verdict in verdicts))
