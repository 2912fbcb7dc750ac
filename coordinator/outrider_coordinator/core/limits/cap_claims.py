"""Which caps on running tasks a task counts against: decided once, when it comes in. It knows no counts (`caps`)."""

from __future__ import annotations

from outrider_coordinator.core.model import Cap, Task
from outrider_coordinator.core.settings import CoreSettings

FLEET, TYPE, RUNNER, RUN = "fleet", "type", "runner", "run"


def claims_of(settings: CoreSettings, task: Task, run_max: int = 0) -> tuple[Cap, ...]:
    """The caps that a task counts against while it runs; none for most. ``run_max`` is its run's own, 0 for none."""
    found, runner = [], task.spec.demands.runner
    if settings.running_max:
        found.append(Cap(FLEET, "", settings.running_max))
    if most := settings.type_running_max.get(task.spec.kind):
        found.append(Cap(TYPE, task.spec.kind, most))
    if runner and (most := settings.runner_running_max.get(runner)):
        found.append(Cap(RUNNER, runner, most))
    if run_max:
        found.append(Cap(RUN, task.run_id, run_max))
    return tuple(found)
