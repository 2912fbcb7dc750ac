"""A graph of tasks in the making, for both kinds of client. Pure: no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from outrider.errors import InvalidRequest
from outrider.v1 import run_service_pb2, task_pb2
from outrider.work import Options, command_spec, function_spec

__all__ = ["GraphBuilder"]


class GraphBuilder:
    """Collects the tasks of a run. ``spec`` is what has been added so far."""

    def __init__(self, title: str, description: str) -> None:
        self.spec = run_service_pb2.RunSpec(title=title, description=description)
        self._keys: set[str] = set()

    def add(
        self,
        key: str,
        function: Callable[..., Any] | str,
        *args: Any,
        after: Iterable[str] = (),
        inputs_argument: str = "",
        options: Options | None = None,
        **kwargs: Any,
    ) -> str:
        """Add a call; returns ``key``.

        It starts when the tasks with the keys ``after`` (one or several) have succeeded; with
        ``inputs_argument`` it gets their results by key in that keyword argument. Raises `InvalidRequest` as
        `Client.submit`, and for a key used before.
        """
        options = options or Options()
        if inputs_argument:
            options = options.but(inputs_argument=inputs_argument)
        return self._add(key, function_spec(function, args, kwargs, options), after, options)

    def command(
        self,
        key: str,
        argv: Iterable[str],
        *,
        after: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        stdin: bytes | str = b"",
        options: Options | None = None,
    ) -> str:
        """Add a program; returns ``key``. Results of the tasks before it are in the file ``$OUTRIDER_INPUTS``."""
        options = options or Options()
        return self._add(key, command_spec(argv, options, env=env, cwd=cwd, stdin=stdin), after, options)

    def _add(self, key: str, spec: task_pb2.TaskSpec, after: Iterable[str], options: Options) -> str:
        if key in self._keys:
            raise InvalidRequest(f"the run has a task {key!r} already; give each its own key")
        if options.after or options.request_id:
            raise InvalidRequest(f"task {key!r}: a run is accepted whole; give `after` to add(), and no request_id")
        self._keys.add(key)
        self.spec.tasks.add(key=key, spec=spec, after_keys=[after] if isinstance(after, str) else list(after))
        return key
