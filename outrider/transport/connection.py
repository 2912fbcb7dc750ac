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
from outrider.signing import Signer, sign_each
from outrider.transport.backoff import CAP_S, FINAL, Backoff
from outrider.transport.encoding import RequestEncoder
from outrider.transport.follow import frames
from outrider.transport.open_calls import OpenCalls
from outrider.transport.progress import ProgressReports
from outrider.transport.submissions import Submission, Submissions, submit_stream
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
#: How long what does not answer is asked once more for the reason.
_WHY_S = 1.0
#: What a coordinator that restarts looks like; every call of ours may be repeated.
AWAY = (errors.Draining, errors.Unreachable)
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

    def __init__(
        self,
        address: str,
        tls: TlsFiles | None,
        namespace: str,
        submitter: str = "",
        signer: Signer | None = None,
    ) -> None:
        self.address = address
        self.namespace = namespace
        self.submitter = submitter
        self.signer = signer
        began_ms = time.time_ns() // 1_000_000
        #: Names this client for the shared watch; new for every connection.
        self.client_id = f"{began_ms:011x}{secrets.token_hex(5)}"
        self.lock = threading.Lock()
        self.loop = asyncio.get_running_loop()
        self.channel = connect_aio(address, tls)
        # The stubs of the two kinds of channel have the same methods; their types differ.
        self.tasks: Any = task_service_pb2_grpc.TaskServiceStub(self.channel)
        self.runs: Any = run_service_pb2_grpc.RunServiceStub(self.channel)
        self.submissions = Submissions(address, submit_stream(self.channel), self._accepted)
        self._encoder = RequestEncoder(namespace, self.client_id, submitter)
        self._open_tickets: dict[str, Ticket] = {}
        self._early: dict[str, event_pb2.Event] = {}
        self._foreign: set[str] = set()
        self.progress = ProgressReports(self)
        self._runs_under_way = 0
        self._cursor = 0
        self._background: set[asyncio.Task[Any]] = set()
        #: What callers wait for; what runs in the background is cancelled instead.
        self.open_calls = OpenCalls()
        self._ready = asyncio.Event()
        self._lost: errors.OutriderError | None = None
        self.is_closed = False
        self._is_over = False
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
            problem = await self._why()
            await self.close()
            raise problem or errors.Unreachable(
                f"no coordinator answers at {self.address} within {timeout_s:g} s; "
                "start one with `outrider up`, or give its address (OUTRIDER_COORDINATOR, --coordinator)"
            )
        self.start(self.submissions.run())

    async def _why(self) -> errors.OutriderError | None:
        """What is wrong with the TLS of what answers, None for anything else: a call that waits is not told."""
        try:
            await self.tasks.List(task_service_pb2.ListRequest(page_size=1), timeout=_WHY_S)
        except grpc.aio.AioRpcError as error:
            problem = status.from_rpc_error(error, self.address)
            return problem if isinstance(problem, errors.Untrusted) else None
        return None

    async def close(self, flush_s: float = 0.0) -> None:
        """Wait up to ``flush_s`` for submissions under way, then end everything; open tickets fail."""
        if self.is_closed:
            return
        self.is_closed = True
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.submissions.settled(), flush_s or 0.001)
        finally:
            # Also when whoever closes is cancelled: nobody else would end the rest.
            await self._end()

    async def _end(self) -> None:
        self._is_over = True
        while self._background:
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
        await self.open_calls.close()
        self.submissions.fail_all(errors.Unreachable("the client was closed before the coordinator took this task"))
        self._lose(errors.Unreachable("the client was closed before this ended; the task itself goes on"))
        await self.channel.close()
        try:
            await asyncio.to_thread(self._tracer.close, TRACES_DEADLINE_S)
        except RuntimeError:  # the program is ending, and there are no more threads to be had
            self._tracer.close(TRACES_DEADLINE_S)

    def start(self, coroutine: Coroutine[Any, Any, Response]) -> asyncio.Task[Response]:
        """Run in the background until done or closed."""
        task = self.loop.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        if self._is_over:
            task.cancel()  # nobody else would end it
        return task

    # --- submissions

    def submit(self, spec: bytes, title: str, dependency_ids: list[str], request_id: str = "") -> Ticket:
        """Put a serialized TaskSpec into `submissions`; its ticket. ``title`` names its span. From any thread."""
        request_id = request_id or self.request_id()
        ticket = Ticket(self.lock)
        trace = task_pb2.TraceContext()
        span = self._tracer.begin(title, trace)
        if span is not None:
            ticket.when_accepted(functools.partial(self._end_span, span, ticket))
        if self.signer is not None:
            spec = self.signer.signed(spec, self.namespace)
        data = self._encoder.encode(request_id, spec, dependency_ids, trace)
        self.submissions.put(Submission(request_id, data, ticket))
        return ticket

    def request_id(self) -> str:
        """A new request id, sorted by time within this client. From any thread."""
        return f"{self.client_id}-{next(self._numbers):x}"

    def _end_span(self, span: OpenSpan, ticket: Ticket) -> None:
        if ticket.task_id:
            span.attributes["outrider.task.id"] = ticket.task_id
        self._tracer.end(span, str(ticket.failure) if ticket.failure else "")

    def _accepted(self, submission: Submission, task_id: str, created: bool) -> None:
        self.adopt(submission.ticket, task_id)
        if not created and not self._is_own(submission.request_id):
            # Somebody submitted it before, perhaps another client: its end may be past, or not be on our watch.
            self._foreign.add(task_id)
            self.start(self.look_at_each([task_id]))
            self.start(self._watch_one(submission.ticket))

    def _is_own(self, request_id: str) -> bool:
        return request_id.startswith(self.client_id)

    def adopt(self, ticket: Ticket, task_id: str) -> None:
        """A ticket stands for this task from now on."""
        first = self._open_tickets.setdefault(task_id, ticket)
        if first is not ticket:
            first.when_ended(functools.partial(ticket.end_as, first))
        if self._lost is not None:
            ticket.fail(self._lost)
        ticket.accept(task_id)
        if self._early and task_id in self._early:
            self._ended(self._early.pop(task_id))

    async def submit_run(self, request: run_service_pb2.SubmitRunRequest) -> tuple[run_service_pb2.Run, list[Ticket]]:
        """Accept a graph; its tasks' tickets in the order of the request."""
        request.client_id, request.namespace = self.client_id, self.namespace
        request.submitter = self.submitter
        sign_each((task.spec for task in request.run.tasks), self.signer, self.namespace)
        span = self._tracer.begin(request.run.title, request.trace)
        self._runs_under_way += 1
        try:
            response = await self.call(self.runs.SubmitRun, request)
            run = response.run
            tickets = [Ticket(self.lock) for _ in run.task_ids]
            for ticket, member in zip(tickets, run.task_ids, strict=True):
                self.adopt(ticket, member.task_id)
            if not response.created:
                self.start(self.look_at_each([member.task_id for member in run.task_ids]))
            if span is not None:
                span.attributes["outrider.run.id"] = run.id
        finally:
            self._runs_under_way -= 1
            if span is not None:
                self._tracer.end(span)
        return run, tickets

    # --- outcomes

    def _ended(self, event: event_pb2.Event) -> None:
        task_id = event.task_id
        if self._foreign:
            self._foreign.discard(task_id)
        ticket = self._open_tickets.pop(task_id, None)
        if ticket is not None:
            ticket.end(event)
        elif self.submissions.backlog or self._runs_under_way:
            # The outcome overtook the answer to the submit, which travels on another stream.
            self._early[task_id] = event

    def _lose(self, failure: errors.OutriderError) -> None:
        """Nobody will tell us of any end from now on."""
        self._lost = failure
        for ticket in list(self._open_tickets.values()):
            ticket.fail(failure)

    async def _watch_outcomes(self) -> None:
        try:
            await self._follow_outcomes()
        except errors.OutriderError as error:
            if not self._ready.is_set():
                raise
            self._lose(error)

    async def _follow_outcomes(self) -> None:
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
                    self._take(frame)
                    after = self._cursor
            except errors.InvalidRequest:
                # Another store, or one restored from a backup, has other cursors: begin again, and ask for each task.
                if not self._ready.is_set():
                    raise
                after, self._cursor = None, 0
                self.start(self.look_at_each(list(self._open_tickets)))
            await backoff.wait()

    def _take(self, frame: task_service_pb2.WatchResponse) -> None:
        if frame.HasField("events"):
            for event in frame.events.events:
                self._ended(event)
            self._cursor = frame.events.events[-1].cursor
        elif frame.HasField("caught_up"):
            self._cursor = max(self._cursor, frame.caught_up.cursor)
            self._ready.set()
        elif frame.HasField("gap"):
            self.start(self.look_at_each(list(self._open_tickets)))

    async def look_at_each(self, task_ids: list[str]) -> None:
        """The ends of these tasks may have been missed: ask, for as long as it takes."""
        backoff = Backoff()
        for task_id in task_ids:
            while task_id in self._open_tickets:
                try:
                    await self._look_at(task_id)
                    break
                except FINAL:
                    break
                except errors.OutriderError:
                    await backoff.wait()

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
        self._foreign.add(ticket.task_id)
        self.adopt(ticket, ticket.task_id)
        await self._look_at(ticket.task_id)
        if not ticket.is_ended:
            self.start(self._watch_one(ticket))

    async def attach_run(self, run: run_service_pb2.Run) -> list[Ticket]:
        """Hear of the ends of the tasks of a run that somebody else may have submitted; their tickets, in order."""
        tickets = [Ticket(self.lock) for _ in run.task_ids]
        for ticket, member in zip(tickets, run.task_ids, strict=True):
            self._foreign.add(member.task_id)
            self.adopt(ticket, member.task_id)
        self.start(self._watch_run(run.id))
        return tickets

    async def _watch_run(self, run_id: str) -> None:
        async for event in self.run_events(run_id):
            if event.type in TERMINAL_TYPES:
                self._ended(event)

    async def _watch_one(self, ticket: Ticket) -> None:
        watching = self.start(self._first_end(ticket.task_id))
        ticket.when_ended(functools.partial(_cancel, watching))
        await asyncio.wait({watching})

    async def _first_end(self, task_id: str) -> None:
        async for event in self.events([task_id], TERMINAL_TYPES):
            self._ended(event)
            return

    # --- reading

    def is_foreign(self, task_id: str) -> bool:
        """Whether somebody else may have submitted it, so that it is not on the watch of our own tasks."""
        return task_id in self._foreign

    async def events(self, task_ids: list[str], types: tuple[int, ...] = ()) -> AsyncIterator[event_pb2.Event]:
        """Events of these tasks from their beginning, resumed after breaks; the caller decides when to end it."""
        async for frame in self.watch(task_ids, types, 0):
            for event in frame.events.events:
                yield event

    def watch(
        self, task_ids: list[str], types: tuple[int, ...], after: int | None, *, own: bool = False
    ) -> AsyncIterator[task_service_pb2.WatchResponse]:
        """Frames with events after a cursor (None: from now on), resumed after breaks.

        Of these tasks (none: of all), with ``own`` only of those that this client submitted.
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

        return self.open_calls.each(lambda: frames(open_watch, after, self.address))

    async def run_events(self, run_id: str) -> AsyncIterator[event_pb2.Event]:
        """Events of a run from its beginning; ends with the run."""

        def open_watch(cursor: int | None) -> AsyncIterator[run_service_pb2.WatchRunResponse]:
            request = run_service_pb2.WatchRunRequest(
                namespace=self.namespace, run_id=run_id, after_cursor=cursor, include_results=True
            )
            watch: AsyncIterator[run_service_pb2.WatchRunResponse] = self.runs.WatchRun(request)
            return watch

        async for frame in self.open_calls.each(lambda: frames(open_watch, 0, self.address, has_end=True)):
            for event in frame.events.events:
                yield event

    async def call(self, method: Callable[..., Any], request: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """A unary call, repeated while the coordinator is away; raises the error that the coordinator raised.

        Raises RuntimeError after `close`, and `Unreachable` when closed meanwhile.
        """
        return await self.open_calls.answer(functools.partial(self._call, method, request, timeout_s))

    async def _call(self, method: Callable[..., Any], request: Any, timeout_s: float) -> Any:
        backoff, end_s = Backoff(), self.loop.time() + timeout_s
        while True:
            left_s = max(0.001, end_s - self.loop.time())
            try:
                return await method(request, timeout=left_s, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                problem = status.from_rpc_error(error, self.address)
            if not isinstance(problem, AWAY) or self.loop.time() + CAP_S > end_s:
                raise problem
            await backoff.wait()


def _cancel(watching: asyncio.Task[None]) -> None:
    watching.cancel()


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
