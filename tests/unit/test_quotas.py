"""What one caller may have of the coordinator."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from outrider.errors import RateLimited
from outrider_coordinator.access.principals import LOCAL, Door, Principal, Role
from outrider_coordinator.access.quotas import Quotas


def a_user(name: str, role: Role = Role.SUBMITTER) -> Principal:
    """Somebody with a token."""
    return Principal(name, role, door=Door.TOKEN)


def test_streams_are_counted_for_each_user_and_given_back() -> None:
    """As many as allowed; another user has its own; one that ends makes room, however it ends."""
    quotas = Quotas(streams=2)
    with ExitStack() as open_streams:
        for _ in range(2):
            open_streams.enter_context(quotas.stream(a_user("ann")))
        with pytest.raises(RateLimited, match="2 streams open already"), quotas.stream(a_user("ann")):
            pass
        with quotas.stream(a_user("bob")):
            pass
    with pytest.raises(KeyError), quotas.stream(a_user("ann")):
        raise KeyError
    for _ in range(3):
        with quotas.stream(a_user("ann")):
            pass


def test_calls_are_bounded_for_users_and_nobody_else() -> None:
    """Two seconds' worth at once; agents and this machine's own user are not bounded."""
    quotas = Quotas(rate=0.5)
    quotas.call(a_user("ann"))
    with pytest.raises(RateLimited) as caught:
        quotas.call(a_user("ann"))
    assert caught.value.retry_after_s is not None
    assert 0 < caught.value.retry_after_s <= 2
    for _ in range(100):
        quotas.call(a_user("agent", Role.AGENT))
        quotas.call(LOCAL)
