"""When a queued task is likely to start, where it is known how long work of its kinds takes.

Formula: let f_i be the time until slot i is free (0 for a free one; else what the attempt's kind takes on average, less
what it has run already, at least 0), and d the mean duration of the n tasks that go before it. Each slot then starts
one task at f_i, f_i + d, f_i + 2d, ...; the task starts at the least t by which n + 1 of these starts have come. The
mean of a kind is the moving average of what it took, before that the submitter's estimate. Where a kind of work that
matters is not known there is no prediction. Limits, systems and agents that come or go are not foreseen.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

from outrider_coordinator.core.explain.position import Ahead
from outrider_coordinator.core.model import Agent, Attempt
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import AttemptState

#: Slots that are looked at one by one; of a larger fleet these stand for all.
SLOTS_MAX = 500
_SLICE = 50


def start_in_us(state: State, agents: Sequence[Agent], before: Iterable[Ahead]) -> Generator[None, None, int | None]:
    """Microseconds until a task starts on one of these agents behind ``before``; None where that is not known."""
    work_us, count = 0.0, 0
    for kind, number, estimated_us in before:
        known_us = state.durations_us.get(kind) or estimated_us
        if not known_us:
            return None
        work_us, count = work_us + known_us * number, count + number
    free_us: list[float] = []
    slots = sum(agent.slots for agent in agents)
    for position, agent in enumerate(agents):
        if len(free_us) >= SLOTS_MAX:
            break
        if position % _SLICE == _SLICE - 1:
            yield
        free_us += _free_us(state, agent)
    if not free_us:
        return None
    share = min(1.0, len(free_us) / max(1, slots))
    return int(_start_us(sorted(free_us), work_us / count if count else 0.0, int(count * share)))


def _free_us(state: State, agent: Agent) -> list[float]:
    """When the agent's slots are free; those with work of which nothing is known are left out."""
    free: list[float] = [0.0] * agent.free_slots
    for attempt in agent.attempts.values():
        left_us = _left_us(state, attempt) if attempt.holds_slot else None
        if left_us is not None:
            free.append(left_us)
    return free


def _left_us(state: State, attempt: Attempt) -> float | None:
    task = state.tasks.get(attempt.task_id)
    known_us = (state.durations_us.get(task.spec.kind) or task.spec.estimated_us) if task else 0
    if not known_us:
        return None
    begun_us = attempt.started_us if attempt.state is AttemptState.STARTED else state.now_us
    return max(0.0, known_us - max(0, state.now_us - begun_us))


def _start_us(free_us: list[float], duration_us: float, count: int) -> float:
    """The formula; ``free_us`` in order. Found by halving, to the millisecond."""
    if duration_us < 1:
        return free_us[0]
    low, high = 0.0, free_us[0] + duration_us * count
    if free_us[0] == 0 and _starts(free_us, duration_us, 0.0) > count:
        return 0.0
    while high - low > 1000:
        middle = (low + high) / 2
        low, high = (low, middle) if _starts(free_us, duration_us, middle) > count else (middle, high)
    return high


def _starts(free_us: list[float], duration_us: float, until_us: float) -> int:
    """How many tasks have been started by then."""
    return sum(int((until_us - free) // duration_us) + 1 for free in free_us if free <= until_us)
