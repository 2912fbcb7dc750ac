"""A run written down: TOML or JSON, as `outrider run submit FILE` reads it. See docs/runs.md for the form.

Every error names the file, the key of the task and the field. The names are those of the flags of `outrider submit`,
with ``-`` or ``_``; a flag that can be repeated takes a list, one of ``KEY=VALUE`` a table too. Pure but for reading
the file and those it names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from outrider.durations import duration_s
from outrider.errors import InvalidRequest, OutriderError
from outrider.graph import GraphBuilder
from outrider.work import Options, command_spec, function_spec

__all__ = ["read"]

_NO_OPTIONS = ("after", "request_id", "inputs_argument")
_OPTIONS = {field.name: str(field.type) for field in dataclasses.fields(Options) if field.name not in _NO_OPTIONS}
#: Fields of a run, and of a task beside its options.
_RUN = ("title", "description", "fail_fast", "max_parallel", "sequential", "defaults", "tasks")
_PLACE = ("after", "phase", "milestone")
_FUNCTION, _COMMAND = ("python", "args", "kwargs", "inputs_argument"), ("command", "shell", "env", "cwd", "stdin")
Table = Mapping[str, Any]


def read(path: Path) -> GraphBuilder:
    """The run in a file. Raises `InvalidRequest` that names file, task and field."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{path}: is no {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    return _Reading(path).run(_table(str(path), found))


class _Reading:
    """One file as it is read; ``where`` in its methods is file, key and field so far."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(self, given: Table) -> GraphBuilder:
        """The whole of it."""
        where = str(self._path)
        _known(where, given, _RUN)
        run = GraphBuilder(
            _text(f"{where}: title", given.get("title", "")),
            _text(f"{where}: description", given.get("description", "")),
            fail_fast=_flag(f"{where}: fail_fast", given.get("fail_fast", False)),
            max_parallel=_whole(f"{where}: max_parallel", given.get("max_parallel", 0)),
            sequential=_flag(f"{where}: sequential", given.get("sequential", False)),
        )
        defaults = _table(f"{where}: defaults", given.get("defaults", {}))
        _known(f"{where}: defaults", defaults, tuple(_OPTIONS))
        for key, task in _tasks(where, given.get("tasks", {})):
            at = f"{where}: task {key!r}"
            _known(at, task, (*_PLACE, *_FUNCTION, *_COMMAND, *_OPTIONS))
            with _named(at):
                self._add(run, at, key, {**defaults, **task})
        if not run.spec.tasks:
            raise InvalidRequest(f"{where}: has no tasks; write [tasks.NAME] with a command or python")
        return run

    def _add(self, run: GraphBuilder, at: str, key: str, task: Table) -> None:
        options = _options(at, task)
        if ("python" in task) + ("command" in task) + ("shell" in task) != 1:
            raise InvalidRequest(f"{at}: give one of command (a list of words), shell (a line) or python (module:name)")
        spec = self._function(at, task, options) if "python" in task else self._command(at, task, options)
        phase = _whole(f"{at}.phase", task.get("phase", 0))
        run.put(key, spec, options, _after(at, task), phase, _text(f"{at}.milestone", task.get("milestone", "")))

    def _function(self, at: str, task: Table, options: Options) -> Any:
        _alone(at, task, _COMMAND, "python")
        argument = _text(f"{at}.inputs_argument", task.get("inputs_argument", ""))
        args, kwargs = task.get("args", []), task.get("kwargs", {})
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise InvalidRequest(f"{at}: args must be a list and kwargs a table, not {args!r} and {kwargs!r}")
        return function_spec(_text(f"{at}.python", task["python"]), args, kwargs, options.but(inputs_argument=argument))

    def _command(self, at: str, task: Table, options: Options) -> Any:
        _alone(at, task, _FUNCTION, "command")
        if "shell" in task:
            words = ["sh", "-c", _text(f"{at}.shell", task["shell"])]
        else:
            words = _list(f"{at}.command", task["command"])
        cwd = _text(f"{at}.cwd", task.get("cwd", ""))
        folder = str((self._path.parent / cwd).absolute()) if cwd else ""
        return command_spec(
            words, options, env=_pairs(f"{at}.env", task.get("env", {})), cwd=folder, stdin=self._stdin(at, task)
        )

    def _stdin(self, at: str, task: Table) -> bytes:
        name = _text(f"{at}.stdin", task.get("stdin", ""))
        try:
            return (self._path.parent / name).read_bytes() if name else b""
        except OSError as error:
            raise InvalidRequest(f"{at}.stdin: cannot read {name}: {error.strerror}") from None


@contextlib.contextmanager
def _named(at: str) -> Iterator[None]:
    """Put the place before the message of an error raised inside that does not have it yet."""
    try:
        yield
    except OutriderError as error:
        if error.message.startswith(at):
            raise
        raise type(error)(f"{at}: {error.message}") from None


def _tasks(where: str, given: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and fields of every task: a table by key, or a list of tables with a field ``key``."""
    if isinstance(given, list):
        for position, item in enumerate(given):
            task = _table(f"{where}: tasks[{position}]", item)
            key = _text(f"{where}: tasks[{position}].key", task.pop("key", ""))
            if not key:
                raise InvalidRequest(f"{where}: tasks[{position}]: has no key; give each task one")
            yield key, task
        return
    if not isinstance(given, dict):
        raise InvalidRequest(f"{where}: tasks: must be a table by key, or a list, not {given!r}")
    for key, item in given.items():
        yield key, _table(f"{where}: task {key!r}", item)


def _after(at: str, task: Table) -> dict[str, str]:
    after = task.get("after", [])
    if isinstance(after, dict):
        return {key: _text(f"{at}.after.{key}", condition) for key, condition in after.items()}
    return dict.fromkeys(_list(f"{at}.after", [after] if isinstance(after, str) else after), "success")


def _options(at: str, task: Table) -> Options:
    changes = {}
    for name, value in task.items():
        if name in _OPTIONS:
            changes[name] = _option(f"{at}.{name}", _OPTIONS[name], value)
    return Options(**changes)


def _option(at: str, kind: str, value: Any) -> Any:
    """A value of a field of `Options` whose annotation is ``kind``."""
    with _named(at):
        for mark, convert in _CONVERTERS:
            if kind.startswith(mark):
                return convert(at, value)
    return value


def _duration(at: str, value: Any) -> float:
    if isinstance(value, str):
        return duration_s(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f'{at}: must be a duration such as "30m", or seconds, not {value!r}')
    return float(value)


def _time(at: str, value: Any) -> dt.datetime:
    if isinstance(value, dt.datetime):
        return value
    try:
        return dt.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{at}: must be a time such as 2030-01-31T08:00:00+01:00, not {value!r}") from None


def _mapping(at: str, value: Any) -> Any:
    return value if isinstance(value, dict) else _pairs(at, value)


def _priority(at: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidRequest(f"{at}: must be 0 to 10 or a name, not {value!r}")
    return value


def _number(at: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{at}: must be a number, not {value!r}")
    return value


def _words(at: str, value: Any) -> list[Any]:
    return _list(at, [value] if isinstance(value, str) else value)


def _list(at: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidRequest(f"{at}: must be a list of texts, not {value!r}")
    return value


def _pairs(at: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        return {key: _text(f"{at}.{key}", item) for key, item in value.items()}
    pairs = [item.partition("=") for item in _words(at, value)]
    if not all(key and equals for key, equals, _ in pairs):
        raise InvalidRequest(f"{at}: must be a table, or a list of KEY=VALUE, not {value!r}")
    return {key: item for key, _, item in pairs}


def _table(at: str, value: Any) -> dict[str, Any]:
    """A table of fields: ``_`` for ``-``, and the options' own names for those of flags."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"{at}: must be a table, not {value!r}")
    return {_name_of(key): item for key, item in value.items()}


def _name_of(key: str) -> str:
    name = key.replace("-", "_")
    plural = name[:-1] + "ies" if name.endswith("y") else name + "s"
    return plural if plural in _OPTIONS and name not in _OPTIONS else name


def _known(at: str, given: Table, names: tuple[str, ...]) -> None:
    for name in given:
        if name not in names:
            raise InvalidRequest(f"{at}.{name}: there is no such field; there are {', '.join(sorted(names))}")


def _alone(at: str, task: Table, others: tuple[str, ...], name: str) -> None:
    wrong = [other for other in others if other in task]
    if wrong:
        raise InvalidRequest(f"{at}.{wrong[0]}: does not go with {name}")


def _text(at: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{at}: must be a text, not {value!r}")
    return value


def _flag(at: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{at}: must be true or false, not {value!r}")
    return value


def _whole(at: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise InvalidRequest(f"{at}: must be a whole number from 0, not {value!r}")
    return value


#: How a value becomes what a field of `Options` takes, by the beginning of its annotation.
_CONVERTERS: tuple[tuple[str, Callable[[str, Any], Any]], ...] = (
    ("Seconds", _duration),
    ("dt.datetime", _time),
    ("Mapping", _mapping),
    ("Sequence", _words),
    ("int | str", _priority),
    ("bool", _flag),
    ("float", _number),
    ("int", _whole),
    ("str", _text),
)
