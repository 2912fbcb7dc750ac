"""``client.schedules``: work by the clock, for both kinds of client.

A repeated call is harmless: making the same schedule again finds it, and orders say what shall be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from outrider.errors import InvalidRequest
from outrider.graph import GraphBuilder
from outrider.schedules import Missed, Overlap, Schedule, When, schedule_spec
from outrider.transport import schedules
from outrider.transport.connection import Connection
from outrider.transport.loop_thread import LoopThread
from outrider.work import Options, command_spec, function_spec

__all__ = ["AsyncSchedules", "Schedules"]


class AsyncSchedules:
    """Schedules of one client, whose tasks get its options."""

    def __init__(self, connection: Connection, options: Options) -> None:
        self._connection = connection
        self._options = options

    async def create(
        self,
        name: str,
        when: When,
        function: Callable[..., Any] | str,
        *args: Any,
        overlap: Overlap | str = Overlap.SKIP,
        missed: Missed | str = Missed.ONCE,
        replace: bool = False,
        **kwargs: Any,
    ) -> Schedule:
        """Call ``function(*args, **kwargs)`` at those times. See `Schedules.create`."""
        spec = schedule_spec(name, when, overlap, missed)
        spec.task.CopyFrom(function_spec(function, args, kwargs, _fitting(self._options)))
        return await schedules.create(self._connection, spec, replace=replace)

    async def create_command(
        self,
        name: str,
        when: When,
        argv: Iterable[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        overlap: Overlap | str = Overlap.SKIP,
        missed: Missed | str = Missed.ONCE,
        replace: bool = False,
    ) -> Schedule:
        """Run a program at those times. See `Schedules.create`."""
        spec = schedule_spec(name, when, overlap, missed)
        spec.task.CopyFrom(command_spec(argv, _fitting(self._options), env=env, cwd=cwd))
        return await schedules.create(self._connection, spec, replace=replace)

    async def create_run(
        self,
        name: str,
        when: When,
        graph: GraphBuilder,
        *,
        overlap: Overlap | str = Overlap.SKIP,
        missed: Missed | str = Missed.ONCE,
        replace: bool = False,
    ) -> Schedule:
        """Submit a graph, made with ``client.run()`` and not submitted, at those times. See `Schedules.create`."""
        spec = schedule_spec(name, when, overlap, missed)
        spec.run.CopyFrom(graph.spec)
        return await schedules.create(self._connection, spec, replace=replace)

    async def get(self, name: str) -> Schedule:
        """One schedule. Raises `NotFound`."""
        return await schedules.get(self._connection, name)

    async def list(self) -> list[Schedule]:
        """All schedules of the client's namespace, by name."""
        return await schedules.every(self._connection)

    async def pause(self, name: str) -> Schedule:
        """Submit nothing until it is resumed. Raises `NotFound`."""
        return await schedules.pause(self._connection, name)

    async def resume(self, name: str) -> Schedule:
        """Submit again, from now on. Raises `NotFound`."""
        return await schedules.resume(self._connection, name)

    async def delete(self, name: str) -> None:
        """Forget it; what it submitted goes on. Raises `NotFound`."""
        await schedules.delete(self._connection, name)


def _fitting(options: Options) -> Options:
    if options.after or options.request_id:
        raise InvalidRequest(
            "tasks of a schedule come after no others and have no request ids; leave those options out"
        )
    return options


class Schedules:
    """Schedules of one client, whose tasks get its options."""

    def __init__(self, connection: Connection, options: Options, thread: LoopThread) -> None:
        self._schedules = AsyncSchedules(connection, options)
        self._run = thread.run

    def create(
        self,
        name: str,
        when: When,
        function: Callable[..., Any] | str,
        *args: Any,
        overlap: Overlap | str = Overlap.SKIP,
        missed: Missed | str = Missed.ONCE,
        replace: bool = False,
        **kwargs: Any,
    ) -> Schedule:
        """Call ``function(*args, **kwargs)`` at those times: one task each time.

        ``overlap`` says what happens when the task before has not ended, ``missed`` what happens after times that
        passed while the coordinator was down. The same schedule again is found; another one of that name needs
        ``replace``. Raises `InvalidRequest` for a time that never comes, a zone that is none and what `submit` refuses,
        `RequestIdReused` when the name is taken.
        """
        options: dict[str, Any] = {"overlap": overlap, "missed": missed, "replace": replace}
        return self._run(self._schedules.create(name, when, function, *args, **options, **kwargs))

    def create_command(self, name: str, when: When, argv: Iterable[str], **options: Any) -> Schedule:
        """Run a program at those times: options as of `AsyncSchedules.create_command`."""
        return self._run(self._schedules.create_command(name, when, argv, **options))

    def create_run(self, name: str, when: When, graph: GraphBuilder, **options: Any) -> Schedule:
        """Submit a graph, made with ``client.run()`` and not submitted, at those times; options as of `create`."""
        return self._run(self._schedules.create_run(name, when, graph, **options))

    def get(self, name: str) -> Schedule:
        """One schedule. Raises `NotFound`."""
        return self._run(self._schedules.get(name))

    def list(self) -> list[Schedule]:
        """All schedules of the client's namespace, by name."""
        return self._run(self._schedules.list())

    def pause(self, name: str) -> Schedule:
        """Submit nothing until it is resumed. Raises `NotFound`."""
        return self._run(self._schedules.pause(name))

    def resume(self, name: str) -> Schedule:
        """Submit again, from now on. Raises `NotFound`."""
        return self._run(self._schedules.resume(name))

    def delete(self, name: str) -> None:
        """Forget it; what it submitted goes on. Raises `NotFound`."""
        self._run(self._schedules.delete(name))
