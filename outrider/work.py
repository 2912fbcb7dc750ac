"""What to run and how, as a TaskSpec: functions by name, commands, and the options of a task.

Owns the checks that need no coordinator, so that a mistake shows where it was made. Pure: no network.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from outrider import placing, secret_uses, wait_budgets
from outrider.claims import Claim
from outrider.errors import InvalidRequest, TooLarge
from outrider.v1 import task_pb2
from outrider.wait_budgets import WaitBudget

__all__ = [
    "PRIORITIES",
    "Options",
    "call_arguments",
    "check_size",
    "command_spec",
    "function_name",
    "function_spec",
    "seconds",
]

PRIORITIES = {"low": 2, "normal": 5, "high": 7, "critical": 10}
#: A request over this would not fit a message beside others; the coordinator's own limit is lower and has its reason.
SPEC_BYTES_MAX = 12 * 1024 * 1024
#: Ten thousand years are all that a Duration holds; a hundred are enough.
SECONDS_MAX = 3_155_760_000

Seconds = float | int | dt.timedelta
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a task is run. Durations are seconds or timedeltas; what is left out has the coordinator's default.

    ``priority`` is 0 to 10 or one of `PRIORITIES`; ``labels`` must all hold on the agent; ``attempts`` counts the first
    one too; ``deadline`` bounds everything from submit to the end, ``timeout`` one attempt's running time and
    ``stall_timeout`` how long it may report nothing; an ``exclusive`` task never runs twice at a time, also when an
    agent is out of contact, and an ``at_most_once`` task is never started a second time; ``after`` takes handles or ids
    of tasks that must succeed first, and ``inputs_argument`` names the keyword argument that receives their results by
    id; ``request_id`` makes a repeated submit return the same task.

    ``limits`` (``"db:main"``, ``"file:a.py:shared"``, ``"api:5"`` for units, or a `Claim`) are held, all or none, while
    the task has a live attempt; tasks whose ``write_scopes`` (globs) overlap never run at once. ``systems`` are outside
    systems it needs (``"github"``): it waits while one of them is down.

    ``wait_budgets`` say by kind (dependency, external, complexity, clarification, any) how long a wait may last and
    what happens then: ``{"clarification": "10m:move"}``, seconds, or a `WaitBudget`. ``extension_max`` of running time
    is granted, all in all, without asking anybody when the task needs more.

    ``where`` are conditions on labels (``zone=a,b``, ``zone!=a``, ``gpu``, ``!gpu``), ``resources`` amounts that it
    takes (``{"gpu": 1, "memory": "4GiB"}``), ``runner`` and ``on_type`` must be offered by the agent. The others are
    wishes: ``affinity`` to agents by name, -100 to 100, ``avoid_tags`` of tasks it would rather not be beside,
    ``spread`` over agents, ``sticky`` to the agent of its first dependency. ``strategy`` is one of
    `outrider.placing.STRATEGIES`. A ``preemptible`` task gives way to a critical one and is queued again.

    ``secrets`` are names of secrets that its agent defines, by the environment variable that is to hold the value
    (``{"TOKEN": "github-token"}``); variables of ``secret_fds`` hold the path of a descriptor to read it from instead.
    """

    title: str = ""
    description: str = ""
    type: str = ""
    tags: Sequence[str] = ()
    priority: int | str | None = None
    labels: Mapping[str, str] | None = None
    timeout: Seconds | None = None
    stall_timeout: Seconds | None = None
    deadline: Seconds | None = None
    attempts: int = 0
    backoff: Seconds | None = None
    disconnect_grace: Seconds | None = None
    queue_timeout: Seconds | None = None
    exclusive: bool = False
    at_most_once: bool = False
    not_before: dt.datetime | None = None
    weight: float = 0.0
    estimated_duration: Seconds | None = None
    limits: Sequence[str | Claim] = ()
    write_scopes: Sequence[str] = ()
    systems: Sequence[str] = ()
    wait_budgets: Mapping[str, WaitBudget | str | float | dt.timedelta] | None = None
    extension_max: Seconds | None = None
    after: Sequence[Any] = ()
    inputs_argument: str = ""
    request_id: str = ""
    where: Sequence[str] = ()
    resources: Mapping[str, float | str] | None = None
    runner: str = ""
    on_type: str = ""
    strategy: str = ""
    affinity: Mapping[str, int] | None = None
    avoid_tags: Sequence[str] = ()
    spread: bool = False
    sticky: bool = False
    preemptible: bool = False
    secrets: Mapping[str, str] | None = None
    secret_fds: Mapping[str, str] | None = None

    def but(self, **changes: Any) -> Options:
        """The same with some options changed. Raises `TypeError` for one that does not exist."""
        return replace(self, **changes)

    @property
    def is_default(self) -> bool:
        """Whether nothing has been chosen, so that there is nothing to `apply`."""
        return self is _DEFAULT or self == _DEFAULT

    def apply(self, spec: task_pb2.TaskSpec) -> task_pb2.TaskSpec:
        """Write the options into ``spec`` and return it. Raises `InvalidRequest` for a value that cannot be."""
        if self.is_default:
            return spec
        spec.title, spec.description, spec.type, spec.weight = self.title, self.description, self.type, self.weight
        spec.tags.extend(self.tags)
        if self.priority is not None:
            spec.priority = priority_number(self.priority)
        for key, value in (self.labels or {}).items():
            spec.constraints.add(key=key, operator=task_pb2.LabelConstraint.OPERATOR_IN, values=[value])
        if not 0 <= self.attempts < 2**32:
            raise InvalidRequest(f"attempts counts tries, the first too; it cannot be {self.attempts}")
        if self.attempts:
            spec.retry.max_attempts = self.attempts
        for claim in map(_claim, self.limits):
            spec.limits.add(key=claim.key, shared=claim.shared, units=claim.units)
        spec.write_scopes.extend(self.write_scopes)
        spec.systems.extend(self.systems)
        spec.exclusive, spec.at_most_once = self.exclusive, self.at_most_once
        if self.wait_budgets:
            wait_budgets.apply(self.wait_budgets, spec)
        if self.extension_max is not None:
            extension = dt.timedelta(seconds=seconds(self.extension_max))
            spec.wait_policies.extension_max_duration.FromTimedelta(extension)
        self._apply_placing(spec)
        self._apply_times(spec)
        secret_uses.add(self.secrets or {}, self.secret_fds or {}, spec)
        return spec

    def _apply_placing(self, spec: task_pb2.TaskSpec) -> None:
        placing.add_conditions(self.where, spec)
        placing.add_resources(self.resources or {}, spec)
        placing.add_affinities(self.affinity or {}, spec)
        spec.preemptible = self.preemptible
        if self.strategy:
            spec.placement.strategy = placing.strategy(self.strategy)
        for name in ("runner", "spread", "sticky"):
            if getattr(self, name):
                setattr(spec.placement, name, getattr(self, name))
        if self.on_type:
            spec.placement.task_type = self.on_type
        if self.avoid_tags:
            spec.placement.avoid_tags.extend(self.avoid_tags)

    def _apply_times(self, spec: task_pb2.TaskSpec) -> None:
        durations = (
            (self.timeout, spec.timeout),
            (self.stall_timeout, spec.stall_timeout),
            (self.deadline, spec.deadline_duration),
            (self.backoff, spec.retry.initial_backoff),
            (self.disconnect_grace, spec.disconnect_grace),
            (self.queue_timeout, spec.queue_timeout),
            (self.estimated_duration, spec.estimated_duration),
        )
        for value, field in durations:
            if value is not None:
                field.FromTimedelta(dt.timedelta(seconds=seconds(value)))
        if self.not_before is not None:
            if self.not_before.tzinfo is None:
                raise InvalidRequest("not_before needs a time zone, such as datetime.now(timezone.utc)")
            spec.not_before.FromDatetime(self.not_before)


_DEFAULT = Options()


def _claim(claim: str | Claim) -> Claim:
    return Claim.parse(claim) if isinstance(claim, str) else claim.checked()


def priority_number(priority: int | str) -> int:
    """0 to 10 from a number, its text or a name. Raises `InvalidRequest`."""
    if isinstance(priority, str):
        named = PRIORITIES.get(priority.lower(), int(priority) if priority.isdecimal() else -1)
    else:
        named = int(priority)
    if not 0 <= named <= 10:
        raise InvalidRequest(f"priority {priority!r} must be 0 (last) to 10 (first), or {', '.join(PRIORITIES)}")
    return named


def seconds(value: Seconds) -> float:
    """A duration in seconds. Raises `InvalidRequest` for one below 0 or over `SECONDS_MAX`."""
    amount = value.total_seconds() if isinstance(value, dt.timedelta) else float(value)
    if not 0 <= amount <= SECONDS_MAX:
        raise InvalidRequest(f"a duration is 0 to {SECONDS_MAX:g} seconds, not {value!r}")
    return amount


def function_name(function: Callable[..., Any] | str) -> str:
    """``module:qualified.name`` of a function that a worker can import. Raises `InvalidRequest` for any other."""
    if isinstance(function, str):
        module, colon, name = function.partition(":")
        if not (module and colon and name):
            raise InvalidRequest(f"{function!r} is no function; write module:name")
        return function
    module = getattr(function, "__module__", None) or ""
    name = getattr(function, "__qualname__", "")
    if not (callable(function) and module and name):
        raise InvalidRequest(f"{function!r} has no name to find it by; give a function of a module, or 'module:name'")
    if module == "__main__":
        raise InvalidRequest(
            f"{name} is defined in the program itself, which workers cannot import; "
            f"move it to a module beside the program and import it from there"
        )
    if "<lambda>" in name or "<locals>" in name:
        raise InvalidRequest(
            f"{module}:{name} is a lambda or an inner function, which workers cannot find by name; "
            "define it at the top level of a module"
        )
    if not _is_found(function, module, name):
        raise InvalidRequest(
            f"{module}:{name} is not what {function!r} is, so workers would call something else; "
            "give a function that stands in a module under its own name"
        )
    return f"{module}:{name}"


def _is_found(function: Callable[..., Any], module: str, name: str) -> bool:
    """Whether the name leads to it: that of a bound method, for one, does not."""
    found: Any = sys.modules.get(module)
    if found is None:
        return True
    for part in name.split("."):
        found = getattr(found, part, None)
    return bool(found == function)


def function_spec(
    function: Callable[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options
) -> task_pb2.TaskSpec:
    """A TaskSpec that calls a function. Raises `InvalidRequest` for arguments that are not JSON."""
    name = function_name(function)
    call = task_pb2.PythonFunction(function=name, inputs_argument=options.inputs_argument)
    if args or kwargs:
        call.arguments.data = call_arguments(name, args, kwargs)
    spec = options.apply(task_pb2.TaskSpec(function=call))
    check_size(spec.ByteSize())
    return spec


def call_arguments(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """The arguments of a call as JSON. Raises `InvalidRequest`."""
    try:
        return _encode({"args": args, "kwargs": kwargs} if kwargs else {"args": args})
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise InvalidRequest(f"the arguments of {name} cannot be written as JSON: {error}") from None


def command_spec(
    argv: Iterable[str],
    options: Options,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str = "",
    stdin: bytes | str = b"",
) -> task_pb2.TaskSpec:
    """A TaskSpec that runs a program, without a shell."""
    if isinstance(argv, str):
        raise InvalidRequest(f"a command is a list of words, not {argv!r}; for a shell write ['sh', '-c', ...]")
    words = [str(word) for word in argv]
    if not words:
        raise InvalidRequest("the command is empty; give at least a program")
    data = stdin.encode() if isinstance(stdin, str) else stdin
    command = task_pb2.Command(argv=words, environment=dict(env or {}), working_directory=cwd, stdin=data)
    spec = options.apply(task_pb2.TaskSpec(command=command))
    check_size(spec.ByteSize())
    return spec


def check_size(size_bytes: int) -> None:
    """Raise `TooLarge` for a spec of so many bytes that it cannot travel."""
    if size_bytes > SPEC_BYTES_MAX:
        raise TooLarge(
            f"the task has {size_bytes} bytes of arguments or standard input, far over what a coordinator takes; "
            "put the data in a file or object store and pass its name"
        )
