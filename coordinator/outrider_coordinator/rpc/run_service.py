"""RunService: graphs accepted whole, read, watched, cancelled."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace

from outrider import errors
from outrider.v1 import run_service_pb2, run_service_pb2_grpc
from outrider_coordinator.core.effects import Accepted, NeedTasks
from outrider_coordinator.core.events import RunCancelRequested, RunMember, RunSubmitted, TasksAdded
from outrider_coordinator.core.model import Trace
from outrider_coordinator.core.runs import graph
from outrider_coordinator.core.schedules.book import REQUEST_ID_MARK
from outrider_coordinator.core.states import EventType
from outrider_coordinator.engine import Engine
from outrider_coordinator.rpc import client_frames, render, run_progress, run_retry
from outrider_coordinator.rpc.calls import Context, Service, asked, encoded, raised, run_id_of, streaming, unary
from outrider_coordinator.rpc.convert import Converter, policies, submitter
from outrider_coordinator.rpc.fields import invalid, number
from outrider_coordinator.rpc.specs import run_identity, tasks_identity
from outrider_coordinator.rpc.task_service import PAGE_DEFAULT, PAGE_MAX, ended_tasks, no_dependency, watched
from outrider_coordinator.store.filters import EventFilter
from outrider_coordinator.store.reader import Accepts, RunRecord

#: A graph up to this size is checked at once.
_CHECKED_AT_ONCE = 500


class RunService(Service, run_service_pb2_grpc.RunServiceServicer):
    """Handlers of RunService over one engine."""

    def __init__(self, engine: Engine, converter: Converter) -> None:
        super().__init__()
        self._engine = engine
        self._converter = converter

    @unary
    async def SubmitRun(
        self, request: run_service_pb2.SubmitRunRequest, context: Context
    ) -> run_service_pb2.SubmitRunResponse:
        """Accept a graph in one transaction."""
        self.check_open()
        spec = request.run
        how = policies(spec, "run")
        namespace = request.namespace or "default"
        members = await self._converter.members(spec.tasks, "run.tasks", namespace)
        await self._check(members, is_sequential=spec.sequential)
        event = RunSubmitted(
            self._converter.ids.next(),
            namespace,
            spec.title,
            spec.description,
            members,
            _nobody,
            request.request_id,
            _digest(run_identity(spec)),
            request.client_id,
            Trace(request.trace.traceparent, request.trace.tracestate),
            **how,
            submitter=submitter(request.submitter),
        )
        accepted = await self._accepted(event, "run")
        record = await self._record(event.namespace, accepted.id)
        return run_service_pb2.SubmitRunResponse(run=render.run(record, with_tasks=True), created=accepted.created)

    @unary
    async def RetryRun(
        self, request: run_service_pb2.RetryRunRequest, context: Context
    ) -> run_service_pb2.RetryRunResponse:
        """Do again what did not succeed of a run that is over, as a new run."""
        self.check_open()
        namespace = request.namespace or "default"
        record = await self._record(namespace, request.run_id)
        if not record.run.ended_us:
            raise errors.IllegalTransition(f"run {record.run.id} is not over; cancel it first, or wait for its end")
        reader = self._engine.store.reader
        tasks = await self._engine.read(lambda: reader.run_tasks(record.run.id))
        event = run_retry.again(record, tasks, self._converter.ids, _nobody)
        event.request_id, event.digest = request.request_id, _digest(b"retry" + record.run.id.encode())
        accepted = await self._accepted(event, "run")
        made = await self._record(namespace, accepted.id)
        return run_service_pb2.RetryRunResponse(run=render.run(made, with_tasks=True), created=accepted.created)

    @unary
    async def AddTasks(
        self, request: run_service_pb2.AddTasksRequest, context: Context
    ) -> run_service_pb2.AddTasksResponse:
        """Add tasks to a run that is not over, in one transaction."""
        self.check_open()
        namespace = request.namespace or "default"
        run_id = await run_id_of(self._engine, namespace, request.run_id)
        members = await self._converter.members(request.tasks, "tasks", namespace)
        await self._check(members, is_whole=False)
        digest = _digest(run_id.encode() + tasks_identity(request.tasks))
        event = TasksAdded(run_id, namespace, members, _nobody, request.request_id, digest, request.parent_task_id)
        accepted = await self._accepted(event, "part")
        number = int(accepted.id.partition("/")[2])
        part = await self._engine.read(lambda: self._engine.store.reader.run_part(run_id, number))
        return run_service_pb2.AddTasksResponse(task_ids=render.part(part), created=accepted.created)

    async def _check(self, members: list[RunMember], *, is_sequential: bool = False, is_whole: bool = True) -> None:
        """Refuse a graph that cannot run; a large one is looked at beside the loop."""
        check = functools.partial(graph.check, members, is_sequential=is_sequential, is_whole=is_whole)
        refused = check() if len(members) <= _CHECKED_AT_ONCE else await asyncio.to_thread(check)
        if refused is not None:
            raise raised(refused)

    async def _accepted(self, event: RunSubmitted | TasksAdded, kind: Accepts) -> Accepted:
        """Give a graph to the core; what it depends on and the core does not have is looked up first."""
        if event.request_id.startswith(REQUEST_ID_MARK):
            raise invalid("request_id", f"must not begin with {REQUEST_ID_MARK!r}: schedules do")
        for other in {other for member in event.members for other in member.after_ids if other}:
            task = self._engine.state.tasks.get(other)
            if task is not None and task.namespace != event.namespace:
                raise no_dependency(other)
        await self._engine.admit()
        event.known_request = await self._known(event.namespace, event.request_id, kind)
        while True:
            ended = dict(event.ended)
            answer = await asked(self._engine, lambda reply, ended=ended: replace(event, reply=reply, ended=ended))  # type: ignore[misc]  # bound now
            if not isinstance(answer, NeedTasks):
                accepted: Accepted = answer
                return accepted
            event.ended |= await ended_tasks(self._engine, dict.fromkeys(answer.task_ids, event.namespace))

    async def _known(self, namespace: str, request_id: str, kind: Accepts) -> tuple[str, bytes] | None:
        """What the store has under a request id that memory no longer knows."""
        requests = self._engine.state.requests
        if not request_id or requests.is_complete or requests.find(namespace, request_id):
            return None
        reader = self._engine.store.reader
        return await self._engine.read(lambda: reader.request(namespace, request_id, kind), at_once=True)

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
        run = render.run(record, with_tasks=True)
        run.progress.CopyFrom(await run_progress.of(self._engine, record))
        return run_service_pb2.GetRunResponse(run=run)

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
        after = number(request.after_cursor) if request.HasField("after_cursor") else 0
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
        """Cancel every task of a run that is not terminal, last ones first."""
        run_id = await run_id_of(self._engine, request.namespace or "default", request.run_id)
        cancelled = await asked(self._engine, lambda reply: RunCancelRequested(run_id, request.message, reply))
        return run_service_pb2.CancelRunResponse(cancelled_count=cancelled)


def _nobody(value: object) -> None:
    """The reply of an event that is not asked yet."""


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
