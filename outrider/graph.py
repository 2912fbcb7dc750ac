"""A graph of tasks in the making, for both kinds of client. Pure: no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from outrider.errors import InvalidRequest, TooLarge
from outrider.v1 import run_service_pb2, task_pb2
from outrider.work import Options, command_spec, function_spec

__all__ = ["After", "GraphBuilder"]

#: Tasks of one run.
TASKS_MAX = 10_000
CONDITIONS = {
    "success": task_pb2.DEPENDENCY_CONDITION_SUCCESS,
    "failure": task_pb2.DEPENDENCY_CONDITION_FAILURE,
    "always": task_pb2.DEPENDENCY_CONDITION_ALWAYS,
}
#: One key, several, or keys with their conditions.
After = str | Iterable[str] | Mapping[str, str]


class GraphBuilder:
    """Collects the tasks of a run. ``spec`` is what has been added so far."""

    def __init__(
        self,
        title: str = "",
        description: str = "",
        *,
        fail_fast: bool = False,
        max_parallel: int = 0,
        sequential: bool = False,
    ) -> None:
        if not 0 <= max_parallel < 2**32:
            raise InvalidRequest(f"max_parallel counts tasks, 0 for no bound; it cannot be {max_parallel}")
        self.spec = run_service_pb2.RunSpec(
            title=title, description=description, max_parallel=max_parallel, sequential=sequential
        )
        if fail_fast:
            self.spec.failure_policy = run_service_pb2.RUN_FAILURE_POLICY_FAIL_FAST
        self._keys: set[str] = set()

    def add(
        self,
        key: str,
        function: Callable[..., Any] | str,
        *args: Any,
        after: After = (),
        phase: int = 0,
        milestone: str = "",
        inputs_argument: str = "",
        options: Options | None = None,
        **kwargs: Any,
    ) -> str:
        """Add a call; returns ``key``.

        It starts when the tasks with the keys ``after`` (one or several) have succeeded, or ended as a mapping of keys
        to ``"success"``, ``"failure"`` or ``"always"`` says; and, in a later ``phase``, when all of the lower ones
        have ended. With ``inputs_argument`` it gets their results by key in that keyword argument, None where there is
        none. Tasks with one ``milestone`` reach it when all have succeeded. Raises `InvalidRequest` as
        `Client.submit`, and for a key used before.
        """
        options = options or Options()
        if inputs_argument:
            options = options.but(inputs_argument=inputs_argument)
        return self.put(key, function_spec(function, args, kwargs, options), options, after, phase, milestone)

    def command(
        self,
        key: str,
        argv: Iterable[str],
        *,
        after: After = (),
        phase: int = 0,
        milestone: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        stdin: bytes | str = b"",
        options: Options | None = None,
    ) -> str:
        """Add a program; returns ``key``. Results of the tasks before it are in the file ``$OUTRIDER_INPUTS``."""
        options = options or Options()
        spec = command_spec(argv, options, env=env, cwd=cwd, stdin=stdin)
        return self.put(key, spec, options, after, phase, milestone)

    def put(self, key: str, spec: task_pb2.TaskSpec, options: Options, after: After, phase: int, milestone: str) -> str:
        """Add a spec that was made with these options."""
        if key in self._keys:
            raise InvalidRequest(f"the run has a task {key!r} already; give each its own key")
        if options.after or options.request_id:
            raise InvalidRequest(f"task {key!r}: a run is accepted whole; give `after` to add(), and no request_id")
        if not 0 <= phase < 2**32:
            raise InvalidRequest(f"task {key!r}: a phase is 0 or higher, not {phase}")
        if len(self._keys) == TASKS_MAX:
            raise TooLarge(f"a run has at most {TASKS_MAX} tasks; submit several runs")
        self._keys.add(key)
        task = self.spec.tasks.add(key=key, spec=spec, phase=phase, milestone=milestone)
        if isinstance(after, Mapping):
            for other, condition in after.items():
                task.after.add(key=other, condition=_condition(key, condition))
        else:
            task.after_keys.extend([after] if isinstance(after, str) else after)
        return key


def _condition(key: str, name: str) -> task_pb2.DependencyCondition.ValueType:
    found = CONDITIONS.get(name.lower())
    if found is None:
        raise InvalidRequest(f"task {key!r}: {name!r} is no condition; use {', '.join(CONDITIONS)}")
    return found
