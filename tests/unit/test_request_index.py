"""Request ids in memory: the latest ones, at the same cost however many there have been."""

from __future__ import annotations

from outrider_coordinator.core.runs.requests import RequestIndex


def test_the_oldest_request_ids_go_first() -> None:
    """At the limit every new id drops the oldest one, and from then on memory does not know them all."""
    index = RequestIndex(2)
    index.add("default", "a", "t1", b"1")
    index.add("other", "a", "t2", b"2")
    assert index.is_complete
    index.add("default", "b", "t3", b"3")
    assert not index.is_complete
    assert index.find("default", "a") is None
    assert index.find("other", "a") == ("t2", b"2")
    assert index.find("default", "b") == ("t3", b"3")


def test_a_request_id_added_again_has_one_place() -> None:
    """An id that is added twice is dropped once, in its turn, and means what it meant last."""
    index = RequestIndex(2)
    for accepted in ("t1", "t2"):
        index.add("default", "a", accepted, b"")
    index.add("default", "b", "t3", b"")
    assert index.find("default", "a") == ("t2", b"")
    index.add("default", "c", "t4", b"")
    assert index.find("default", "a") is None
    assert index.find("default", "b") == ("t3", b"")


def test_no_request_id_is_not_remembered() -> None:
    """Submissions without an id have nothing to be found by."""
    index = RequestIndex(1)
    index.add("default", "", "t1", b"")
    assert index.find("default", "") is None
    assert index.is_complete
