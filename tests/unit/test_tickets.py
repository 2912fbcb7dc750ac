"""One task as its client sees it: accepted once, ended once, every callback once."""

from __future__ import annotations

import threading

import pytest

from outrider.errors import NotFound, OutriderError, TooLarge
from outrider.transport.tickets import Ticket
from outrider.v1 import event_pb2

SUCCEEDED = event_pb2.Event(type=event_pb2.EVENT_TYPE_TASK_SUCCEEDED, task_id="t")
FAILED = event_pb2.Event(type=event_pb2.EVENT_TYPE_TASK_FAILED, task_id="t")


@pytest.fixture
def ticket() -> Ticket:
    """A ticket that nothing has happened to."""
    return Ticket(threading.Lock())


@pytest.fixture
def heard(ticket: Ticket) -> list[str]:
    """What its callbacks were told."""
    calls: list[str] = []
    ticket.when_accepted(lambda: calls.append("accepted"))
    ticket.when_ended(lambda: calls.append("ended"))
    return calls


def test_callbacks_come_once_each_after_what_they_wait_for(ticket: Ticket, heard: list[str]) -> None:
    """Accepted, then ended; what is registered later is called at once."""
    assert heard == []
    ticket.accept("t")
    assert (heard, ticket.task_id, ticket.is_accepted, ticket.is_ended) == (["accepted"], "t", True, False)
    ticket.end(SUCCEEDED)
    assert (heard, ticket.is_ended) == (["accepted", "ended"], True)
    ticket.when_ended(lambda: heard.append("late"))
    ticket.when_accepted(lambda: heard.append("later"))
    assert heard == ["accepted", "ended", "late", "later"]


def test_the_first_end_stands(ticket: Ticket, heard: list[str]) -> None:
    """A second outcome, or the client's closing, changes nothing."""
    ticket.accept("t")
    ticket.end(SUCCEEDED)
    ticket.end(FAILED)
    ticket.fail(OutriderError("closed"))
    assert ticket.event is SUCCEEDED
    assert ticket.failure is None
    assert heard == ["accepted", "ended"]


def test_a_refusal_is_an_answer_and_an_end(ticket: Ticket, heard: list[str]) -> None:
    """Who waits for the id and who waits for the result both hear of it."""
    refused = TooLarge("no")
    ticket.fail(refused)
    assert heard == ["accepted", "ended"]
    assert ticket.failure is refused
    assert ticket.is_accepted
    assert not ticket.task_id


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_second_ticket_ends_as_the_first(ticket: Ticket, is_refused: bool) -> None:
    """Two tickets for one task have one outcome."""
    first = Ticket(threading.Lock(), "t")
    if is_refused:
        first.fail(NotFound("gone"))
    else:
        first.end(SUCCEEDED)
    ticket.end_as(first)
    assert (ticket.event, ticket.failure) == (first.event, first.failure)


def test_no_callback_is_lost_between_threads() -> None:
    """Registering while it ends in another thread: each callback is called exactly once."""
    for _ in range(200):
        ticket = Ticket(threading.Lock(), "t")
        called: list[int] = []
        start = threading.Barrier(2)

        def end(ticket: Ticket = ticket, start: threading.Barrier = start) -> None:
            start.wait()
            ticket.end(SUCCEEDED)

        thread = threading.Thread(target=end)
        thread.start()
        start.wait()
        for number in range(5):
            ticket.when_ended(lambda number=number, called=called: called.append(number))  # type: ignore[misc]  # defaults bind now
        thread.join()
        assert sorted(called) == [0, 1, 2, 3, 4]
