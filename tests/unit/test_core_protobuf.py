"""The core's own writing of protobuf, beside the library's."""

from __future__ import annotations

import pytest
from google.protobuf.wrappers_pb2 import BytesValue, UInt64Value

from outrider_coordinator.core.failure import encode_error, message_of
from outrider_coordinator.core.protobuf import block, integer
from outrider_coordinator.core.states import Reason


@pytest.mark.parametrize("value", [0, 1, 126, 127, 128, 129, 255, 16_383, 16_384, 2**32, 2**63])
def test_an_integer_is_written_as_the_library_does(value: int) -> None:
    """In as few bytes as it takes, and not at all when it is 0."""
    assert integer(1, value) == UInt64Value(value=value).SerializeToString()


@pytest.mark.parametrize("size", [1, 127, 128, 16_384])
def test_bytes_are_written_as_the_library_does(size: int) -> None:
    """Key, length, and then as they are."""
    assert block(1, b"x" * size) == BytesValue(value=b"x" * size).SerializeToString()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 255, 256, 16_383])
def test_a_message_is_read_as_it_was_written(size: int) -> None:
    """Of any length that the core writes."""
    assert message_of(encode_error(Reason.REFUSED_BY_POLICY, "x" * size)) == "x" * size
