"""Caps: how many attempts may run at once in the fleet, of one type of work, with one runner.

Counted is every live attempt that is not BLOCKED, from its offer on. A blocked one gives its place to others and takes
it again when it goes on, whether there is room or not; then nothing new starts until there is. It must not know how
tasks are queued, nor who may take them.

Invariant: counts are the sums over live attempts that are not BLOCKED.
"""

from __future__ import annotations

from outrider_coordinator.core.limits import holdings
from outrider_coordinator.core.limits.cap_claims import FLEET, RUN, RUNNER, TYPE
from outrider_coordinator.core.model import Attempt, Cap, Task
from outrider_coordinator.core.rules import Rule
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import AttemptState


def held_back(state: State, task: Task) -> Rule | None:
    """The first cap that is reached, None when there is room under all."""
    for cap in task.caps:
        if state.capped.get(cap, 0) >= cap.most:
            return Rule("CAP", _TEXTS[cap.kind].format(name=cap.name, most=cap.most))
    return None


def take(state: State, task: Task, attempt: Attempt) -> None:
    """An attempt runs, or is about to."""
    if attempt.caps or attempt.state is AttemptState.BLOCKED:
        return
    attempt.caps = task.caps
    for cap in task.caps:
        state.capped[cap] = state.capped.get(cap, 0) + 1


def leave(state: State, attempt: Attempt) -> None:
    """An attempt is blocked, or no longer live."""
    caps, attempt.caps = attempt.caps, ()
    for cap in caps:
        state.capped[cap] -= 1
        if not state.capped[cap]:
            del state.capped[cap]
    holdings.changed(state)


def check(state: State) -> None:
    """The counts are those of live attempts."""
    found: dict[Cap, int] = {}
    for agent in state.agents.values():
        for attempt in agent.attempts.values():
            caps = state.tasks[attempt.task_id].caps if attempt.state is not AttemptState.BLOCKED else ()
            assert attempt.caps == caps, f"attempt {attempt.key} counts against {attempt.caps}, should against {caps}"
            for cap in caps:
                found[cap] = found.get(cap, 0) + 1
    assert found == state.capped, f"{found} run under caps, counted are {state.capped}"


_TEXTS = {
    FLEET: "{most} tasks run, as many as coordinator.running_max allows",
    TYPE: "{most} tasks of type {name} run, as many as coordinator.type_running_max allows",
    RUN: "{most} tasks of its run are under way, as many as its max_parallel allows",
    RUNNER: "{most} tasks with runner {name} run, as many as coordinator.runner_running_max allows",
}
