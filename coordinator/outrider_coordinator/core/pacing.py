"""How much one step does: what is waiting shares the time that a step may take, and the rest has the next ones.

A unit is about 10 us of a step: one timer, one task that an errand decides, one offer. Facts come first and are counted
by what they are about; the shell gives a step no more of them than `fitting` says. What is left over makes the next
step due at once (`step.next_due_us`), so nothing waits longer than its turn takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from outrider_coordinator.core.events import ReportsReceived, SessionOpened, TasksSubmitted

#: Tasks, reports and other facts that one step is given: 4 to 6 us each.
FACTS_MAX = 256
#: The shell brings tasks and reports that came together in parts of so many, where they need not stay together.
PART_MAX = 128
#: Units that one step has beside its facts, and how many timers, or offers in doubt, it takes at most.
UNITS, TIMERS_MAX = 160, 64
#: What is kept of them for errands and for offers, however much else there is to do.
ERRANDS_MIN, OFFERS_MIN = 32, 32


def fitting(waiting: Sequence[object]) -> int:
    """How many of the facts that wait, counted from the first, the next step takes: at least one when there is one."""
    if len(waiting) == 1:
        return 1
    count = facts = 0
    for event in waiting:
        facts += _size(event)
        if facts > FACTS_MAX and count:
            break
        count += 1
    return count


def _size(event: object) -> int:
    if isinstance(event, ReportsReceived):
        return len(event.reports)
    if isinstance(event, TasksSubmitted):
        return len(event.submissions)
    return 8 + len(event.held) if isinstance(event, SessionOpened) else 4
