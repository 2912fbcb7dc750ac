"""Bounds on an attempt's time, as the agent keeps them, over a clock that the test moves."""

from __future__ import annotations

from outrider_agent.core.budgets import Bound, Budgets
from outrider_agent.core.lease import Lease

MS = 1000


def looked_often(budgets: Budgets, since_ms: int, until_ms: int) -> list[tuple[int, Bound]]:
    """What expires while the keeper looks every 50 ms."""
    late: list[tuple[int, Bound]] = []
    for now_ms in range(since_ms, until_ms + 1, 50):
        late += budgets.expired(now_ms * MS)
    return late


def test_each_bound_is_told_apart() -> None:
    """Running time, silence and deadline end attempts for reasons of their own."""
    budgets = Budgets()
    budgets.expired(0)
    budgets.started(1, 300 * MS, 0, 0)
    budgets.started(2, 0, 200 * MS, 0)
    budgets.assigned(3, 100 * MS, 0)
    assert looked_often(budgets, 0, 300) == [(3, Bound.DEADLINE), (2, Bound.STALL), (1, Bound.TIMEOUT)]
    assert looked_often(budgets, 300, 1000) == []


def test_a_message_begins_the_silence_anew() -> None:
    """Who reports within the stall timeout is never stalled."""
    budgets = Budgets()
    budgets.expired(0)
    budgets.started(1, 0, 200 * MS, 0)
    for now_ms in range(150, 1500, 150):
        assert looked_often(budgets, now_ms - 100, now_ms) == []
        budgets.heard(1, now_ms * MS)
    assert looked_often(budgets, 1500, 1600) == [(1, Bound.STALL)]


def test_blocked_stops_two_clocks_and_not_the_third() -> None:
    """While an attempt waits, its running time and silence stand; its task's deadline goes on."""
    budgets = Budgets()
    budgets.expired(0)
    budgets.assigned(1, 1000 * MS, 0)
    budgets.started(1, 200 * MS, 200 * MS, 0)
    budgets.blocked(1, 100 * MS)
    assert looked_often(budgets, 100, 950) == []
    budgets.heard(1, 950 * MS)
    assert looked_often(budgets, 950, 1000) == [(1, Bound.DEADLINE)]
    budgets.unblocked(1, 1000 * MS)
    assert looked_often(budgets, 1000, 1200) == [(1, Bound.TIMEOUT), (1, Bound.STALL)]


def test_a_pause_of_the_keeper_is_no_silence() -> None:
    """A keeper that was stopped for a minute, or does not read from workers, blames none of them."""
    budgets = Budgets()
    budgets.expired(0)
    budgets.started(1, 0, 300 * MS, 0)
    assert budgets.expired(60_000 * MS) == []
    assert [budgets.expired(60_000 * MS + at * 50 * MS, is_listening=False) for at in range(20)] == [[]] * 20
    assert looked_often(budgets, 61_000, 61_300) == [(1, Bound.STALL)]


def test_an_attempt_that_ended_has_no_bounds_left() -> None:
    """Nothing expires that was dropped."""
    budgets = Budgets()
    budgets.assigned(1, MS, 0)
    budgets.started(1, MS, MS, 0)
    budgets.drop(1)
    budgets.heard(1, 0)
    assert looked_often(budgets, 0, 500) == []


def test_a_lease_counts_from_the_question() -> None:
    """Answers that come late, or out of order, never make the lease longer than the coordinator thinks."""
    lease = Lease()
    lease.add(1)
    lease.renewed(100 * MS, 15_000 * MS)
    lease.renewed(50 * MS, 15_000 * MS)
    assert lease.ended(15_099 * MS) == []
    assert lease.ended(15_100 * MS) == [1]
    assert lease.ended(99_999 * MS) == []


def test_a_lease_holds_only_what_has_not_ended() -> None:
    """Attempts that ended meanwhile are not stopped; those that are there stop in the order in which they came."""
    lease = Lease()
    for key in (3, 1, 2):
        lease.add(key)
    lease.drop(1)
    assert lease.ended(0) == [2, 3]
