"""The guard in front of every method: who calls, whether they may, what is written down, and when a stream must end.

Wraps handlers as they are registered, so that none can be forgotten: a method without a rule refuses everybody. It must
not know what a method does. Handlers read `principals.caller`.

Invariants: no handler runs before its caller was admitted, and no refused call leaves no line in the audit log; a
stream ends within a second of its caller's credential being revoked, and within `RECHECK_S` of its expiry.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import grpc

from outrider import status
from outrider.errors import OutriderError, PermissionDenied, RateLimited, StoreUnavailable, Unauthenticated
from outrider_coordinator.access.audit import Audit, Entry
from outrider_coordinator.access.identity import Identities
from outrider_coordinator.access.principals import LOCAL, Door, Principal, Role, caller
from outrider_coordinator.access.quotas import Quotas
from outrider_coordinator.access.rules import Need, need_of

__all__ = ["RECHECK_S", "Guard"]

logger = logging.getLogger(__name__)

#: How often open streams are asked again whether they may go on.
RECHECK_S = 30.0
#: What a line of the audit log says a call was about: the first of these that the request has.
_TARGETS = (
    "task_id",
    "run_id",
    "schedule_id",
    "agent_id",
    "system",
    "key",
    "credential_id",
    "token_id",
    "user",
    "name",
)

Context = grpc.aio.ServicerContext[Any, Any]


class _Noted:
    """A call's context that writes a refusal down before the caller hears of it."""

    def __init__(self, context: Context, note: Callable[[str, Context], None], verdict: str = "") -> None:
        self._context = context
        self._note = note
        self._verdict = verdict

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """As the context's."""
        with contextlib.suppress(StoreUnavailable):  # it is refused all the same, and the daemon's log has it
            self._note(self._verdict or code.name, self._context)
        await self._context.abort(code, details, trailing_metadata)


class _Stream:
    """An open stream, its caller, and the task that serves it."""

    def __init__(self, principal: Principal, task: asyncio.Task[Any]) -> None:
        self.principal = principal
        self.task = task
        self.is_refused = False


class Guard:
    """One coordinator's guard: who calls, how much of it they may have, and where that is written down."""

    def __init__(self, identities: Identities, audit: Audit, quotas: Quotas) -> None:
        self._identities = identities
        self._quotas = quotas
        self._audit = audit
        self._streams: set[_Stream] = set()

    def guarded(self, door: Door, path: str, handler: Any) -> Any:
        """The handler of ``/package.Service/Method`` at a door, with the guard in front."""
        need = need_of(path)
        if door is Door.LOCAL and need is not None and not _is_noted(need, door):
            return handler  # whoever is here may do everything, and looking leaves no line
        if handler.request_streaming or handler.response_streaming:
            behind = handler.stream_stream or handler.unary_stream
            stream = self._stream(door, path, need, behind, is_fed=handler.request_streaming)
            field = "stream_stream" if handler.request_streaming else "unary_stream"
            return handler._replace(**{field: stream})
        return handler._replace(unary_unary=self._unary(door, path, need, handler.unary_unary))

    def recheck(self) -> None:
        """End every stream whose caller may not go on; call it after each change of the book, too."""
        for stream in [*self._streams]:
            if not self._identities.is_still(stream.principal):
                stream.is_refused = True
                stream.task.cancel()

    async def keep_rechecking(self) -> None:
        """Ask all open streams again, for ever; also syncs the audit log."""
        while True:
            for _ in range(int(RECHECK_S)):
                await asyncio.sleep(1.0)
                await asyncio.to_thread(self._synced)
            self.recheck()

    def _synced(self) -> None:
        try:
            self._audit.sync()
        except OSError as error:
            logger.error("the audit log cannot be synced: %s", error)

    def _unary(self, door: Door, path: str, need: Need | None, method: Any) -> Callable[[Any, Context], Awaitable[Any]]:
        is_noted = _is_noted(need, door)

        async def handle(request: Any, context: Context) -> Any:
            principal = await self._admitted(door, path, need, request, context)
            caller.set(principal)  # each call has its own context
            return await method(request, self._noted(principal, path, request, context) if is_noted else context)

        return handle

    def _stream(
        self, door: Door, path: str, need: Need | None, method: Any, *, is_fed: bool
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        is_noted = _is_noted(need, door)

        async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
            principal = await self._admitted(door, path, need, None if is_fed else request, context)
            caller.set(principal)
            noted = self._noted(principal, path, None, context)
            if is_fed and need is not None and need.is_namespaced and principal.namespaces:
                request = _checked(request, principal)
            with self._open(principal) as stream:
                try:
                    with self._quotas.stream(principal):
                        async for response in method(request, noted if is_noted else context):
                            yield response
                except RateLimited as error:
                    await _abort(noted, error)
                except asyncio.CancelledError:
                    if not stream.is_refused:
                        raise
                    ended = self._noted(principal, path, None, context, "ended")
                    await _abort(ended, Unauthenticated("what the caller showed is not good any more"))

        return handle

    @contextlib.contextmanager
    def _open(self, principal: Principal) -> Iterator[_Stream]:
        task = asyncio.current_task()
        assert task is not None
        stream = _Stream(principal, task)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    async def _admitted(self, door: Door, path: str, need: Need | None, request: Any, context: Context) -> Principal:
        """Who calls, once it is clear that they may; the call ends here otherwise."""
        principal: Principal | None = None
        try:
            principal = self._known(door, need, context)
            _judge(principal, path, need, request)
            self._quotas.call(principal)
            if _is_noted(need, door):
                self._note(principal, path, request, "allowed", context)
        except OutriderError as error:
            await _abort(self._noted(principal, path, request, context), error)
        return principal

    def _noted(self, principal: Principal | None, path: str, request: Any, context: Context, verdict: str = "") -> Any:
        return _Noted(context, partial(self._note, principal, path, request), verdict)

    def _known(self, door: Door, need: Need | None, context: Context) -> Principal:
        if door is Door.TOKEN and need is not None and need.role is None:
            return Principal("", Role.VIEWER, door=door)
        if door is Door.LOCAL:
            return LOCAL
        return self._identities.principal(door, context.auth_context(), tuple(context.invocation_metadata() or ()))

    def _note(self, principal: Principal | None, path: str, request: Any, verdict: str, context: Context) -> None:
        who, credential = (principal.name, principal.credential) if principal is not None else ("", "")
        door = principal.door.value if principal is not None else ""
        target = next((f"{name}={getattr(request, name)}" for name in _TARGETS if getattr(request, name, "")), "")
        namespace = getattr(request, "namespace", "")
        about = " ".join(part for part in (target, f"namespace={namespace}" if namespace else "") if part)
        try:
            self._audit.append(Entry(who, credential, door, context.peer(), path.removeprefix("/"), about, verdict))
        except OSError as error:
            logger.error("the audit log cannot be written: %s", error)
            raise StoreUnavailable("the audit log cannot be written, so nothing is changed; see the log") from None


def _is_noted(need: Need | None, door: Door) -> bool:
    """Changes are written down; of work that this machine's own user submits there is a record anyhow: the tasks."""
    if need is None or not need.is_change:
        return False
    return not (door is Door.LOCAL and need.role in (Role.VIEWER, Role.SUBMITTER))


def _judge(principal: Principal, path: str, need: Need | None, request: Any) -> None:
    """Raises `PermissionDenied` when this caller may not make this call."""
    method = path.rpartition(".")[2]
    if need is None:
        raise PermissionDenied(f"nobody may call {method}")
    if need.role is None:
        if principal.door is Door.CERTIFICATE:
            raise PermissionDenied(f"{method} is answered at the join port only")
        return
    if principal.door is Door.LOCAL:
        return
    if not principal.role.includes(need.role):
        have, want = principal.role.name.lower(), need.role.name.lower()
        raise PermissionDenied(
            f"{principal.name!r} has the role {have}, and {method} takes {want}; an administrator can change that"
        )
    if need.is_namespaced and principal.namespaces and request is not None:
        _judge_namespaces(principal, request)


def _judge_namespaces(principal: Principal, request: Any) -> None:
    for namespace in _namespaces(request):
        if not principal.reaches(namespace):
            raise PermissionDenied(
                f"{principal.name!r} does not reach the namespace {namespace or 'default'!r}, "
                f"only {', '.join(sorted(principal.namespaces))}"
            )


def _namespaces(request: Any) -> Iterator[str]:
    """Every namespace that a request names: its own, or those of the tasks in it."""
    fields = request.DESCRIPTOR.fields_by_name
    if "namespace" in fields:
        yield request.namespace
    elif "submissions" in fields:
        yield from (task.namespace for task in request.submissions.tasks)
    else:
        yield from (task.namespace for task in request.tasks)


async def _checked(requests: AsyncIterator[Any], principal: Principal) -> AsyncIterator[Any]:
    """The frames of a stream, each held against the namespaces of its caller."""
    async for request in requests:
        _judge_namespaces(principal, request)
        yield request


async def _abort(context: _Noted, error: OutriderError) -> NoReturn:
    code, message, metadata = status.trailing_metadata(error)
    await context.abort(code, message, metadata)
