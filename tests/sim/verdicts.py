"""What a broken promise looks like, and how often each promise was put to the test."""

from __future__ import annotations

from collections import Counter

INVARIANTS = tuple(f"I{number}" for number in range(1, 22))
#: What the protocol and `docs/` promise beside: every time of a schedule fires once or is skipped and counted; a name
#: stands for one machine; a request is carried out once.
PROMISES = ("times", "names", "once")
LIVENESS = ("ends", "online", "empty", "quiet")
#: What must have come to pass somewhere, beside features and faults that were turned on.
SEEN = (
    "queue full",
    "disk rolled back",
    "large frame",
    "wait too many refused",
    "cap looked at",
    "old backup restored",
    "forgotten attempt begun",
    "epoch risen",
    "agent quarantined",
    "impostor refused",
    "hello behind a newer one",
    "machine rebooted",
    "tasks added to a run",
    "run cancelled",
    "run done again",
    "task done again",
    "run failed fast",
    "run bounded",
    "milestone reached",
    "task skipped for an unmet condition",
    "task skipped for a failure",
    "task of a later phase offered",
    "lock taken",
    "shared lock taken",
    "semaphore taken",
    "rate used",
    "limit held by who waited for it",
    "deadlock told",
    "schedule made",
    "schedule fired",
    "schedule replaced its work",
    "time of a schedule skipped",
    "time of a schedule waited",
)


class Broken(AssertionError):
    """One invariant does not hold; ``invariant`` is its name in the protocol, or a word of the liveness list."""

    def __init__(self, invariant: str, story: str) -> None:
        super().__init__(f"{invariant}: {story}")
        self.invariant = invariant


class Marks:
    """How often features, faults and invariants were exercised."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def saw(self, what: str, times: int = 1) -> None:
        """One more time."""
        self.counts[what] += times

    def demand(self, invariant: str, holds: bool, story: str, *details: object) -> None:
        """Judge once. Raises Broken when it does not hold; ``details`` go into the story's places."""
        self.counts[invariant] += 1
        if not holds:
            raise Broken(invariant, story.format(*details))
