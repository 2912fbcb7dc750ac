"""How far a run is and when it may end: reads memory piece by piece, changes nothing, promises nothing.

The estimate is the bound by Brent and Graham: work W spread over p lanes with a critical path C takes at least
max(C, W / p); phases follow each other, so theirs are added up. C and W are what is left: for each open task the
average of its kind, else the submitter's guess, else the average of those that are known; less what it has run. p is
the number of the run's live attempts, and before there is one the slots of all agents that are online, within
``max_parallel``. Limits: it knows no retries, no limits, no other runs in the queue and no skipped branches, waits
count as if they took no time, and a task that runs for longer than its kind is taken to end at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from outrider_coordinator.core.model import Run, Task
from outrider_coordinator.core.state import State

_UNKNOWN_US = -1


class OpenTask(NamedTuple):
    """What is left of a task: ``left_us`` is `_UNKNOWN_US` where nothing is known of its kind."""

    id: str
    phase: int
    left_us: int
    waiting_for: tuple[str, ...]


@dataclass(slots=True)
class Sight:
    """What has been seen of a run so far. ``reports`` are (weight, serialized Progress) of tasks under way."""

    lanes: int = 0
    busy_us: int = 0
    first_start_us: int = 0
    agents: set[str] = field(default_factory=set)
    reports: list[tuple[float, bytes]] = field(default_factory=list)
    open: list[OpenTask] = field(default_factory=list)


def look(state: State, run: Run, task_ids: Iterable[str], now_us: int, sight: Sight) -> None:
    """Take some tasks of a run in; those that are over say nothing here."""
    for task_id in task_ids:
        task = state.tasks.get(task_id)
        if task is None or task.is_terminal:
            continue
        ran_us = _under_way(task, now_us, sight) if task.attempt is not None else 0
        known_us = state.durations_us.get(task.spec.kind) or task.spec.estimated_us
        left_us = max(0, int(known_us) - ran_us) if known_us else _UNKNOWN_US
        waiting_for = tuple(task.waiting_for) if task.waiting_for else ()
        sight.open.append(OpenTask(task_id, run.phase_of(task_id), left_us, waiting_for))


def lanes(state: State, run: Run, sight: Sight) -> int:
    """How many tasks of the run can be under way at once, as far as can be told; at least 1."""
    count = len(sight.agents) and sight.lanes
    if not count:
        count = sum(agent.slots for agent in state.agents.values() if agent.is_online)
    return max(1, min(count, run.max_parallel or count, len(sight.open)))


def estimate_us(sight: Sight, lane_count: int) -> int | None:
    """Time until the run is likely to end; None while nothing is known of any open task."""
    known = [task.left_us for task in sight.open if task.left_us != _UNKNOWN_US]
    if not known:
        return None
    mean_us = sum(known) // len(known)
    phases: dict[int, list[OpenTask]] = {}
    for task in sight.open:
        left_us = mean_us if task.left_us == _UNKNOWN_US else task.left_us
        phases.setdefault(task.phase, []).append(task._replace(left_us=left_us))
    return sum(max(_critical_us(tasks), sum(t.left_us for t in tasks) // lane_count) for tasks in phases.values())


def _under_way(task: Task, now_us: int, sight: Sight) -> int:
    """Count a live attempt; how long it has run."""
    assert task.attempt is not None
    sight.lanes += 1
    sight.agents.add(task.attempt.agent_id)
    if task.progress:
        sight.reports.append((task.spec.weight, task.progress))
    started_us = task.attempt.started_us
    if not started_us:
        return 0
    ran_us = max(0, now_us - started_us)
    sight.busy_us += ran_us
    sight.first_start_us = min(sight.first_start_us or started_us, started_us)
    return ran_us


def _critical_us(tasks: Sequence[OpenTask]) -> int:
    """The longest way through tasks of one phase."""
    left = {task.id: task for task in tasks}
    waits = {task.id: sum(other in left for other in task.waiting_for) for task in tasks}
    followers: dict[str, list[str]] = {}
    for task in tasks:
        for other in task.waiting_for:
            if other in left:
                followers.setdefault(other, []).append(task.id)
    begins_us = dict.fromkeys(left, 0)
    ready = [task_id for task_id, count in waits.items() if not count]
    longest_us = 0
    while ready:
        task_id = ready.pop()
        end_us = begins_us[task_id] + left[task_id].left_us
        longest_us = max(longest_us, end_us)
        for follower in followers.get(task_id, ()):
            begins_us[follower] = max(begins_us[follower], end_us)
            waits[follower] -= 1
            if not waits[follower]:
                ready.append(follower)
    return longest_us
