"""What people type and what they read: durations, pairs, states, tables, JSON."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from outrider.cli import follow, output
from outrider.cli.output import _fit
from outrider.cli.values import TASK_STATES, duration_s, pairs, state_numbers
from outrider.errors import InvalidRequest
from outrider.v1 import event_pb2, task_pb2


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("90s", 90), ("1h30m", 5400), ("250ms", 0.25), ("2d", 172800)]
)
def test_durations(text: str, seconds: float) -> None:
    """Numbers are seconds, units add up."""
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "3x", "-1", "1h 30m", "m", "1e3", "inf", "nan"])
def test_what_is_no_duration(text: str) -> None:
    """Everything else is refused with how to write it."""
    with pytest.raises(InvalidRequest, match="write 90s, 30m, 1h30m or a number of seconds"):
        duration_s(text)


def test_pairs() -> None:
    """The first = divides; no key or no = is refused naming the option."""
    assert pairs(["a=1", "b=x=y", "c="], "--env") == {"a": "1", "b": "x=y", "c": ""}
    for text in ("a", "=b"):
        with pytest.raises(InvalidRequest, match=r"--label '.*' must be KEY=VALUE"):
            pairs([text], "--label")


def test_states_are_those_of_the_wire() -> None:
    """Every state by name is its number on the wire, whatever its case."""
    for name in TASK_STATES:
        assert task_pb2.TaskState.Value(f"TASK_STATE_{name.upper()}") == state_numbers([name.title()])[0]
    assert len(TASK_STATES) == len(task_pb2.TaskState.keys()) - 1
    with pytest.raises(InvalidRequest, match="use one of pending, queued"):
        state_numbers(["done"])


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0.0s"), (0.34, "0.3s"), (59.4, "59s"), (185, "3m 5s"), (7500, "2h 5m"), (400000, "4d")]
)
def test_spans(seconds: float, text: str) -> None:
    """Durations are two digits or so."""
    assert output.span(seconds) == text


def test_an_unset_time_has_no_age() -> None:
    """A time that is not set is nothing, not half a century."""
    assert output.age(Timestamp()) == ""
    assert output.took(Timestamp(), Timestamp()) == ""


@given(st.text())
def test_nothing_that_moves_the_cursor_is_shown(text: str) -> None:
    """A cell never holds a control character."""
    assert output.clean(text).isprintable()


@given(st.lists(st.integers(1, 200), min_size=3, max_size=3), st.integers(10, 300))
def test_a_table_fits_or_is_none(natural: list[int], room: int) -> None:
    """Fixed columns keep their width, elastic ones are cut to no less than ten, and the sum fits."""
    widths = _fit(("ID", "TITLE", "NOTE"), natural, room)
    if widths:
        assert widths[0] == natural[0]
        assert all(width == whole or 10 <= width < whole for width, whole in zip(widths, natural, strict=True))
        assert sum(widths) + 4 <= room
    else:
        assert natural[0] + sum(min(10, width) for width in natural[1:]) + 4 > room


def test_json_has_payloads_decoded() -> None:
    """JSON payloads are values; others stay as bytes in base64 with their type."""
    task = task_pb2.Task(id="01", result=task_pb2.Payload(data=b'{"a": 1}'))
    other = task_pb2.Task(id="02", result=task_pb2.Payload(data=b"\\xff", content_type="image/png"))
    out = io.StringIO()
    with redirect_stdout(out):
        output.emit(task)
        output.emit(other)
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first["result"] == {"value": {"a": 1}}
    assert second["result"]["content_type"] == "image/png"


@pytest.mark.parametrize(
    ("state", "exit_code", "code"),
    [
        ("SUCCEEDED", None, 0),
        ("FAILED", None, 1),
        ("FAILED", 3, 3),
        ("FAILED", -9, 137),
        ("CANCELLED", -15, 5),
        ("EXPIRED", None, 5),
        ("SKIPPED", None, 5),
    ],
)
def test_exit_codes_of_outcomes(state: str, exit_code: int | None, code: int) -> None:
    """A command's own code when it ran and failed; what did not run to its end has codes of its own."""
    task = task_pb2.Task(state=task_pb2.TaskState.Value(f"TASK_STATE_{state}"))
    if exit_code is not None:
        task.error.exit_code = exit_code
    assert follow.exit_code(task) == code


def test_events_are_lines() -> None:
    """An event says when, what, where, and what it is about."""
    event = event_pb2.Event(
        type=event_pb2.EVENT_TYPE_TASK_PROGRESS,
        attempt=1,
        agent_id="a",
        progress=task_pb2.Progress(completed=3, total=10, status="read"),
    )
    assert follow.describe(event)[13:] == "PROGRESS    attempt 1 on a 3/10 read"
