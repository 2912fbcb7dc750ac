"""Python functions as work: find, call, encode what they return.

Owns the cache of functions found and all words about work that cannot run. It must not know of sockets, keys or
output. Whatever goes wrong leaves as `AttemptFailed`; `TaskCancelled` passes through.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from types import CoroutineType
from typing import Any

import msgspec

from outrider.worker.context import decoded
from outrider.worker.endings import (
    CANCEL_REQUESTED,
    INVALID_WORK,
    REFUSED_BY_POLICY,
    RESULT_NOT_SERIALIZABLE,
    RESULT_TOO_LARGE,
    TASK_ERROR,
    AttemptFailed,
    TaskCancelled,
)
from outrider.worker.messages import FunctionWork, Input

RESULT_BYTES_MAX = 1024 * 1024


class Arguments(msgspec.Struct, forbid_unknown_fields=True):
    """What `FunctionWork.arguments` holds."""

    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class Functions:
    """Calls functions by name; each is looked up once."""

    def __init__(self) -> None:
        self._found: dict[str, Callable[..., Any]] = {}
        self._decoder = msgspec.json.Decoder(Arguments)

    def call(self, work: FunctionWork, inputs: Sequence[Input]) -> bytes:
        """Result as JSON. Raises `AttemptFailed`, or `TaskCancelled` when stopped."""
        function = self._found.get(work.function)
        if function is None:
            function = self._found[work.function] = _find(work.function)
        if work.must_be_own:
            _check_own(work.function, function)
        arguments = self._arguments(work, inputs)
        try:
            result = function(*arguments.args, **arguments.kwargs)
            if isinstance(result, CoroutineType):
                import asyncio

                result = asyncio.run(result)
        except TaskCancelled:
            raise
        except BaseException as error:
            _refuse_misfit(work.function, function, arguments, error)
            raise _failure(error) from None
        return _encode(result)

    def _arguments(self, work: FunctionWork, inputs: Sequence[Input]) -> Arguments:
        try:
            arguments = self._decoder.decode(work.arguments or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise AttemptFailed(
                INVALID_WORK, f'arguments of {work.function} must be {{"args": [...], "kwargs": {{...}}}}: {error}'
            ) from None
        if work.inputs_argument:
            try:
                arguments.kwargs[work.inputs_argument] = {one.key: decoded(one) for one in inputs}
            except ValueError as error:
                raise AttemptFailed(INVALID_WORK, str(error)) from None
        return arguments


def _find(name: str) -> Callable[..., Any]:
    module_name, separator, path = name.partition(":")
    if not (separator and module_name and path):
        raise AttemptFailed(INVALID_WORK, f"function {name!r} must be written module:qualified.name")
    found = _import(module_name)
    for part in path.split("."):
        if not hasattr(found, part):
            raise AttemptFailed(INVALID_WORK, f"module {module_name} has no function {path}")
        found = getattr(found, part)
    if not callable(found):
        raise AttemptFailed(INVALID_WORK, f"{name} is not callable, it is a {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def _check_own(name: str, function: Callable[..., Any]) -> None:
    """Refuse what a module only has from another one: `os.system` is not that of whoever imports os."""
    module = name.partition(":")[0]
    if getattr(function, "__module__", None) != module:
        raise AttemptFailed(
            REFUSED_BY_POLICY, f"policy.functions: {name} is not defined in {module}, whose own functions run here"
        )


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = "install it where the agent runs, or start the agent in its directory"
        raise AttemptFailed(INVALID_WORK, f"module {error.name} is not found; {hint}") from None
    except TaskCancelled:
        raise
    except BaseException as error:
        raise _failure(error) from None


def _refuse_misfit(name: str, function: Callable[..., Any], arguments: Arguments, error: BaseException) -> None:
    """Raise if the call itself failed: nothing of the function has run then."""
    trace = error.__traceback__
    if not isinstance(error, TypeError) or trace is None or trace.tb_next is not None:
        return
    try:
        inspect.signature(function).bind(*arguments.args, **arguments.kwargs)
    except TypeError as misfit:
        raise AttemptFailed(INVALID_WORK, f"arguments do not fit {name}: {misfit}") from None
    except ValueError:  # a builtin without a signature
        return


def _failure(error: BaseException) -> AttemptFailed:
    import traceback

    kind = class_name(error)
    if isinstance(error, SystemExit):
        message = f"the function called sys.exit({error.code!r}); return a value or raise an exception instead"
    else:
        message = _said(error)
    user_frames = error.__traceback__.tb_next if error.__traceback__ else None
    text = "".join(traceback.format_exception(type(error), error, user_frames))
    return AttemptFailed(TASK_ERROR, message, recoverable=True, exception_type=kind, traceback=text)


def class_name(error: BaseException) -> str:
    """``ValueError`` for what is built in, ``package.module.Error`` for what is not."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _said(error: BaseException) -> str:
    try:
        return str(error) or type(error).__qualname__
    except Exception:  # the __str__ of somebody else's exception may itself raise
        return type(error).__qualname__


def _encode(result: Any) -> bytes:
    if result is None:
        return b"null"
    try:
        data = msgspec.json.encode(result)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise AttemptFailed(RESULT_NOT_SERIALIZABLE, f"the result cannot be written as JSON: {error}") from None
    if b"null" in data and (path := _not_finite(result, "result")):
        raise AttemptFailed(RESULT_NOT_SERIALIZABLE, f"{path} is not a finite number, which JSON cannot hold")
    if len(data) > RESULT_BYTES_MAX:
        size = f"the result has {len(data)} bytes of JSON and the limit is {RESULT_BYTES_MAX}"
        raise AttemptFailed(RESULT_TOO_LARGE, f"{size}; store it elsewhere and return where it is")
    return data


def _not_finite(value: Any, path: str) -> str:
    """Path of the first NaN or infinity, which msgspec writes as null; empty when there is none."""
    if isinstance(value, float):
        return "" if value - value == 0 else path
    if not isinstance(value, str | bytes | int | type(None)):
        value = msgspec.to_builtins(value, builtin_types=(float,)) if not isinstance(value, dict | list) else value
    if isinstance(value, dict):
        parts = [(f"{path}[{key!r}]", part) for key, part in value.items()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = [(f"{path}[{index}]", part) for index, part in enumerate(value)]
    else:
        return ""
    return next((found for where, part in parts if (found := _not_finite(part, where))), "")


def cancelled(message: str) -> AttemptFailed:
    """End of an attempt that was told to stop."""
    return AttemptFailed(CANCEL_REQUESTED, message or "cancelled")


def put_on_path(directory: str) -> None:
    """Make modules of the agent's working directory importable, as ``python -m`` does."""
    if directory not in sys.path:
        sys.path.insert(0, directory)
