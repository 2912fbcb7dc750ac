"""The release queue: nothing leaves before what it rests on is durable."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from outrider_coordinator.release import ReleaseQueue

#: A step with so many rows, or None: the commit in flight ends.
MOVES = st.lists(st.one_of(st.integers(0, 5), st.none()), max_size=60)


@dataclass
class Walk:
    """A queue with a store of which every commit is known."""

    queue: ReleaseQueue[int, int] = field(default_factory=lambda: ReleaseQueue(rows_per_batch_max=7))
    made: int = 0
    #: Release (its number) to the last row that existed when it was made.
    rests_on: dict[int, int] = field(default_factory=dict)
    rows: int = 0
    durable: list[int] = field(default_factory=list)
    in_flight: list[int] | None = None
    released: list[int] = field(default_factory=list)

    def step(self, row_count: int) -> None:
        """A step makes rows and one release."""
        rows = list(range(self.rows + 1, self.rows + row_count + 1))
        self.rows += row_count
        self.made += 1
        self.rests_on[self.made] = self.rows
        self._take(self.queue.add(rows, [self.made]))
        self._begin()

    def commit_ends(self) -> None:
        """The store has synced what is in flight."""
        if self.in_flight is None:
            return
        self.durable += self.in_flight
        self.in_flight = None
        self._take(self.queue.committed())
        self._begin()

    def _begin(self) -> None:
        rows = self.queue.next_commit()
        if rows is not None:
            assert self.in_flight is None, "two commits at once"
            self.in_flight = rows

    def _take(self, released: list[int]) -> None:
        for release in released:
            assert len(self.durable) >= self.rests_on[release], f"{release} left before its rows were durable"
        self.released += released


@given(MOVES)
def test_nothing_is_released_before_the_commit_that_was_current(moves: list[int | None]) -> None:
    """A release waits for every row that existed when it was made, its own and earlier ones."""
    walk = Walk()
    for move in moves:
        if move is None:
            walk.commit_ends()
        else:
            walk.step(move)


@given(MOVES)
def test_order_is_kept_and_nothing_is_lost(moves: list[int | None]) -> None:
    """Rows are committed and releases leave in the order they were made, each once."""
    walk = Walk()
    for move in moves:
        if move is None:
            walk.commit_ends()
        else:
            walk.step(move)
        assert walk.released == list(range(1, len(walk.released) + 1))
    while walk.in_flight is not None:
        walk.commit_ends()
    assert walk.released == list(range(1, walk.made + 1))
    assert walk.durable == list(range(1, walk.rows + 1))
    assert walk.queue.uncommitted_rows == 0


@given(st.integers(1, 5))
def test_an_empty_step_leaves_at_once_when_idle(steps: int) -> None:
    """With nothing open and nothing in flight, a step that wrote nothing waits for nothing."""
    queue: ReleaseQueue[int, int] = ReleaseQueue()
    for number in range(steps):
        assert queue.add([], [number]) == [number]
        assert queue.next_commit() is None


def test_an_empty_step_waits_for_the_commit_in_flight() -> None:
    """It rests on rows that are not durable yet, though it wrote none."""
    queue: ReleaseQueue[int, str] = ReleaseQueue()
    assert queue.add([1], ["first"]) == []
    assert queue.next_commit() == [1]
    assert queue.add([], ["empty"]) == []
    assert queue.next_commit() is None
    assert queue.committed() == ["first", "empty"]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30))
def test_a_batch_closes_when_it_is_large(steps: list[int]) -> None:
    """A batch takes no further step once it has the rows it may have, so no transaction grows without bound."""
    queue: ReleaseQueue[int, int] = ReleaseQueue(rows_per_batch_max=7)
    for number, row_count in enumerate(steps):
        queue.add([number] * row_count, [number])
        assert queue.uncommitted_rows == sum(steps[: number + 1])
    while (rows := queue.next_commit()) is not None:
        assert len(rows) < 7 + 5
        queue.committed()
