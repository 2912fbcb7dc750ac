"""The board: who holds a slot, who waits, who is parked, who comes back."""

from __future__ import annotations

from outrider_agent.core.board import SHORT_US, Admission, Attempt, Board, Limits, State, Unstarted


def board_of(slots: int = 1, credit: int = 0, parked_max: int = 4, workers: int = 0, queue_max: int = 8) -> Board:
    board = Board(Limits(slots, credit, parked_max, queue_max, 1))
    for worker_id in range(1, (workers or slots) + 1):
        board.worker_ready(worker_id)
    return board


def attempt(key: int, *, short: bool = False, command: bool = False) -> Attempt:
    return Attempt(key, f"t{key}", 1, 7, is_prefetched=short, is_command=command)


def test_work_over_slots_and_credit_is_refused() -> None:
    """An agent with one slot and no credit takes one attempt and refuses the second."""
    board = board_of()
    assert board.admit(attempt(1)) is Admission.ACCEPTED
    assert board.admit(attempt(2)) is Admission.NO_FREE_SLOT
    board.check()


def test_a_duplicate_assignment_is_accepted_again() -> None:
    """The same attempt under the same fence changes nothing; under another fence it is refused."""
    board = board_of()
    board.admit(attempt(1))
    assert board.admit(Attempt(2, "t1", 1, 7)) is Admission.DUPLICATE
    assert board.admit(Attempt(3, "t1", 1, 8)) is Admission.OTHER_FENCE
    assert list(board.attempts) == [1]


def test_a_draining_agent_takes_nothing() -> None:
    """Draining refuses new work."""
    board = board_of()
    board.is_draining = True
    assert board.admit(attempt(1)) is Admission.DRAINING


def test_starts_are_first_in_first_out() -> None:
    """Two slots start the two oldest; the third starts when one ends."""
    board = board_of(slots=2, credit=1)
    for key in (1, 2, 3):
        board.admit(attempt(key))
    assert board.plan(0).start == [(1, [1]), (2, [2])]
    board.closed(2, 10)
    assert board.plan(10).start == [(2, [3])]
    board.check()


def test_a_worker_that_leaves_is_sent_nothing_ahead() -> None:
    """It ends what it has; what waits is for others, also while there are none."""
    board = board_of(slots=1, credit=8)
    board.admit(attempt(1))
    assert board.plan(0).start == [(1, [1])]
    board.worker_leaves(1)
    board.admit(attempt(2, short=True))
    assert board.plan(0).start == []
    board.worker_ready(2)
    assert board.plan(0).start == []
    board.closed(1, 10)
    assert board.plan(10).start == [(2, [2])]
    board.check()


def test_short_functions_are_sent_ahead_in_equal_shares() -> None:
    """Functions beyond the slots are queued inside workers, evenly and in order."""
    board = board_of(slots=2, credit=8)
    for key in range(1, 9):
        board.admit(attempt(key, short=True))
    plan = board.plan(0)
    assert plan.start == [(1, [1]), (2, [2]), (1, [3, 4, 5]), (2, [6, 7, 8])]
    assert board.slots_used == 2
    board.check()


def test_nothing_is_queued_behind_a_command() -> None:
    """A short function is not put into a worker that runs a command."""
    board = board_of(slots=1, credit=4)
    board.admit(attempt(1, command=True))
    board.admit(attempt(2, short=True))
    assert board.plan(0).start == [(1, [1])]


def test_what_waits_behind_a_slow_attempt_is_recalled() -> None:
    """After 100 ms of one attempt the short functions behind it come back, in order, and go to a free worker."""
    board = board_of(slots=2, credit=8)
    for key in range(1, 5):
        board.admit(attempt(key, short=True))
    board.plan(0)
    board.started(1, 0)
    board.closed(2, 5)
    board.closed(4, 6)
    assert board.plan(SHORT_US + 1).recall == [(1, [3])]
    board.recalled(1, [3], SHORT_US + 2)
    assert board.plan(SHORT_US + 3).start == [(2, [3])]
    board.check()


def test_a_recalled_attempt_that_had_begun_stays() -> None:
    """A worker answers a recall with fewer keys than asked for: the others run on there."""
    board = board_of(slots=1, credit=8)
    board.admit(attempt(1, short=True))
    board.admit(attempt(2, short=True))
    board.plan(0)
    board.started(1, 0)
    board.plan(SHORT_US + 1)
    board.closed(1, SHORT_US + 2)
    board.recalled(1, [], SHORT_US + 3)
    assert list(board.workers[1].queue) == [2]
    board.check()


def test_a_blocked_attempt_gives_its_slot_to_the_next() -> None:
    """With one slot, an attempt that waits lets another one start in a second worker."""
    board = board_of(slots=1, credit=1, workers=1)
    board.admit(attempt(1))
    board.admit(attempt(2))
    board.plan(0)
    board.started(1, 0)
    board.blocked(1, "question")
    plan = board.plan(1)
    assert plan.workers_wanted == 2
    board.worker_ready(2)
    assert board.plan(2).start == [(2, [2])]
    assert (board.slots_used, board.parked) == (1, 1)
    board.check()


def test_an_answered_attempt_goes_before_new_ones() -> None:
    """A parked attempt that was answered takes the next free slot, whoever waits to start."""
    board = board_of(slots=1, credit=2, workers=2)
    for key in (1, 2):
        board.admit(attempt(key))
    board.plan(0)
    board.started(1, 0)
    board.blocked(1, "question")
    assert board.plan(1).start == [(2, [2])]
    board.admit(attempt(3))
    assert not board.answered(1)
    assert board.plan(2).resume == []
    board.closed(2, 3)
    plan = board.plan(4)
    assert (plan.resume, plan.start) == ([1], [])
    board.check()


def test_parking_is_bounded() -> None:
    """Beyond parked_max a blocked attempt keeps its slot and is answered at once."""
    board = board_of(slots=1, credit=1, parked_max=0)
    board.admit(attempt(1))
    board.plan(0)
    board.started(1, 0)
    board.blocked(1, "question")
    assert board.slots_used == 1
    assert board.answered(1)
    board.check()


def test_a_second_wait_parks_again() -> None:
    """One of two waits has ended: the attempt still waits, and gives its slot back again."""
    board = board_of(slots=1)
    board.admit(attempt(1))
    board.plan(0)
    board.started(1, 0)
    board.blocked(1, "a")
    board.blocked(1, "b")
    board.answered(1)
    assert board.plan(1).resume == [1]
    board.unblocked(1, "a")
    assert board.attempts[1].state is State.BLOCKED
    assert board.parked == 1
    board.unblocked(1, "b")
    assert board.attempts[1].state is State.STARTED
    board.check()


def test_a_worker_takes_only_its_running_attempt_with_it() -> None:
    """When a worker dies, what it ran is the victim and what waited behind goes elsewhere, in order."""
    board = board_of(slots=1, credit=8)
    for key in (1, 2, 3):
        board.admit(attempt(key, short=True))
    board.plan(0)
    board.started(1, 0)
    victims, returned = board.worker_gone(1, 1, 5)
    assert (victims, returned.fates) == ([1], [])
    board.closed(1, 6)
    board.worker_ready(2)
    assert board.plan(7).start == [(2, [2]), (2, [3])]
    board.check()


def test_an_attempt_that_only_the_running_page_names_is_the_victim() -> None:
    """A crash before the worker's Started arrives still blames the attempt that the worker had begun."""
    board = board_of(slots=1, credit=8)
    board.admit(attempt(1, short=True))
    board.admit(attempt(2, short=True))
    board.plan(0)
    assert board.worker_gone(1, 1, 5)[0] == [1]
    assert board.waiting_count == 1


def test_withdrawing_what_waits_takes_it_out() -> None:
    """An attempt that no worker has leaves the queue at once; one that a worker has must be recalled."""
    board = board_of(slots=1, credit=2)
    board.admit(attempt(1))
    board.admit(attempt(2))
    board.plan(0)
    assert board.withdraw(2, Unstarted.REVOKE)
    assert not board.withdraw(1, Unstarted.REVOKE)
    board.recalling(1)
    assert board.recalled(1, [1], 3).fates == [(1, Unstarted.REVOKE)]
    board.acknowledged(1, 4)
    board.acknowledged(2, 4)
    assert not board.attempts
    board.check()


def test_a_closed_attempt_is_held_until_it_is_acknowledged() -> None:
    """An outcome that the coordinator has not confirmed keeps the attempt in the inventory."""
    board = board_of()
    board.admit(attempt(1))
    board.plan(0)
    board.started(1, 0)
    board.closed(1, 1)
    found = board.find("t1", 1, 7)
    assert found is not None
    assert found.state is State.CLOSED
    board.acknowledged(1, 2)
    assert board.find("t1", 1, 7) is None


def test_who_was_answered_changes_places_with_who_waits_in_a_slot() -> None:
    """With as many parked as may be, an answered attempt goes on in the slot of one that waits there."""
    board = board_of(parked_max=1, workers=3)
    for key in (1, 2):
        board.admit(attempt(key))
        board.plan(0)
        board.started(key, 0)
        board.blocked(key, "k")
    assert (board.slots_used, board.parked) == (1, 1)
    board.answered(1)
    assert board.plan(10).resume == [1]
    assert (board.slots_used, board.parked) == (1, 1)
    board.check()
    assert not board.answered(2)


def test_who_waits_in_a_slot_is_parked_once_there_is_room() -> None:
    """A parked attempt ends: the next one that waits is parked, and new work has its slot."""
    board = board_of(credit=1, parked_max=1, workers=3)
    for key in (1, 2):
        board.admit(attempt(key))
        board.plan(0)
        board.started(key, 0)
        board.blocked(key, "k")
    board.admit(attempt(3))
    assert board.plan(0).start == []
    board.closed(1, 10)
    assert [keys for _, keys in board.plan(10).start] == [[3]]
    assert (board.slots_used, board.parked) == (1, 1)
    board.check()
