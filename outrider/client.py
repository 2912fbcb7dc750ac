"""The blocking client, for programs without an event loop. Every method may be called from any thread.

    with outrider.Client() as client:
        handle = client.submit(math.sqrt, 2)
        print(handle.result())

The work is done by the asyncio connection of `outrider.aio`, on a loop in a thread of the client's own.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, ParamSpec, TypeVar, overload

from outrider import discovery, identity, signing, views
from outrider.aio import CONNECT_TIMEOUT_S, FLUSH_TIMEOUT_S, chunks
from outrider.channel import TlsFiles
from outrider.errors import OutriderError, Unreachable
from outrider.graph import GraphBuilder
from outrider.schedule_client import Schedules
from outrider.signing import Signer
from outrider.transport import operations, runs
from outrider.transport.connection import Connection
from outrider.transport.encoding import CallEncoder
from outrider.transport.loop_thread import LoopThread
from outrider.transport.tickets import Ticket
from outrider.v1 import run_service_pb2, task_pb2
from outrider.work import Options, Seconds, command_spec, function_name, seconds

__all__ = ["Client", "RunAddition", "RunBuilder", "RunHandle", "Submitter", "TaskHandle", "as_completed"]

logger = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")


class _Link:
    """What a client and its handles share: the connection, its loop, and the thread for callbacks."""

    def __init__(self, connect: Callable[[], Connection], timeout_s: float) -> None:
        self.thread = LoopThread()
        self.callbacks = ThreadPoolExecutor(1, "outrider-callbacks")
        # Reentrant, because a signal handler may close what its thread is closing.
        self._closing = threading.RLock()
        try:
            self.connection = self.thread.run(_opened(connect, timeout_s))
        except BaseException:
            self.thread.stop()
            raise

    def close(self) -> None:
        """Once; whoever comes second waits for the first."""
        with self._closing, contextlib.suppress(RuntimeError, Unreachable):  # closed before, or by a signal handler
            try:
                self.thread.run(self.connection.close(FLUSH_TIMEOUT_S))
            finally:
                self.thread.stop()
                self.callbacks.shutdown(wait=False)

    def call_back(self, callback: Callable[[Any], None], value: Any) -> None:
        """Run a callback of the user, after those before it; its exceptions are logged."""
        try:
            self.callbacks.submit(_guarded, callback, value)
        except RuntimeError:
            # Closed, so there is no thread for it; but somebody may wait for what it does. Not on the loop's thread:
            # there the program is ending, and a callback could wait for that very thread.
            if not self.thread.is_current():
                _guarded(callback, value)


async def _opened(connect: Callable[[], Connection], timeout_s: float) -> Connection:
    connection = connect()
    await connection.open(timeout_s)
    return connection


def _guarded(callback: Callable[[Any], None], value: Any) -> None:
    try:
        callback(value)
    except Exception:
        logger.exception("a callback raised")


class TaskHandle(Generic[Value]):
    """One task."""

    def __init__(self, link: _Link, ticket: Ticket) -> None:
        self._link = link
        self._ticket = ticket
        self._ended: threading.Event | None = None

    def __repr__(self) -> str:
        return f"<TaskHandle {self._ticket.task_id or 'on its way'}>"

    @property
    def id(self) -> str:
        """Full id; waits until the coordinator has the task on disk. Raises why it was refused."""
        if not self._ticket.is_accepted:
            accepted = threading.Event()
            self._ticket.when_accepted(accepted.set)
            accepted.wait()
        if not self._ticket.task_id:
            raise self._ticket.failure or RuntimeError("accepted without an id")
        return self._ticket.task_id

    def done(self) -> bool:
        """Whether it has ended."""
        return self._ticket.is_ended

    def exception(self, timeout: float | None = None) -> OutriderError | None:
        """Wait for its end; why there is no result, None when there is one. Raises TimeoutError."""
        self._wait(timeout)
        if self._ticket.event is None:
            return self._ticket.failure
        return views.failure_of(self._ticket.event)

    def result(self, timeout: float | None = None) -> Value:
        """Wait for its end; what it returned, after JSON. Raises TaskFailed and its like, or TimeoutError."""
        if self._ticket.event is None:
            self._wait(timeout)
        event = self._ticket.event
        if event is None:
            raise self._ticket.failure or RuntimeError("ended without an event")
        failure = views.failure_of(event)
        if failure is not None:
            raise failure
        value: Value = views.payload_value(event.completed.result)
        return value

    def _wait(self, timeout: float | None) -> None:
        if self._ticket.is_ended:
            return
        if self._ended is None:
            self._ended = threading.Event()
            self._ticket.when_ended(self._ended.set)
        if not self._ended.wait(timeout):
            raise TimeoutError(f"task {self._ticket.task_id[:16]} has not ended within {timeout} s; it goes on")

    @property
    def state(self) -> views.TaskState:
        """Where it is now."""
        if self._ticket.event is not None:
            return views.final_state(self._ticket.event)
        return self._link.thread.run(operations.state(self._link.connection, self.id))

    def waits(self) -> list[views.Wait]:
        """What it waits for now."""
        return self._link.thread.run(operations.waits(self._link.connection, self.id))

    def events(self) -> Iterator[views.TaskEvent]:
        """Its events from the beginning to its end, also across restarts of the coordinator."""
        return self._link.thread.iterate(operations.events(self._link.connection, self.id))

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Captured output of the latest attempt, piece by piece; following ends with the task."""
        for log in self._link.thread.iterate(operations.logs(self._link.connection, self.id, follow=follow)):
            yield log.data.decode(errors="replace")

    def on_progress(self, callback: Callable[[views.Progress], None]) -> None:
        """Call back, in a thread of the client, with the latest progress and what is reported from now on.

        In order, each report once, the last one always; of a burst of reports agents pass on the last.
        """

        def told(message: task_pb2.Progress) -> None:
            self._link.call_back(callback, views.Progress.read(message))

        def accepted() -> None:
            if self._ticket.task_id:
                connection = self._link.connection
                connection.loop.call_soon_threadsafe(connection.progress.subscribe, self._ticket.task_id, told)

        self._ticket.when_accepted(accepted)

    def add_done_callback(self, callback: Callable[[TaskHandle[Value]], None]) -> None:
        """Call back, once, in a thread of the client, when it has ended; at once, here, when the client is closed."""
        self._ticket.when_ended(functools.partial(self._link.call_back, callback, self))

    def cancel(self, message: str = "") -> bool:
        """Cancel it; True when the cancel decides its outcome, False when it had ended before."""
        return self._link.thread.run(operations.cancel(self._link.connection, self.id, message))

    def answer(self, value: Any, key: str = "") -> str:
        """Resolve what it waits for (``key`` empty: whatever that is) with a JSON value; the key resolved."""
        return self._link.thread.run(operations.answer(self._link.connection, self.id, value, key))

    def extend(self, duration: Seconds, key: str = "") -> str:
        """Grant more running time to what asks for it; the key resolved."""
        granted = operations.answer(self._link.connection, self.id, "yes", key, granted_s=seconds(duration))
        return self._link.thread.run(granted)

    def refuse(self, text: str = "", key: str = "") -> str:
        """End what it waits for without it; the task is told why. The key resolved."""
        return self._link.thread.run(operations.answer(self._link.connection, self.id, text, key, refuse=True))

    def retry(self) -> TaskHandle[Value]:
        """Submit its work again as a new task, with the results it had as inputs; it must have ended."""
        return TaskHandle(self._link, self._link.thread.run(runs.retry_task(self._link.connection, self.id)))

    def explain(self) -> views.Explanation:
        """Why it is where it is, agent by agent."""
        return self._link.thread.run(operations.explain(self._link.connection, self.id))


class RunHandle:
    """A graph of tasks that was accepted. ``tasks`` holds a handle for every key, in the order added."""

    def __init__(self, link: _Link, run: run_service_pb2.Run, tickets: list[Ticket]) -> None:
        self._link = link
        self.id: str = run.id
        self.tasks: dict[str, TaskHandle[Any]] = {
            member.key: TaskHandle(link, ticket) for member, ticket in zip(run.task_ids, tickets, strict=True)
        }

    def result(self, key: str, timeout: float | None = None) -> Any:
        """Result of one task; errors as `TaskHandle.result`."""
        return self.tasks[key].result(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every task has ended; whether all succeeded. Raises TimeoutError."""
        left_s = _countdown(timeout)
        failures = [handle.exception(left_s()) for handle in self.tasks.values()]
        return not any(failures)

    def events(self) -> Iterator[views.TaskEvent]:
        """Events of all its tasks, from the beginning to its end."""
        return self._link.thread.iterate(operations.run_events(self._link.connection, self.id))

    def cancel(self, message: str = "") -> int:
        """Cancel what has not ended; how many tasks that decides."""
        return self._link.thread.run(operations.cancel_run(self._link.connection, self.id, message))

    def progress(self) -> views.RunProgress:
        """How far it is; ``str()`` of it is made for people."""
        return self._link.thread.run(runs.progress(self._link.connection, self.id))

    def retry(self) -> RunHandle:
        """Do again what did not succeed, as a new run; results that are there are inputs as before.

        Raises `IllegalTransition` when it is not over, or all of it succeeded.
        """
        return RunHandle(self._link, *self._link.thread.run(runs.retry(self._link.connection, self.id)))

    def more(self) -> RunAddition:
        """Begin an addition: tasks that may come after any that are there, also ended ones."""
        return RunAddition(self)


class RunAddition(GraphBuilder):
    """Tasks to be added to a run: `add` and `command` them, then `submit` all of them or none."""

    def __init__(self, run: RunHandle) -> None:
        super().__init__()
        self._run = run
        self._request_id = run._link.connection.request_id()

    def submit(self) -> RunHandle:
        """Accept them; the handle of the run, with handles of theirs. Submitted again, they are the same tasks.

        Raises `InvalidRequest`, `GraphCycle`, `QueueFull`, `TooLarge`, and `IllegalTransition` when the run is over.
        """
        run = self._run
        adding = runs.add(run._link.connection, run.id, self.spec.tasks, self._request_id)
        for key, ticket in run._link.thread.run(adding):
            run.tasks[key] = TaskHandle(run._link, ticket)
        return run


class Submitter:
    """Submits work with given options; a client is one with the defaults."""

    def __init__(self, link: _Link, options: Options) -> None:
        self._link = link
        self._options = options
        self._calls = CallEncoder(options)

    def with_options(self, **options: Any) -> Submitter:
        """The same client with some `Options` changed: ``client.with_options(priority="high").submit(...)``."""
        return Submitter(self._link, self._options.but(**options))

    @property
    def schedules(self) -> Schedules:
        """Work by the clock, with the same options."""
        return Schedules(self._link.connection, self._options, self._link.thread)

    @overload
    def submit(
        self, function: Callable[Parameters, Value], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> TaskHandle[Value]: ...
    @overload
    def submit(self, function: str, *args: Any, **kwargs: Any) -> TaskHandle[Any]: ...
    def submit(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """Run ``function(*args, **kwargs)`` on the fleet. Arguments and result travel as JSON.

        The function is an importable one or its name, ``module:name``. Raises `InvalidRequest` for one that cannot be
        found by name, and for arguments that are not JSON. Returns at once: the handle knows when the task is durable
        (`TaskHandle.id`) and how it ended; blocks only while 10,000 submits are unacknowledged.
        """
        name, spec = self._calls.encode(function, args, kwargs)
        return self._submit(spec, name)

    def command(
        self, argv: Iterable[str], *, env: Mapping[str, str] | None = None, cwd: str = "", stdin: bytes | str = b""
    ) -> TaskHandle[dict[str, Any]]:
        """Run a program without a shell; its result is ``{"exit_code": 0, "output": "..."}``."""
        spec = command_spec(argv, self._options, env=env, cwd=cwd, stdin=stdin)
        return self._submit(spec.SerializeToString(), spec.command.argv[0])

    def map(
        self,
        function: Callable[..., Any] | str,
        *iterables: Iterable[Any],
        batch: int = 1,
        timeout: float | None = None,
    ) -> Iterator[Any]:
        """``function`` over the items, submitted at once, ``batch`` of them per task; the results in order.

        The first failure in that order is raised; ``timeout`` counts from the call.
        """
        left_s = _countdown(timeout)
        name = function_name(function)
        if batch == 1:
            handles = [self.submit(name, *arguments) for arguments in zip(*iterables, strict=False)]
            return (handle.result(left_s()) for handle in handles)
        handles = [self.submit("outrider.batch:call_many", name, calls) for calls in chunks(iterables, batch)]
        return (value for handle in handles for value in handle.result(left_s()))

    def _submit(self, spec: bytes, name: str) -> TaskHandle[Any]:
        connection, options = self._link.connection, self._options
        if connection.is_closed:
            raise RuntimeError("the client is closed")
        after = options.after
        ids = [item if isinstance(item, str) else item.id for item in after] if after else []
        while not connection.submissions.has_room():
            connection.submissions.room_in_threads.wait()
        return TaskHandle(self._link, connection.submit(spec, options.title or name, ids, options.request_id))


class Client(Submitter):
    """A client of one coordinator; use it with ``with``, or `close` it.

    ``address`` is HOST:PORT or unix:/PATH; without it the one in ``OUTRIDER_COORDINATOR``, or the cluster that
    `outrider up` started. ``tls`` names certificate files (default: ``OUTRIDER_TLS_*``). ``submitter`` is on whose
    behalf tasks are submitted, for fair shares (default: ``OUTRIDER_SUBMITTER``, else the user's name).
    ``signing_key`` is the key file, or an `outrider.signing.Signer`, that every task is signed with (default: the file
    in ``OUTRIDER_SIGNING_KEY``; without it nothing is signed).

    Raises `Unreachable` when nobody answers within ``connect_timeout`` seconds. Later breaks of the connection only
    delay: submits and results wait for the coordinator to come back; other calls wait for 30 s and raise `Unreachable`
    then.
    """

    def __init__(
        self,
        address: str = "",
        *,
        namespace: str = "default",
        tls: TlsFiles | None = None,
        connect_timeout: float = CONNECT_TIMEOUT_S,
        submitter: str | None = None,
        signing_key: str | os.PathLike[str] | Signer | None = None,
    ) -> None:
        who, signer = identity.submitter(submitter), signing.chosen(signing_key)
        address = discovery.coordinator_address(address)
        link = _Link(functools.partial(Connection, address, tls, namespace, who, signer), connect_timeout)
        super().__init__(link, Options())
        atexit.register(self.close)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for submits under way (at most 10 s), then disconnect. Tasks go on."""
        atexit.unregister(self.close)
        self._link.close()

    def task(self, task_id: str) -> TaskHandle[Any]:
        """A handle for a task that somebody submitted, by id or unique prefix. Raises `NotFound`."""
        connection, thread = self._link.connection, self._link.thread
        ticket = Ticket(connection.lock, thread.run(operations.find(connection, task_id)))
        thread.run(connection.attach(ticket))
        return TaskHandle(self._link, ticket)

    def find_run(self, run_id: str) -> RunHandle:
        """A handle for a run that somebody submitted, by id or unique prefix. Raises `NotFound`."""
        return RunHandle(self._link, *self._link.thread.run(runs.find(self._link.connection, run_id)))

    def run(self, title: str = "", description: str = "", **policies: Any) -> RunBuilder:
        """Begin a graph of tasks.

        ``fail_fast=True``: the first failure cancels what has not ended. ``max_parallel=N``: so many at once at most.
        ``sequential=True``: one after the other in the order added, whatever the end of the one before.
        """
        return RunBuilder(self._link, title, description, **policies)


class RunBuilder(GraphBuilder):
    """A graph in the making: `add` and `command` its tasks, then `submit` it whole."""

    def __init__(self, link: _Link, title: str, description: str, **policies: Any) -> None:
        super().__init__(title, description, **policies)
        self._link = link
        self._request_id = link.connection.request_id()

    def submit(self) -> RunHandle:
        """Accept the graph, all or nothing; submitted again, it is the same run.

        Raises `GraphCycle`, `InvalidRequest`, `QueueFull`, `TooLarge`, and `Unreachable` after 30 s.
        """
        connection = self._link.connection
        request = run_service_pb2.SubmitRunRequest(run=self.spec, request_id=self._request_id)
        return RunHandle(self._link, *self._link.thread.run(connection.submit_run(request)))


def as_completed(handles: Iterable[TaskHandle[Value]], timeout: float | None = None) -> Iterator[TaskHandle[Value]]:
    """The handles in the order in which they end. Raises TimeoutError."""
    ended: queue.SimpleQueue[TaskHandle[Value]] = queue.SimpleQueue()
    waiting = list(handles)
    left_s = _countdown(timeout)
    for handle in waiting:
        handle._ticket.when_ended(functools.partial(ended.put, handle))
    for count in range(len(waiting)):
        try:
            yield ended.get(timeout=left_s())
        except queue.Empty:
            raise TimeoutError(f"{len(waiting) - count} of {len(waiting)} tasks have not ended in time") from None


def _countdown(timeout: float | None) -> Callable[[], float | None]:
    """A function that says how many seconds are left of ``timeout``; None for no limit."""
    end_s = None if timeout is None else time.monotonic() + timeout
    return lambda: None if end_s is None else max(0.0, end_s - time.monotonic())
