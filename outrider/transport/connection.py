"""One client's connection: submissions out, outcomes in on one shared watch, and calls with errors of ours.

Belongs to the loop it was opened on. A break of the connection shows to nobody: submissions are sent again under their
request ids, and the watch goes on after the last cursor, so outcomes survive a restart of the coordinator.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import grpc

from outrider import errors, status
from outrider.channel import TlsFiles, connect_aio
from outrider.transport.backoff import Backoff
from outrider.transport.follow import frames
from outrider.transport.submissions import Submissions
from outrider.transport.submit_spans import OpenSpan, SubmitTracer
from outrider.transport.tickets import Ticket
from outrider.v1 import (
    event_pb2,
    run_service_pb2,
    run_service_pb2_grpc,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
)

CALL_TIMEOUT_S = 30.0
#: How long closing waits for the trace collector.
TRACES_DEADLINE_S = 2.0
TERMINAL_TYPES = tuple(range(event_pb2.EVENT_TYPE_TASK_SUCCEEDED, event_pb2.EVENT_TYPE_TASK_SKIPPED + 1))
#: Terminal task state to the type of the event that entered it.
_TYPE_OF_STATE = dict(
    zip(range(task_pb2.TASK_STATE_SUCCEEDED, task_pb2.TASK_STATE_SKIPPED + 1), TERMINAL_TYPES, strict=True)
)

Request = TypeVar("Request")
Response = TypeVar("Response")


class Connection:
    """A connection to the coordinator at ``address`` for one namespace. Use `open` first and `close` last."""

    def __init__(self, address: str, tls: TlsFiles | None, namespace: str) -> None:
        self.address = address
        self.namespace = namespace
        began_ms = time.time_ns() // 1_000_000
        #: Names this client for the shared watch; new for every connection.
        self.client_id = f"{began_ms:011x}{secrets.token_hex(5)}"
        self.lock = threading.Lock()
        self.loop = asyncio.get_running_loop()
        self.channel = connect_aio(address, tls)
        # The stubs of the two kinds of channel have the same methods; their types differ.
        self.tasks: Any = task_service_pb2_grpc.TaskServiceStub(self.channel)
        self.runs: Any = run_service_pb2_grpc.RunServiceStub(self.channel)
        self.submissions = Submissions(address, self.tasks.SubmitStream, self._accepted)
        self._open_tickets: dict[str, Ticket] = {}
        self._early: dict[str, event_pb2.Event] = {}
        self._progress_wanted: dict[str, list[Callable[[task_pb2.Progress], None]]] = {}
        self._watches_progress = False
        self._attached: set[str] = set()
        self._runs_under_way = 0
        self._cursor = 0
        self._background: set[asyncio.Task[Any]] = set()
        self._ready = asyncio.Event()
        self._is_closed = False
        self._numbers = itertools.count(1)
        self._tracer = SubmitTracer()

    # --- life

    async def open(self, timeout_s: float) -> None:
        """Connect. Raises `Unreachable` with the address after ``timeout_s``, and at once what waiting cannot mend."""
        watching = self.start(self._watch_outcomes())
        ready = self.start(self._ready.wait())
        done, _ = await asyncio.wait({watching, ready}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if watching in done:
            problem = watching.exception()
            await self.close()
            raise problem or errors.Unreachable(f"the coordinator at {self.address} ended the watch")
        if ready not in done:
            await self.close()
            raise errors.Unreachable(
                f"no coordinator answers at {self.address} within {timeout_s:g} s; "
                "start one with `outrider up`, or give its address (OUTRIDER_COORDINATOR, --coordinator)"
            )
        self.start(self.submissions.run())

    async def close(self, flush_s: float = 0.0) -> None:
        """Wait up to ``flush_s`` for submissions under way, then end everything; open tickets fail."""
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.submissions.settled(), flush_s or 0.001)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        failure = errors.Unreachable("the client was closed before this ended; the task itself goes on")
        self.submissions.fail_all(failure)
        for ticket in list(self._open_tickets.values()):
            ticket.fail(failure)
        await self.channel.close()
        await asyncio.to_thread(self._tracer.close, TRACES_DEADLINE_S)

    def start(self, coroutine: Coroutine[Any, Any, Response]) -> asyncio.Task[Response]:
        """Run in the background until done or closed."""
        task = self.loop.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # --- submissions

    def prepare(
        self, spec: task_pb2.TaskSpec, dependency_ids: list[str], request_id: str = ""
    ) -> tuple[task_service_pb2.SubmitRequest, Ticket]:
        """A request and its ticket, to be put into `submissions`. From any thread."""
        request = task_service_pb2.SubmitRequest(
            namespace=self.namespace,
            request_id=request_id or self.request_id(),
            spec=spec,
            dependency_ids=dependency_ids,
            client_id=self.client_id,
        )
        ticket = Ticket(self.lock)
        span = self._tracer.begin(_name_of(spec), request.trace)
        if span is not None:
            ticket.when_accepted(functools.partial(self._end_span, span, ticket))
        return request, ticket

    def request_id(self) -> str:
        """A new request id, sorted by time within this client. From any thread."""
        return f"{self.client_id}-{next(self._numbers):x}"

    def _end_span(self, span: OpenSpan, ticket: Ticket) -> None:
        if ticket.task_id:
            span.attributes["outrider.task.id"] = ticket.task_id
        self._tracer.end(span, str(ticket.failure) if ticket.failure else "")

    def _accepted(self, ticket: Ticket, task_id: str) -> None:
        self._open_tickets[task_id] = ticket
        ticket.accept(task_id)
        early = self._early.pop(task_id, None)
        if early is not None:
            self._ended(early)

    async def submit_run(self, request: run_service_pb2.SubmitRunRequest) -> tuple[run_service_pb2.Run, list[Ticket]]:
        """Accept a graph; its tasks' tickets in the order of the request."""
        request.client_id, request.namespace = self.client_id, self.namespace
        span = self._tracer.begin(request.run.title, request.trace)
        self._runs_under_way += 1
        try:
            run = (await self.call(self.runs.SubmitRun, request)).run
            tickets = [Ticket(self.lock) for _ in run.task_ids]
            for ticket, member in zip(tickets, run.task_ids, strict=True):
                self._accepted(ticket, member.task_id)
            if span is not None:
                span.attributes["outrider.run.id"] = run.id
        finally:
            self._runs_under_way -= 1
            if span is not None:
                self._tracer.end(span)
        return run, tickets

    # --- outcomes

    def _ended(self, event: event_pb2.Event) -> None:
        self._progress_wanted.pop(event.task_id, None)
        ticket = self._open_tickets.pop(event.task_id, None)
        if ticket is not None:
            ticket.end(event)
        elif self.submissions.backlog or self._runs_under_way:
            # The outcome overtook the answer to the submit, which travels on another stream.
            self._early[event.task_id] = event

    async def _watch_outcomes(self) -> None:
        def open_watch(after: int | None) -> AsyncIterator[task_service_pb2.WatchResponse]:
            request = task_service_pb2.WatchRequest(
                namespace=self.namespace,
                client_id=self.client_id,
                types=TERMINAL_TYPES,  # type: ignore[arg-type]  # numbers of the enum
                after_cursor=after,
                include_results=True,
            )
            watch: AsyncIterator[task_service_pb2.WatchResponse] = self.tasks.Watch(request)
            return watch

        backoff, after = Backoff(), None
        while True:
            try:
                async for frame in frames(open_watch, after, self.address):
                    backoff.reset()
                    await self._take(frame)
                    after = self._cursor
            except errors.InvalidRequest:
                # Another store, or one restored from a backup, has other cursors: begin again, and ask for each task.
                if not self._ready.is_set():
                    raise
                after, self._cursor = None, 0
                await self._look_at_all()
            await backoff.wait()

    async def _take(self, frame: task_service_pb2.WatchResponse) -> None:
        if frame.HasField("events"):
            for event in frame.events.events:
                self._ended(event)
            self._cursor = frame.events.events[-1].cursor
        elif frame.HasField("caught_up"):
            self._cursor = max(self._cursor, frame.caught_up.cursor)
            self._ready.set()
        elif frame.HasField("gap"):
            await self._look_at_all()

    async def _look_at_all(self) -> None:
        """Events are missing: ask for every open task."""
        for task_id in list(self._open_tickets):
            with contextlib.suppress(errors.Unreachable):
                await self._look_at(task_id)

    async def _look_at(self, task_id: str) -> None:
        request = task_service_pb2.GetRequest(namespace=self.namespace, task_id=task_id)
        try:
            response = await self.call(self.tasks.Get, request)
        except errors.NotFound as error:
            ticket = self._open_tickets.pop(task_id, None)
            if ticket is not None:
                ticket.fail(error)
            return
        if response.task.state in _TYPE_OF_STATE:
            self._ended(outcome_of(response.task))

    async def attach(self, ticket: Ticket) -> None:
        """Hear of the end of a task that somebody else submitted."""
        self._open_tickets.setdefault(ticket.task_id, ticket)
        self._attached.add(ticket.task_id)
        await self._look_at(ticket.task_id)
        if not ticket.is_ended:
            self.start(self._watch_one(ticket))

    async def _watch_one(self, ticket: Ticket) -> None:
        async for event in self.events([ticket.task_id], TERMINAL_TYPES):
            self._ended(event)
            return

    # --- reading

    async def events(
        self, task_ids: list[str], types: tuple[int, ...] = (), after: int | None = 0, *, own: bool = False
    ) -> AsyncIterator[event_pb2.Event]:
        """Events of these tasks after a cursor, resumed after breaks; the caller decides when it has seen enough.

        With ``own`` of the tasks that this client submitted.
        """

        def open_watch(cursor: int | None) -> AsyncIterator[task_service_pb2.WatchResponse]:
            request = task_service_pb2.WatchRequest(
                namespace=self.namespace,
                task_ids=task_ids,
                client_id=self.client_id if own else "",
                types=types,  # type: ignore[arg-type]  # numbers of the enum
                after_cursor=cursor,
                include_results=True,
            )
            watch: AsyncIterator[task_service_pb2.WatchResponse] = self.tasks.Watch(request)
            return watch

        async for frame in frames(open_watch, after, self.address):
            for event in frame.events.events:
                yield event

    async def run_events(self, run_id: str) -> AsyncIterator[event_pb2.Event]:
        """Events of a run from its beginning; ends with the run."""

        def open_watch(cursor: int | None) -> AsyncIterator[run_service_pb2.WatchRunResponse]:
            request = run_service_pb2.WatchRunRequest(
                namespace=self.namespace, run_id=run_id, after_cursor=cursor, include_results=True
            )
            watch: AsyncIterator[run_service_pb2.WatchRunResponse] = self.runs.WatchRun(request)
            return watch

        async for frame in frames(open_watch, 0, self.address, has_end=True):
            for event in frame.events.events:
                yield event

    def on_progress(self, ticket: Ticket, callback: Callable[[task_pb2.Progress], None]) -> None:
        """Call back, on the loop, with the latest progress of an accepted task and every report from now on."""
        self._progress_wanted.setdefault(ticket.task_id, []).append(callback)
        if ticket.task_id in self._attached:
            self.start(self._watch_progress([ticket.task_id], self._cursor))
        elif not self._watches_progress:
            self._watches_progress = True
            self.start(self._watch_progress([], self._cursor))
        self.start(self._latest_progress(ticket.task_id, callback))

    async def _watch_progress(self, task_ids: list[str], after: int) -> None:
        types = (event_pb2.EVENT_TYPE_TASK_PROGRESS, *(TERMINAL_TYPES if task_ids else ()))
        async for event in self.events(task_ids, types, after, own=not task_ids):
            for callback in self._progress_wanted.get(event.task_id, ()):
                if event.HasField("progress"):
                    callback(event.progress)
            if task_ids and event.type in TERMINAL_TYPES:
                return

    async def _latest_progress(self, task_id: str, callback: Callable[[task_pb2.Progress], None]) -> None:
        with contextlib.suppress(errors.OutriderError):
            request = task_service_pb2.GetRequest(namespace=self.namespace, task_id=task_id)
            task = (await self.call(self.tasks.Get, request)).task
            if task.HasField("progress"):
                callback(task.progress)

    async def call(self, method: Callable[..., Any], request: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """A unary call; raises the error that the coordinator raised."""
        try:
            return await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error, self.address) from None


def outcome_of(task: task_pb2.Task) -> event_pb2.Event:
    """The terminal event of a task, made from what is kept of it."""
    event = event_pb2.Event(
        type=event_pb2.EventType.ValueType(_TYPE_OF_STATE[task.state]),
        task_id=task.id,
        run_id=task.run_id,
        attempt=len(task.attempts),
        reason=task.reason,
        namespace=task.namespace,
    )
    if task.state == task_pb2.TASK_STATE_SUCCEEDED:
        event.completed.result.CopyFrom(task.result)
        event.completed.summary = task.summary
        event.completed.remaining_issues.extend(task.remaining_issues)
    elif task.HasField("error"):
        event.error.CopyFrom(task.error)
    return event


def _name_of(spec: task_pb2.TaskSpec) -> str:
    return spec.title or spec.function.function or (spec.command.argv[0] if spec.command.argv else "")
