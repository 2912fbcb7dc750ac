"""What was submitted, as far as decisions need it. A spec never changes once its task is accepted."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

SECOND_US = 1_000_000


#: Labels of an agent whose names begin so are no labels of its own: each is a secret that it hands to tasks.
SECRET_PREFIX = "secret:"


class Operator(IntEnum):
    """How a label constraint compares.

    ADMITS is for secrets alone, and never on the wire: the label is a list of words, and one of the values is in it.
    """

    IN = 1
    NOT_IN = 2
    EXISTS = 3
    NOT_EXISTS = 4
    ADMITS = 5


class Constraint(NamedTuple):
    """One hard requirement on an agent's labels."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


class Strategy(IntEnum):
    """How an agent is chosen among those that may take a task; DEFAULT is the coordinator's setting."""

    DEFAULT = 0
    LEAST_LOADED = 1
    ROUND_ROBIN = 2
    RANDOM = 3
    PERFORMANCE = 4
    TWO_CHOICES = 5


class Condition(IntEnum):
    """How a dependency must end for a task to start."""

    SUCCESS = 1
    FAILURE = 2
    ALWAYS = 3


class WaitExpiry(IntEnum):
    """What happens when a wait lasts longer than its budget. What cannot move any more fails, or is kept."""

    @property
    def moves(self) -> bool:
        """Whether it moves as long as it can."""
        return self in (WaitExpiry.MOVE, WaitExpiry.MOVE_OR_KEEP)

    FAIL = 1
    MOVE = 2
    KEEP = 3
    MOVE_OR_KEEP = 4


class Claim(NamedTuple):
    """Units of a named limit, or one side of a read/write lock, that a task holds while it has a live attempt."""

    key: str
    shared: bool = False
    units: int = 1

    def with_(self, more: Claim) -> Claim:
        """Both as one."""
        return Claim(self.key, self.shared and more.shared, self.units + more.units)


class Demands(NamedTuple):
    """Everything that placement can tell two tasks apart by, save their priority and submitter; hashable.

    ``resources`` are (name, amount) by name, amounts above 0. ``affinities`` are (agent id, weight of -100 to 100).
    ``scopes`` are globs of what the task writes. ``is_signed``: agents that take nothing else take it. ``refused_by``
    are the agents that never take it, by name. All but ``strategy`` to ``sticky`` are conditions.
    """

    constraints: tuple[Constraint, ...] = ()
    resources: tuple[tuple[str, float], ...] = ()
    runner: str = ""
    task_type: str = ""
    claims: tuple[Claim, ...] = ()
    scopes: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    strategy: Strategy = Strategy.DEFAULT
    affinities: tuple[tuple[str, int], ...] = ()
    avoid_tags: tuple[str, ...] = ()
    spread: bool = False
    sticky: bool = False
    is_signed: bool = False
    refused_by: tuple[str, ...] = ()


#: Any agent will do.
NO_DEMANDS = Demands()


class WaitPolicy(NamedTuple):
    """How long one kind of wait may last, 0 for any time, and what happens then."""

    budget_us: int = 0
    on_expiry: WaitExpiry = WaitExpiry.FAIL


class WaitPolicies(NamedTuple):
    """How a task's waits are handled; ``extension_max_us`` of running time is granted without asking anybody."""

    dependency: WaitPolicy = WaitPolicy()
    external: WaitPolicy = WaitPolicy()
    complexity: WaitPolicy = WaitPolicy()
    clarification: WaitPolicy = WaitPolicy()
    extension_max_us: int = 0


#: Waits last as long as they last.
PATIENT = WaitPolicies()


@dataclass(slots=True)
class Spec:
    """What was submitted, as far as decisions need it; ``body`` is the whole TaskSpec, serialized.

    Durations are microseconds; 0 means "none" for ``timeout_us``, ``queue_timeout_us``, ``deadline_us`` (from submit
    to the end) and ``estimated_us``. ``max_attempts`` 0 means that a failure of the task's own is final while losses
    with an agent or worker are tried again. ``weight`` is the share of its run's progress.
    """

    body: bytes
    kind: str
    is_function: bool
    title: str = ""
    priority: int = 5
    demands: Demands = NO_DEMANDS
    tags: tuple[str, ...] = ()
    weight: float = 1.0
    estimated_us: int = 0
    max_attempts: int = 0
    initial_backoff_us: int = SECOND_US
    max_backoff_us: int = 60 * SECOND_US
    backoff_multiplier: float = 2.0
    disconnect_grace_us: int = 5 * SECOND_US
    not_before_us: int = 0
    queue_timeout_us: int = 0
    deadline_us: int = 0
    exclusive: bool = False
    at_most_once: bool = False
    preemptible: bool = False
    waits: WaitPolicies = PATIENT
