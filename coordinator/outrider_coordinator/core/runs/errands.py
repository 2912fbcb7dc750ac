"""What is too long for one step: consequences for ten thousand tasks, a run of ten thousand. Data only.

Whoever begins such work puts an errand into ``state.errands``; `slices` carries them out, a slice in each step. An
errand is never durable by itself: at every moment the rows written so far say what is still to be done, and recovery
begins it anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from outrider_coordinator.core.events import ReplyTo, RunMember, RunSubmitted, TasksAdded
from outrider_coordinator.core.model import Run, Task
from outrider_coordinator.core.records import InsertTask
from outrider_coordinator.core.spec import Condition
from outrider_coordinator.core.states import Reason, TaskState


@dataclass(slots=True)
class Consequence:
    """A task or phase ended: decide those that waited for it, from ``position`` on. ``label`` is for messages.

    ``agent_id`` is where the task ended, empty when it ended nowhere.
    """

    ended_id: str
    label: str
    state: TaskState
    reason: Reason
    dependent_ids: list[str]
    agent_id: str = ""
    position: int = 0


@dataclass(slots=True)
class Decision:
    """Tasks that have just entered or were read back: skip those whose dependencies ended otherwise, else make ready.

    ``unmet`` maps a task to what decided against it: what a `Consequence` would say of that dependency.
    """

    task_ids: list[str]
    unmet: dict[str, tuple[str, TaskState, Reason]]
    position: int = 0


@dataclass(slots=True)
class RunStop:
    """Cancel every task of a run that is open, from ``position`` on; ``decided`` counts those that this decides."""

    run: Run
    task_ids: list[str]
    reason: Reason
    message: str
    reply: ReplyTo | None = None
    position: int = 0
    decided: int = 0


@dataclass(slots=True)
class Edges:
    """What one task comes after, as far as it was read: ids, keys and conditions beside each other.

    ``inside`` are conditions by the id of tasks that enter with it; ``outside`` edges to tasks of before.
    """

    ids: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    inside: dict[str, Condition] = field(default_factory=dict)
    outside: list[tuple[str, Condition]] = field(default_factory=list)


@dataclass(slots=True)
class Admission:
    """A graph, or an addition to one, on its way in: rows are made slice by slice, and all of them enter in one step.

    Nothing of it is in the state before that step, so a crash or a refusal leaves nothing. ``edges`` are those of the
    next member that were read. ``outside`` are edges to tasks that were there before: (task, id of the other,
    condition); ``roots`` what may be decided on entering.
    """

    event: RunSubmitted | TasksAdded
    run: Run
    created_us: int
    ids: dict[str, str]
    part_number: int
    first_phase: int
    tasks: dict[str, Task] = field(default_factory=dict)
    rows: list[InsertTask] = field(default_factory=list)
    edges: Edges = field(default_factory=Edges)
    phases: list[int] = field(default_factory=list)
    milestones: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    dependents: dict[str, list[str]] = field(default_factory=dict)
    outside: list[tuple[Task, str, Condition]] = field(default_factory=list)
    roots: list[str] = field(default_factory=list)
    position: int = 0

    @property
    def members(self) -> list[RunMember]:
        """The tasks to take in."""
        return self.event.members


Errand = Consequence | Decision | RunStop | Admission
