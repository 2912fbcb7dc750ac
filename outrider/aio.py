"""The asyncio client.

    async with outrider.aio.Client() as client:
        handle = await client.submit(math.sqrt, 2)
        print(await handle)

`submit` returns as soon as the request is on its way; the handle knows when it is durable (`accepted`) and how it
ended (`result`). Everything here belongs to the loop the client was made on.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from typing import Any, Generic, ParamSpec, TypeVar, overload

from outrider import discovery, identity, signing, views
from outrider.channel import TlsFiles
from outrider.errors import OutriderError
from outrider.graph import GraphBuilder
from outrider.schedule_client import AsyncSchedules
from outrider.signing import Signer
from outrider.transport import operations, runs
from outrider.transport.connection import Connection
from outrider.transport.encoding import CallEncoder
from outrider.transport.tickets import Ticket
from outrider.v1 import run_service_pb2
from outrider.work import Options, Seconds, command_spec, function_name, seconds

__all__ = ["Client", "RunAddition", "RunBuilder", "RunHandle", "Submitter", "TaskHandle", "as_completed"]

CONNECT_TIMEOUT_S = 10.0
FLUSH_TIMEOUT_S = 10.0

Parameters = ParamSpec("Parameters")
Value = TypeVar("Value")


class TaskHandle(Generic[Value]):
    """One task. ``await handle`` gives its result."""

    def __init__(self, connection: Connection, ticket: Ticket) -> None:
        self._connection = connection
        self._ticket = ticket
        self._ended: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"<TaskHandle {self._ticket.task_id or 'on its way'}>"

    @property
    def id(self) -> str:
        """Full id; empty until accepted."""
        return self._ticket.task_id

    async def accepted(self) -> str:
        """Wait until the coordinator has it on disk; its id. Raises why it was refused."""
        if not self._ticket.is_accepted:
            await _called(self._ticket.when_accepted)
        if not self._ticket.task_id:
            raise self._ticket.failure or RuntimeError("accepted without an id")
        return self._ticket.task_id

    def done(self) -> bool:
        """Whether it has ended."""
        return self._ticket.is_ended

    async def exception(self, timeout: float | None = None) -> OutriderError | None:
        """Wait for its end; why there is no result, None when there is one. Raises TimeoutError."""
        await self._wait(timeout)
        if self._ticket.event is None:
            return self._ticket.failure
        return views.failure_of(self._ticket.event)

    async def _wait(self, timeout: float | None) -> None:
        if self._ticket.is_ended:
            return
        if self._ended is None:
            self._ended = asyncio.Event()
            self._ticket.when_ended(self._ended.set)
        try:
            await asyncio.wait_for(self._ended.wait(), timeout)
        except TimeoutError:
            text = f"task {self._ticket.task_id[:16]} has not ended within {timeout} s; it goes on"
            raise TimeoutError(text) from None

    async def result(self, timeout: float | None = None) -> Value:
        """Wait for its end; what it returned, after JSON. Raises TaskFailed and its like, or TimeoutError."""
        failure = await self.exception(timeout)
        if failure is not None or self._ticket.event is None:
            raise failure or RuntimeError("ended without an event")
        value: Value = views.payload_value(self._ticket.event.completed.result)
        return value

    def __await__(self) -> Generator[Any, None, Value]:
        return self.result().__await__()

    async def state(self) -> views.TaskState:
        """Where it is now."""
        if self._ticket.event is not None:
            return views.final_state(self._ticket.event)
        return await operations.state(self._connection, await self.accepted())

    async def waits(self) -> list[views.Wait]:
        """What it waits for now."""
        return await operations.waits(self._connection, await self.accepted())

    async def events(self) -> AsyncIterator[views.TaskEvent]:
        """Its events from the beginning to its end, also across restarts of the coordinator."""
        async for event in operations.events(self._connection, await self.accepted()):
            yield event

    async def logs(self, *, follow: bool = False) -> AsyncIterator[str]:
        """Captured output of the latest attempt, piece by piece; following ends with the task."""
        async for log in operations.logs(self._connection, await self.accepted(), follow=follow):
            yield log.data.decode(errors="replace")

    async def on_progress(self, callback: Callable[[views.Progress], None]) -> None:
        """Call back on the loop with the latest progress and every later report, as the blocking client."""
        await self.accepted()
        self._connection.progress.subscribe(self.id, lambda message: callback(views.Progress.read(message)))

    def add_done_callback(self, callback: Callable[[TaskHandle[Value]], None]) -> None:
        """Call back on the loop, once, when it has ended."""
        loop = asyncio.get_running_loop()
        self._ticket.when_ended(functools.partial(_soon, loop, callback, self))

    async def cancel(self, message: str = "") -> bool:
        """Cancel it; True when the cancel decides its outcome, False when it had ended before."""
        return await operations.cancel(self._connection, await self.accepted(), message)

    async def answer(self, value: Any, key: str = "") -> str:
        """Resolve what it waits for (``key`` empty: whatever that is) with a JSON value; the key resolved."""
        return await operations.answer(self._connection, await self.accepted(), value, key)

    async def extend(self, duration: Seconds, key: str = "") -> str:
        """Grant more running time to what asks for it; the key resolved."""
        task_id = await self.accepted()
        return await operations.answer(self._connection, task_id, "yes", key, granted_s=seconds(duration))

    async def refuse(self, text: str = "", key: str = "") -> str:
        """End what it waits for without it; the task is told why. The key resolved."""
        return await operations.answer(self._connection, await self.accepted(), text, key, refuse=True)

    async def retry(self) -> TaskHandle[Value]:
        """Submit its work again as a new task, with the results it had as inputs; it must have ended."""
        return TaskHandle(self._connection, await runs.retry_task(self._connection, await self.accepted()))

    async def explain(self) -> views.Explanation:
        """Why it is where it is, agent by agent."""
        return await operations.explain(self._connection, await self.accepted())


class RunHandle:
    """A graph of tasks that was accepted. ``tasks`` holds a handle for every key, in the order added."""

    def __init__(self, connection: Connection, run: run_service_pb2.Run, tickets: list[Ticket]) -> None:
        self._connection = connection
        self.id: str = run.id
        self.tasks: dict[str, TaskHandle[Any]] = {
            member.key: TaskHandle(connection, ticket) for member, ticket in zip(run.task_ids, tickets, strict=True)
        }

    async def result(self, key: str, timeout: float | None = None) -> Any:
        """Result of one task; errors as `TaskHandle.result`."""
        return await self.tasks[key].result(timeout)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until every task has ended; whether all succeeded. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            failures = [await handle.exception() for handle in self.tasks.values()]
        return not any(failures)

    async def events(self) -> AsyncIterator[views.TaskEvent]:
        """Events of all its tasks, from the beginning to its end."""
        async for event in operations.run_events(self._connection, self.id):
            yield event

    async def cancel(self, message: str = "") -> int:
        """Cancel what has not ended; how many tasks that decides."""
        return await operations.cancel_run(self._connection, self.id, message)

    async def progress(self) -> views.RunProgress:
        """How far it is; ``str()`` of it is made for people."""
        return await runs.progress(self._connection, self.id)

    async def retry(self) -> RunHandle:
        """Do again what did not succeed, as a new run; results that are there are inputs as before.

        Raises `IllegalTransition` when it is not over, or all of it succeeded.
        """
        return RunHandle(self._connection, *(await runs.retry(self._connection, self.id)))

    def more(self) -> RunAddition:
        """Begin an addition: tasks that may come after any that are there, also ended ones."""
        return RunAddition(self)


class RunAddition(GraphBuilder):
    """Tasks to be added to a run: `add` and `command` them, then `submit` all of them or none."""

    def __init__(self, run: RunHandle) -> None:
        super().__init__()
        self._run = run
        self._request_id = run._connection.request_id()

    async def submit(self) -> RunHandle:
        """Accept them; the handle of the run, with handles of theirs. Submitted again, they are the same tasks.

        Raises `InvalidRequest`, `GraphCycle`, `QueueFull`, `TooLarge`, and `IllegalTransition` when the run is over.
        """
        run = self._run
        adding = runs.add(run._connection, run.id, self.spec.tasks, self._request_id)
        for key, ticket in await adding:
            run.tasks[key] = TaskHandle(run._connection, ticket)
        return run


class Submitter:
    """Submits work with given options; a client is one with the defaults."""

    def __init__(self, connection: Connection | None, options: Options) -> None:
        self._opened = connection
        self._options = options
        self._calls = CallEncoder(options)

    @property
    def _connection(self) -> Connection:
        if self._opened is None:
            raise RuntimeError("the client is not connected; write `async with outrider.aio.Client() as client`")
        return self._opened

    def with_options(self, **options: Any) -> Submitter:
        """The same client with some `Options` changed: ``client.with_options(priority="high").submit(...)``."""
        return Submitter(self._connection, self._options.but(**options))

    @property
    def schedules(self) -> AsyncSchedules:
        """Work by the clock, with the same options."""
        return AsyncSchedules(self._connection, self._options)

    @overload
    async def submit(
        self, function: Callable[Parameters, Value], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> TaskHandle[Value]: ...
    @overload
    async def submit(self, function: str, *args: Any, **kwargs: Any) -> TaskHandle[Any]: ...
    async def submit(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """Run ``function(*args, **kwargs)`` on the fleet. Arguments and result travel as JSON.

        The function is an importable one or its name, ``module:name``. Raises `InvalidRequest` for one that cannot be
        found by name, and for arguments that are not JSON. Waits only while 10,000 submits are unacknowledged.
        """
        name, spec = self._calls.encode(function, args, kwargs)
        return await self._submit(spec, name)

    async def command(
        self, argv: Iterable[str], *, env: Mapping[str, str] | None = None, cwd: str = "", stdin: bytes | str = b""
    ) -> TaskHandle[dict[str, Any]]:
        """Run a program without a shell; its result is ``{"exit_code": 0, "output": "..."}``."""
        spec = command_spec(argv, self._options, env=env, cwd=cwd, stdin=stdin)
        return await self._submit(spec.SerializeToString(), spec.command.argv[0])

    async def map(self, function: Callable[..., Any] | str, *iterables: Iterable[Any], batch: int = 1) -> list[Any]:
        """``function`` over the items, ``batch`` of them per task; the results in order, or the first failure."""
        name = function_name(function)
        if batch == 1:
            singles = [await self.submit(name, *arguments) for arguments in zip(*iterables, strict=False)]
            return [await handle for handle in singles]
        handles = [await self.submit("outrider.batch:call_many", name, calls) for calls in chunks(iterables, batch)]
        return [value for handle in handles for value in await handle]

    async def _submit(self, spec: bytes, name: str) -> TaskHandle[Any]:
        connection, options = self._connection, self._options
        if connection.is_closed:
            raise RuntimeError("the client is closed")
        after = options.after
        ids = [item if isinstance(item, str) else await item.accepted() for item in after] if after else []
        while not connection.submissions.has_room():
            await connection.submissions.room.wait()
        return TaskHandle(connection, connection.submit(spec, options.title or name, ids, options.request_id))


class Client(Submitter):
    """A client of one coordinator; use it as ``async with``.

    ``address`` is HOST:PORT or unix:/PATH; without it the one in ``OUTRIDER_COORDINATOR``, or the cluster that
    `outrider up` started. ``tls`` names certificate files (default: ``OUTRIDER_TLS_*``). ``submitter`` is on whose
    behalf tasks are submitted, for fair shares (default: ``OUTRIDER_SUBMITTER``, else the user's name).
    ``signing_key`` is the key file, or an `outrider.signing.Signer`, that every task is signed with (default: the file
    in ``OUTRIDER_SIGNING_KEY``; without it nothing is signed).
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
        super().__init__(None, Options())
        who, signer = identity.submitter(submitter), signing.chosen(signing_key)
        self._settings = (discovery.coordinator_address(address), tls, namespace, who, signer)
        self._connect_timeout_s = connect_timeout

    async def __aenter__(self) -> Client:
        self._opened = Connection(*self._settings)
        await self._opened.open(self._connect_timeout_s)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for submits under way (at most 10 s), then disconnect. Tasks go on."""
        if self._opened is not None:
            await self._opened.close(FLUSH_TIMEOUT_S)

    async def task(self, task_id: str) -> TaskHandle[Any]:
        """A handle for a task that somebody submitted, by id or unique prefix. Raises `NotFound`."""
        ticket = Ticket(self._connection.lock, await operations.find(self._connection, task_id))
        await self._connection.attach(ticket)
        return TaskHandle(self._connection, ticket)

    async def find_run(self, run_id: str) -> RunHandle:
        """A handle for a run that somebody submitted, by id or unique prefix. Raises `NotFound`."""
        return RunHandle(self._connection, *(await runs.find(self._connection, run_id)))

    def run(self, title: str = "", description: str = "", **policies: Any) -> RunBuilder:
        """Begin a graph of tasks.

        ``fail_fast=True``: the first failure cancels what has not ended. ``max_parallel=N``: so many at once at most.
        ``sequential=True``: one after the other in the order added, whatever the end of the one before.
        """
        return RunBuilder(self._connection, title, description, **policies)


class RunBuilder(GraphBuilder):
    """A graph in the making: `add` and `command` its tasks, then `submit` it whole."""

    def __init__(self, connection: Connection, title: str, description: str, **policies: Any) -> None:
        super().__init__(title, description, **policies)
        self._connection = connection
        self._request_id = connection.request_id()

    async def submit(self) -> RunHandle:
        """Accept the graph, all or nothing; submitted again, it is the same run.

        Raises `GraphCycle`, `InvalidRequest`, `QueueFull`, `TooLarge`, and `Unreachable` after 30 s.
        """
        request = run_service_pb2.SubmitRunRequest(run=self.spec, request_id=self._request_id)
        return RunHandle(self._connection, *await self._connection.submit_run(request))


async def as_completed(
    handles: Iterable[TaskHandle[Value]], timeout: float | None = None
) -> AsyncIterator[TaskHandle[Value]]:
    """The handles in the order in which they end. Raises TimeoutError."""
    ended: asyncio.Queue[TaskHandle[Value]] = asyncio.Queue()
    waiting = list(handles)
    for handle in waiting:
        handle.add_done_callback(ended.put_nowait)
    loop = asyncio.get_running_loop()
    end_s = None if timeout is None else loop.time() + timeout
    for count in range(len(waiting)):
        if ended.empty():
            await asyncio.sleep(0)  # those that have ended already are told about in the loop's next round
        left_s = None if end_s is None else max(0.0, end_s - loop.time())
        try:
            handle = await asyncio.wait_for(ended.get(), left_s) if ended.empty() else ended.get_nowait()
        except TimeoutError:
            raise TimeoutError(f"{len(waiting) - count} of {len(waiting)} tasks have not ended in time") from None
        yield handle


def chunks(iterables: tuple[Iterable[Any], ...], size: int) -> list[list[tuple[Any, ...]]]:
    """Positional arguments of each call, ``size`` calls together."""
    if size < 1:
        raise ValueError(f"batch must be at least 1, not {size}")
    calls = list(zip(*iterables, strict=False))
    return [calls[start : start + size] for start in range(0, len(calls), size)]


def _soon(loop: asyncio.AbstractEventLoop, callback: Callable[[Any], None], value: Any) -> None:
    loop.call_soon(callback, value)


async def _called(register: Callable[[Callable[[], None]], None]) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    register(lambda: None if future.done() else future.set_result(None))
    await future
