"""What every service shares: errors to statuses, replies of the core awaited, ids found by prefix, how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from typing import Any, NoReturn, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from outrider import errors, status
from outrider_coordinator.core.effects import Refused
from outrider_coordinator.engine import Engine
from outrider_coordinator.store.reader import Ambiguous

logger = logging.getLogger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]


class Service:
    """One service of a daemon that may be told to stop: what is under way is answered first."""

    def __init__(self) -> None:
        self.is_draining = False
        #: Calls and frames of submissions since the start, and those not answered yet.
        self.begun = 0
        self.under_way = 0
        self._streams: set[asyncio.Task[Any]] = set()

    def check_open(self) -> None:
        """Raises `Draining` when no more work is taken."""
        if self.is_draining:
            raise draining()

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Count one call, or one frame of a stream, until it is answered."""
        self.begun += 1
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    @contextlib.contextmanager
    def open_stream(self) -> Iterator[None]:
        """Let the current stream be ended by `end_streams`."""
        stream = asyncio.current_task()
        assert stream is not None
        self._streams.add(stream)
        try:
            yield
        finally:
            self._streams.discard(stream)

    def end_streams(self) -> None:
        """End every stream with `Draining`; only once ``is_draining``."""
        for stream in self._streams:
            stream.cancel()


def draining() -> errors.Draining:
    """What new work, and every open stream, is told."""
    return errors.Draining("the coordinator is stopping; try again in a moment")


def unreadable() -> errors.InvalidRequest:
    """What is said of bytes that are no message of the method."""
    return errors.InvalidRequest("what was sent is no message of this method; use stubs of this version")


def raised(refused: Refused) -> errors.OutriderError:
    """The error that a refusal of the core travels as."""
    violations = (errors.FieldViolation(refused.field, refused.message),) if refused.field else ()
    return status.error_class(refused.reason)(refused.message, violations=violations)


async def asked(engine: Engine, make: Callable[[Callable[[Any], None]], Any]) -> Any:
    """Post the event that ``make`` builds around a reply, and wait for the reply. A refusal is raised."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def reply(value: Any) -> None:
        if not future.done():
            future.set_result(value)

    engine.post(make(reply))
    value = await future
    if isinstance(value, Refused):
        raise raised(value)
    return value


async def sliced(work: Generator[None, None, Response]) -> Response:
    """Do long work of the core slice by slice: between them everything else goes on."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return cast(Response, end.value)
        await asyncio.sleep(0)


async def abort(context: Context, error: BaseException) -> NoReturn:
    """End a call with the status of an error; an unexpected one gets an id that the log has too."""
    if isinstance(error, DecodeError):
        error = unreadable()
    if not isinstance(error, errors.OutriderError):
        error_id = secrets.token_hex(4)
        logger.error("internal error %s", error_id, exc_info=error)
        error = errors.Internal(f"internal error {error_id}; the coordinator's log says more under that id")
    code, message, metadata = status.trailing_metadata(error)
    await context.abort(code, message, metadata)


def unary(
    method: Callable[[Any, Request, Context], Awaitable[Response]],
) -> Callable[[Any, Request, Context], Awaitable[Response]]:
    """Let a unary handler of a `Service` raise our errors."""

    async def handler(self: Any, request: Request, context: Context) -> Response:
        try:
            with self.answering():
                return await method(self, request, context)
        except Exception as error:
            if isinstance(error, grpc.aio.AbortError):
                raise
            await abort(context, error)

    return handler


def streaming(
    method: Callable[[Any, Request, Context], AsyncIterator[Response]],
) -> Callable[[Any, Request, Context], AsyncIterator[Response]]:
    """Let a streaming handler of a `Service` raise our errors, and end with `Draining` when the service stops."""

    async def handler(self: Any, request: Request, context: Context) -> AsyncIterator[Response]:
        try:
            with self.open_stream():
                async for response in method(self, request, context):
                    yield response
        except asyncio.CancelledError:
            if not self.is_draining:
                raise
            await abort(context, draining())
        except Exception as error:
            if isinstance(error, grpc.aio.AbortError):
                raise
            await abort(context, error)

    return handler


def encoded(
    method: Callable[[Any, Request, Context], AsyncIterator[bytes]],
) -> Callable[[Any, Request, Context], AsyncIterator[Any]]:
    """A streaming handler that gives its responses serialized: `registry_of` leaves them as they are."""
    method.is_encoded = True  # type: ignore[attr-defined]  # a mark that `_Registry` reads
    return method


def registry_of(server: grpc.aio.Server, guarded: Callable[[str, Any], Any]) -> grpc.aio.Server:
    """What the generated code adds a service to instead of the server: ``guarded`` gets the path of every method and
    its handler, and gives the one to call; `encoded` handlers pass bytes.
    """
    return cast(grpc.aio.Server, _Registry(server, guarded))


class _Registry:
    """The two methods of a server by which handlers are added."""

    def __init__(self, server: grpc.aio.Server, guarded: Callable[[str, Any], Any]) -> None:
        self._server = server
        self._guarded = guarded

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing: the same handlers come with their names next."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the methods of one service."""
        passed = {name: self._passed(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, passed)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, passed),))

    def _passed(self, path: str, handler: Any) -> Any:
        if _is_encoded(handler):
            handler = handler._replace(response_serializer=None)
        return self._guarded(path, handler)


def _is_encoded(handler: Any) -> bool:
    method = handler.unary_stream or handler.stream_stream
    return getattr(method, "is_encoded", False)


async def task_id_of(engine: Engine, namespace: str, prefix: str) -> str:
    """The full id of a task. Raises NotFound, or InvalidRequest for a prefix that is too short or not unique."""
    if len(prefix) == 32 and (task := engine.state.tasks.get(prefix)) is not None and task.namespace == namespace:
        return prefix
    _check_prefix(prefix, "task_id")
    found = await engine.read(lambda: engine.store.reader.task_id(namespace, prefix))
    return _found(found, prefix, "task")


async def run_id_of(engine: Engine, namespace: str, prefix: str) -> str:
    """The full id of a run; errors as `task_id_of`."""
    _check_prefix(prefix, "run_id")
    found = await engine.read(lambda: engine.store.reader.run_id(namespace, prefix))
    return _found(found, prefix, "run")


def _check_prefix(prefix: str, field: str) -> None:
    if len(prefix) < 4:
        message = f"{prefix!r} is too short; give at least 4 digits of the id"
        raise errors.InvalidRequest(message, violations=(errors.FieldViolation(field, message),))


def _found(found: str | Ambiguous | None, prefix: str, noun: str) -> str:
    if found is None:
        raise errors.NotFound(f"no {noun} {prefix!r}; `outrider {noun} list` shows those there are")
    if isinstance(found, Ambiguous):
        raise errors.InvalidRequest(f"{prefix!r} is the beginning of several {noun} ids; give more digits")
    return found
