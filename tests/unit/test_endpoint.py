"""Addresses as people write them."""

from __future__ import annotations

import pytest

from outrider.endpoint import Endpoint
from outrider.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "target", "is_local"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("localhost", "localhost:7420", True),
        ("[::1]:2", "[::1]:2", True),
        ("::1", "[::1]:7420", True),
        ("10.0.0.1:3", "10.0.0.1:3", False),
        ("build.example:4", "build.example:4", False),
        ("0.0.0.0:5", "0.0.0.0:5", False),
        ("unix:/run/x.sock", "unix:/run/x.sock", True),
    ],
)
def test_an_address_is_read(text: str, target: str, is_local: bool) -> None:
    """Host, port, IPv6 and Unix sockets are told apart; only loopback and Unix sockets are local."""
    endpoint = Endpoint.parse(text)
    assert (endpoint.target, endpoint.is_local) == (target, is_local)


@pytest.mark.parametrize("text", ["", ":1", "host:port", "host:70000", "unix:relative", "unix:/" + "x" * 120])
def test_a_wrong_address_is_refused_in_one_line(text: str) -> None:
    """What is no address is refused with what to write instead."""
    with pytest.raises(InvalidRequest):
        Endpoint.parse(text)
