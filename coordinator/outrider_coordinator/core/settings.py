"""Bounds and times of the decisions; the daemon fills them from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from outrider_coordinator.core.spec import SECOND_US, Strategy


class WaitBudgets(NamedTuple):
    """How long a wait of a kind may last when its task does not say; 0: any time."""

    dependency_us: int = 0
    external_us: int = 0
    complexity_us: int = 0
    clarification_us: int = 0


#: Waits last as long as they last.
NO_BUDGETS = WaitBudgets()


class Preemption(Enum):
    """Whose slot a CRITICAL task that finds none may take."""

    PREEMPTIBLE = "preemptible"
    LOWER = "lower"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """Bounds and times of the decisions; the daemon fills them from its settings."""

    queue_depth_max: int = 1_000_000
    submitter_open_max: int = 1_000_000
    schedules_max: int = 10_000
    request_ids_max: int = 200_000
    heartbeat_interval_us: int = 2 * SECOND_US
    suspect_after_us: int = 6 * SECOND_US
    lost_after_us: int = 300 * SECOND_US
    accept_timeout_us: int = 5 * SECOND_US
    startup_hold_us: int = 25 * SECOND_US
    retry_floor: int = 60
    alarm_hold_us: int = 60 * SECOND_US
    alarm_interval_us: int = 600 * SECOND_US
    stop_overdue_us: int = 60 * SECOND_US
    breaker_failures: int = 5
    breaker_rate: float = 0.5
    breaker_window_us: int = 600 * SECOND_US
    breaker_samples_min: int = 10
    breaker_reset_us: int = 30 * SECOND_US
    breaker_reset_max_us: int = 600 * SECOND_US
    half_open_tests: int = 2
    probe_time_us: int = 60 * SECOND_US
    fails_everywhere: int = 3
    system_failures: int = 3
    poison_limit: int = 3
    lost_attempts_max: int = 3
    short_function_us: int = 50_000
    line_us: int = 250_000
    placement: Strategy = Strategy.LEAST_LOADED
    preemption: Preemption = Preemption.PREEMPTIBLE
    aging_us: int = 600 * SECOND_US
    shares: Mapping[str, float] = field(default_factory=dict)
    wait_budgets: WaitBudgets = NO_BUDGETS
    running_max: int = 0
    type_running_max: Mapping[str, int] = field(default_factory=dict)
    runner_running_max: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_caps(self) -> bool:
        """Whether there is a cap on running tasks, beside those of runs."""
        return bool(self.running_max or self.type_running_max or self.runner_running_max)
