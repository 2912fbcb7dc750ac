"""Request ids of recent submits: what makes a retried submit return the same task."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class RequestIndex:
    """The latest ``limit`` request ids, oldest dropped first.

    ``is_complete`` is True while every id ever accepted is still in memory; otherwise an id that is not found may be
    in the store, and the shell looks there before it submits. The order stands beside the table: the first key of a
    table whose first keys were deleted is found only behind all their empty places, 50 us once the limit is reached.
    """

    limit: int
    is_complete: bool = True
    _known: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    _order: deque[tuple[str, str]] = field(default_factory=deque)

    def find(self, namespace: str, request_id: str) -> tuple[str, bytes] | None:
        """Id of the task or run accepted under this request id, and its digest."""
        return self._known.get((namespace, request_id))

    def add(self, namespace: str, request_id: str, accepted_id: str, digest: bytes) -> None:
        """Remember an accepted request; an empty request id is not remembered."""
        if not request_id:
            return
        key = (namespace, request_id)
        if key not in self._known:
            self._order.append(key)
        self._known[key] = (accepted_id, digest)
        if len(self._order) > self.limit:
            del self._known[self._order.popleft()]
            self.is_complete = False
