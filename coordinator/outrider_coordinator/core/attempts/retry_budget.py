"""Retries may be a tenth of what the fleet is offered, and a floor: more of them wait their turn, none is dropped.

Counted over the last `WINDOW_US`. The loss of one agent is exempt: its work goes elsewhere at once; what a second one
lost in the same window is counted. Without this, a fault that fails everything would be answered with more of the same.
It must not know why an attempt failed, beyond the agent it was lost with.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from outrider_coordinator.core.spec import SECOND_US

WINDOW_US, SAMPLE_US = 60 * SECOND_US, 5 * SECOND_US
SHARE = 0.1


@dataclass(slots=True)
class RetryBudget:
    """``dispatched`` and ``retried`` only rise; ``samples`` are (time, dispatched, retried) of the last window.

    ``delayed`` maps a task to when its turn comes; ``turn_us`` is the last turn that was given away.
    """

    floor: int
    dispatched: int = 0
    retried: int = 0
    turn_us: int = 0
    exempt_agent_id: str = ""
    exempt_until_us: int = 0
    samples: deque[tuple[int, int, int]] = field(default_factory=deque)
    delayed: dict[str, int] = field(default_factory=dict)

    def sample(self, now_us: int) -> None:
        """Remember where the counts are, now and then."""
        if not self.samples or self.samples[-1][0] <= now_us - SAMPLE_US:
            self.samples.append((now_us, self.dispatched, self.retried))
            while self.samples[0][0] < now_us - WINDOW_US:
                self.samples.popleft()

    def allowance(self, now_us: int) -> int:
        """Retries that a window like the last one may have in all."""
        self.sample(now_us)
        return self.floor + int(SHARE * (self.dispatched - self.samples[0][1]))

    def take(self, task_id: str, ready_us: int, now_us: int) -> int:
        """When a retry that would be ready then may be offered: then, or when its turn comes."""
        allowance = self.allowance(now_us)
        self.delayed.pop(task_id, None)
        if self.turn_us <= now_us and self.retried - self.samples[0][2] < allowance:
            self.retried += 1
            return ready_us
        self.turn_us = max(self.turn_us, now_us) + WINDOW_US // allowance
        if self.turn_us <= ready_us:
            return ready_us
        self._forget(now_us)
        self.delayed[task_id] = self.turn_us
        return self.turn_us

    def is_exempt(self, agent_id: str, now_us: int) -> bool:
        """Whether what was lost with this agent is free: it is the one agent that this window may lose."""
        if now_us >= self.exempt_until_us:
            self.exempt_agent_id, self.exempt_until_us = agent_id, now_us + WINDOW_US
        return agent_id == self.exempt_agent_id

    def _forget(self, now_us: int) -> None:
        """Drop those whose turn has come; they stand in the order in which their turns come."""
        while self.delayed:
            task_id = next(iter(self.delayed))
            if self.delayed[task_id] > now_us:
                return
            del self.delayed[task_id]
