"""What may be released when: the rule that nothing is sent before what it rests on is durable. Pure.

Steps join the open batch. A batch is closed when the store is free to commit it; everything that was made while it
was open, also by steps that wrote nothing, waits for that commit. With nothing open and nothing in flight a step that
wrote nothing is released at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Row = TypeVar("Row")
Release = TypeVar("Release")


@dataclass(slots=True)
class Batch(Generic[Row, Release]):
    """Rows of one transaction, and what waits for it, in order."""

    rows: list[Row] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)


@dataclass(slots=True)
class ReleaseQueue(Generic[Row, Release]):
    """Batches in commit order: one may be in flight, the rest gather."""

    rows_per_batch_max: int = 20_000
    waiting: deque[Batch[Row, Release]] = field(default_factory=deque)
    in_flight: Batch[Row, Release] | None = None

    def add(self, rows: Sequence[Row], releases: Sequence[Release]) -> list[Release]:
        """Take in one step; returns what may be released at once (only when nothing is uncommitted)."""
        if not rows and self.in_flight is None and not self.waiting:
            return list(releases)
        if not rows and not self.waiting and self.in_flight is not None:
            self.in_flight.releases.extend(releases)
            return []
        if not self.waiting or len(self.waiting[-1].rows) >= self.rows_per_batch_max:
            self.waiting.append(Batch())
        self.waiting[-1].rows.extend(rows)
        self.waiting[-1].releases.extend(releases)
        return []

    def next_commit(self) -> list[Row] | None:
        """Rows to commit now; None while a commit is in flight or nothing waits."""
        if self.in_flight is not None or not self.waiting:
            return None
        self.in_flight = self.waiting.popleft()
        return self.in_flight.rows

    def committed(self) -> list[Release]:
        """The commit in flight succeeded: what may be released, in order."""
        assert self.in_flight is not None, "nothing was being committed"
        releases, self.in_flight = self.in_flight.releases, None
        return releases

    @property
    def uncommitted_rows(self) -> int:
        """Rows that are not durable yet."""
        in_flight = len(self.in_flight.rows) if self.in_flight else 0
        return in_flight + sum(len(batch.rows) for batch in self.waiting)
