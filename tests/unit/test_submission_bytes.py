"""What is put together by hand is what the message classes would have written."""

from __future__ import annotations

from typing import Any

import pytest

from outrider.errors import InvalidRequest, TooLarge
from outrider.transport.encoding import CallEncoder, RequestEncoder, frame
from outrider.v1 import task_pb2, task_service_pb2
from outrider.wire import block
from outrider.work import SPEC_BYTES_MAX, Options, function_spec

OPTIONS = (
    Options(),
    Options(inputs_argument="inputs", after=("a",)),
    Options(title="Zwölf", tags=("a", "b"), priority="high", labels={"gpu": "yes"}, timeout=3, attempts=2),
)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
@pytest.mark.parametrize("number", [1, 15, 16, 63])
def test_a_field_of_any_size_is_written_as_protobuf_does(number: int, size: int) -> None:
    """Key and length are varints of as many bytes as they need."""
    key = number << 3 | 2
    message = task_pb2.Payload.FromString(block(1, b"x" * size))
    assert message.data == b"x" * size
    head = block(number, b"x" * size)[: -size or None]
    values, value, shift = [], 0, 0
    for byte in head:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(value)
            value, shift = 0, 0
    assert values == [key, size]


@pytest.mark.parametrize("options", OPTIONS, ids=["default", "inputs", "many"])
@pytest.mark.parametrize("args", [(), (1, "zwei"), ("x" * 20_000,)], ids=["none", "two", "long"])
@pytest.mark.parametrize("kwargs", [{}, {"key": None}], ids=["positional", "keyword"])
def test_a_call_is_written_as_its_spec(options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """The bytes of a call, the first and a later one, are a TaskSpec that equals the one made from messages."""
    calls = CallEncoder(options)
    for function in ("math:sqrt", "math:sqrt", "json:dumps"):
        name, data = calls.encode(function, args, kwargs)
        assert name == function
        assert task_pb2.TaskSpec.FromString(data) == function_spec(function, args, kwargs, options)


def test_calls_refuse_what_specs_refuse() -> None:
    """No function, arguments that are not JSON, and too much of them, also for a function called before."""
    calls = CallEncoder(Options())
    calls.encode("math:sqrt", (), {})
    with pytest.raises(InvalidRequest, match="write module:name"):
        calls.encode("sqrt", (), {})
    with pytest.raises(InvalidRequest, match="arguments of math:sqrt"):
        calls.encode("math:sqrt", (object(),), {})
    with pytest.raises(TooLarge):
        calls.encode("math:sqrt", ("x" * SPEC_BYTES_MAX,), {})


def test_options_are_read_for_every_call() -> None:
    """Labels that change after `with_options` count, as they do for commands."""
    labels = {"gpu": "yes"}
    calls = CallEncoder(Options(labels=labels))
    calls.encode("math:sqrt", (), {})
    labels["gpu"] = "no"
    spec = task_pb2.TaskSpec.FromString(calls.encode("math:sqrt", (), {})[1])
    assert [list(one.values) for one in spec.constraints] == [["no"]]


def test_a_frame_holds_the_requests_in_order() -> None:
    """Requests with and without dependencies and a trace are read as they were meant."""
    spec = function_spec("math:sqrt", (2,), {}, Options())
    trace = task_pb2.TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    wanted = [
        task_service_pb2.SubmitRequest(namespace="n", client_id="c", request_id="c-1", spec=spec),
        task_service_pb2.SubmitRequest(
            namespace="n", client_id="c", request_id="ü", spec=spec, dependency_ids=["x", "y"], trace=trace
        ),
    ]
    encoder, data = RequestEncoder("n", "c"), spec.SerializeToString()
    requests = [
        encoder.encode("c-1", data, [], task_pb2.TraceContext()),
        encoder.encode("ü", data, ["x", "y"], trace),
    ]
    read = task_service_pb2.SubmitStreamRequest.FromString(frame(requests))
    assert list(read.submissions.tasks) == wanted
