"""The session: when the agent connects, what counts, when it gives up; and the ledger and the deadlines beside it."""

from __future__ import annotations

import pytest

from outrider_agent.core.deadlines import Deadlines
from outrider_agent.core.ledger import Ledger
from outrider_agent.core.session import BACKOFF_MAX_US, End, Phase, Session

LOST = End("UNAVAILABLE", "", "connection refused")


def live_session() -> Session:
    session = Session(("one", "two"), 0)
    assert session.tick(0) == "open"
    assert session.opened()
    assert session.welcomed(5, 1, "store", 2_000_000, 10)
    return session


def test_a_failed_connect_is_tried_again_at_the_next_address() -> None:
    """Each try takes the next address, after a wait between nothing and the backoff."""
    session = Session(("one", "two"), 0)
    assert session.tick(0) == "open"
    assert session.closed(LOST, 100, 0.5) == ""
    assert session.address == "two"
    assert session.tick(100) == ""
    assert session.tick(100 + 50_000) == "open"


def test_the_backoff_is_capped() -> None:
    """However often it fails, the next try comes within 3 s."""
    session = Session(("one",), 0)
    now_us = 0
    for _ in range(40):
        now_us = max(now_us, session.due_us())
        assert session.tick(now_us) == "open"
        session.closed(LOST, now_us, 1.0)
        assert session.due_us() - now_us <= BACKOFF_MAX_US


def test_only_frames_of_the_live_session_count() -> None:
    """A frame with another epoch is dropped, and so is every frame once the stream has ended."""
    session = live_session()
    assert session.heard(5, 20)
    assert not session.heard(4, 20)
    session.closed(LOST, 30, 0)
    assert not session.heard(5, 40)


def test_a_silent_session_is_closed() -> None:
    """A coordinator that says nothing for long is given up, once."""
    session = live_session()
    due_us = session.due_us()
    assert session.tick(due_us - 1) == ""
    assert session.tick(due_us) == "close"
    assert session.tick(due_us + 1) == ""
    assert session.closed(LOST, due_us + 2, 0) == ""
    assert session.tick(due_us + 3) == "open"


def test_a_welcome_that_does_not_come_is_given_up() -> None:
    """A stream that opens and stays silent is closed after the timeout."""
    session = Session(("one",), 0)
    session.tick(0)
    session.opened()
    assert session.tick(session.due_us()) == "close"


@pytest.mark.parametrize("reason", ["AGENT_NAME_TAKEN", "SESSION_SUPERSEDED", "AGENT_REMOVED", "INVALID_REQUEST"])
def test_a_refused_hello_is_final(reason: str) -> None:
    """A refusal that another try does not change ends the session for good, with the coordinator's sentence."""
    session = Session(("one",), 0)
    session.tick(0)
    session.opened()
    assert session.closed(End("FAILED_PRECONDITION", reason, "because"), 5, 0).startswith("because")
    assert session.phase is Phase.ENDED
    assert session.tick(10**9) == ""


def test_a_superseded_session_asks_once_more() -> None:
    """In the middle of a session, being superseded leads to a new Hello, whose answer decides."""
    session = live_session()
    assert session.closed(End("FAILED_PRECONDITION", "SESSION_SUPERSEDED", "newer"), 20, 0) == ""
    assert session.tick(20) == "open"


def test_a_lost_link_reconnects_at_once() -> None:
    """The death of the link is no failure of the coordinator: no backoff."""
    session = live_session()
    session.lost_link(50)
    assert session.tick(50) == "open"


def test_another_store_starts_its_own_epochs() -> None:
    """The highest epoch is remembered per store."""
    session = live_session()
    session.closed(LOST, 20, 0)
    session.tick(20)
    session.opened()
    session.welcomed(6, 1, "other store", 0, 30)
    assert (session.store_id, session.coordinator_epoch, session.heartbeat_us) == ("other store", 1, 2_000_000)


def test_only_what_is_synced_may_be_sent() -> None:
    """Written reports are held back until the disk has them, and again in a new session until they are acknowledged."""
    ledger = Ledger("o")
    assert [ledger.write(), ledger.write(), ledger.write()] == [1, 2, 3]
    assert not ledger.unsent()
    ledger.synced(2)
    assert list(ledger.unsent()) == [1, 2]
    ledger.sent(2)
    assert not ledger.unsent()
    assert ledger.acknowledge(1)
    ledger.rewind(1)
    assert list(ledger.unsent()) == [2]
    assert ledger.pending == 2


def test_an_ack_beyond_what_was_written_is_ignored() -> None:
    """A coordinator restored from elsewhere cannot make the agent drop what it has not."""
    ledger = Ledger("o")
    ledger.write()
    ledger.synced(1)
    assert not ledger.acknowledge(5)
    assert ledger.pending == 1


def test_time_spent_blocked_does_not_count() -> None:
    """A budget of 10 s is used up after 10 s of running, however long the wait in between."""
    deadlines = Deadlines()
    deadlines.start(1, 10_000_000, 0)
    deadlines.pause(1, 4_000_000)
    assert deadlines.expired(900_000_000) == []
    deadlines.resume(1, 900_000_000)
    assert deadlines.expired(905_999_999) == []
    assert deadlines.expired(906_000_000) == [1]
    assert deadlines.expired(999_000_000) == []


def test_granted_time_is_added() -> None:
    """An extension moves the end; no budget means no end."""
    deadlines = Deadlines()
    deadlines.start(1, 10_000_000, 0)
    deadlines.start(2, 0, 0)
    deadlines.extend(1, 5_000_000)
    deadlines.extend(2, 5_000_000)
    assert deadlines.expired(14_999_999) == []
    assert deadlines.expired(15_000_000) == [1]
