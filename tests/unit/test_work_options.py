"""What becomes of functions, commands and options before anything is sent."""

from __future__ import annotations

import datetime as dt
import functools
import json
import os.path
import random
from typing import Any

import pytest

from outrider.errors import InvalidRequest, TooLarge
from outrider.v1 import task_pb2
from outrider.work import Options, command_spec, function_name, function_spec
from support.sdk_tasks import Counter, double

CYCLE: list[Any] = []
CYCLE.append(CYCLE)


def spec_of(**options: Any) -> task_pb2.TaskSpec:
    """A spec with these options."""
    return function_spec("math:sqrt", (4,), {}, Options(**options))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (double, "support.sdk_tasks:double"),
        (len, "builtins:len"),
        (os.path.join, "posixpath:join"),
        (json.loads, "json:loads"),
        (Counter.add, "support.sdk_tasks:Counter.add"),
        (Counter.made, "support.sdk_tasks:Counter.made"),
        (Counter, "support.sdk_tasks:Counter"),
        ("any.module:Name.attribute", "any.module:Name.attribute"),
    ],
)
def test_a_function_of_a_module_has_a_name(function: Any, name: str) -> None:
    """The name leads a worker to the same function."""
    assert function_name(function) == name


def inner() -> Any:
    """A function that no worker can find."""

    def found_nowhere() -> None: ...

    return found_nowhere


def main_function() -> None:
    """Pretends to stand in the program itself."""


main_function.__module__ = "__main__"


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda: None, "lambda or an inner function"),
        (inner(), "at the top level of a module"),
        (main_function, "move it to a module"),
        (Counter().add, "would call something else"),
        (functools.partial(double, 1), "has no name"),
        ("abc".upper, "has no name"),
        (str.upper, "has no name"),
        (random.randint, "would call something else"),
        ("no_colon", "write module:name"),
        (":name", "write module:name"),
        ("module:", "write module:name"),
        (7, "has no name"),
    ],
)
def test_a_function_that_no_worker_finds_is_refused(function: Any, says: str) -> None:
    """Lambdas, inner functions, the program's own, bound methods, partials and bad names: told where it was written."""
    with pytest.raises(InvalidRequest, match=says):
        function_name(function)


@pytest.mark.parametrize("argument", [object(), 1j, {1, object()}, "\ud800", CYCLE, lambda: None])
def test_arguments_that_are_not_json_are_refused(argument: Any) -> None:
    """The message names the function."""
    with pytest.raises(InvalidRequest, match=r"the arguments of math:sqrt cannot be written as JSON"):
        function_spec("math:sqrt", (argument,), {}, Options())
    with pytest.raises(InvalidRequest, match=r"the arguments of math:sqrt cannot be written as JSON"):
        function_spec("math:sqrt", (), {"x": argument}, Options())


@pytest.mark.parametrize(
    ("priority", "number"),
    [(0, 0), (10, 10), ("low", 2), ("Normal", 5), ("HIGH", 7), ("critical", 10), ("3", 3)],
)
def test_a_priority_is_a_number_or_a_name(priority: int | str, number: int) -> None:
    """Numbers 0 to 10, their text, and four names."""
    assert spec_of(priority=priority).priority == number


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"priority": 11}, "0 .last. to 10"),
        ({"priority": -1}, "0 .last. to 10"),
        ({"priority": "urgent"}, "low, normal, high, critical"),
        ({"timeout": -1}, "0 to"),
        ({"timeout": float("nan")}, "0 to"),
        ({"backoff": float("inf")}, "0 to"),
        ({"queue_timeout": dt.timedelta(days=-1)}, "0 to"),
        ({"not_before": dt.datetime(2030, 1, 1)}, "time zone"),
        ({"attempts": -1}, "cannot be -1"),
        ({"deadline": -1}, "0 to"),
        ({"stall_timeout": -1}, "0 to"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], says: str) -> None:
    """With what it may be."""
    with pytest.raises(InvalidRequest, match=says):
        spec_of(**options)


def test_an_unknown_option_is_refused() -> None:
    """A misspelt option is an error, not a default."""
    with pytest.raises(TypeError, match="time_out"):
        Options().but(time_out=3)


def test_options_left_out_are_not_sent() -> None:
    """The coordinator's defaults hold for what nobody set."""
    spec = spec_of()
    assert not spec.HasField("priority")
    assert not spec.HasField("timeout")
    assert not spec.HasField("retry")
    assert not spec.HasField("deadline_duration")
    assert not spec.exclusive
    chosen = spec_of(deadline=dt.timedelta(minutes=1), stall_timeout=2, exclusive=True, at_most_once=True)
    assert (chosen.deadline_duration.seconds, chosen.stall_timeout.seconds) == (60, 2)
    assert chosen.exclusive
    assert chosen.at_most_once
    assert spec_of(timeout=0).HasField("timeout")
    assert spec_of(labels={"gpu": "yes"}).constraints[0].values == ["yes"]


def test_a_command_is_a_list_of_words() -> None:
    """Paths and numbers become text; one string, or nothing, is refused with what to write."""
    assert command_spec(["sleep", 1], Options()).command.argv == ["sleep", "1"]  # type: ignore[list-item]  # as users do
    with pytest.raises(InvalidRequest, match="'sh', '-c'"):
        command_spec("echo hello", Options())
    with pytest.raises(InvalidRequest, match="at least a program"):
        command_spec([], Options())


def test_what_no_coordinator_would_take_is_refused_at_once() -> None:
    """13 MiB of arguments or standard input: the message says where to put them."""
    with pytest.raises(TooLarge, match="file or object store"):
        function_spec("builtins:len", ("x" * 13 * 2**20,), {}, Options())
    with pytest.raises(TooLarge, match="file or object store"):
        command_spec(["cat"], Options(), stdin=b"x" * 13 * 2**20)
