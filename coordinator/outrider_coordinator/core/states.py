"""Where tasks, attempts and agents can be in their lives, why, and the kinds of entries of the event log.

Numbers equal those of the protocol (`protos/outrider/v1`), so that a state can travel without a translation table.
"""

from __future__ import annotations

from enum import IntEnum


class TaskState(IntEnum):
    """Where a task is in its life."""

    PENDING = 1
    QUEUED = 2
    ASSIGNED = 3
    RUNNING = 4
    BLOCKED = 5
    CANCELLING = 6
    SUCCEEDED = 7
    FAILED = 8
    CANCELLED = 9
    EXPIRED = 10
    SKIPPED = 11


TERMINAL = frozenset((TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED, TaskState.SKIPPED))


class Reason(IntEnum):
    """Why a task or attempt is in its state."""

    NONE = 0
    TASK_ERROR = 1
    TIMED_OUT = 2
    AGENT_LOST = 3
    WORKER_DIED = 4
    POISONED = 5
    RESULT_TOO_LARGE = 6
    UPSTREAM_FAILED = 7
    INVALID_WORK = 8
    RESULT_NOT_SERIALIZABLE = 9
    CANCEL_REQUESTED = 10
    QUEUE_TIMEOUT = 11
    AGENT_REJECTED = 12
    AGENT_STOPPED = 13
    STALLED = 14
    DEADLINE_EXCEEDED = 15
    WAIT_EXPIRED = 16
    PREEMPTED = 17
    MOVED = 18
    CONDITION_NOT_MET = 19
    RUN_FAILED = 20
    MAY_HAVE_STARTED = 21
    FAILS_EVERYWHERE = 22
    DEADLOCK = 23
    LEASE_EXPIRED = 24
    WAIT_REFUSED = 25
    SECRET_UNAVAILABLE = 26
    REFUSED_BY_POLICY = 27


class Intent(IntEnum):
    """Why the coordinator has asked an agent to stop an attempt of a task that nobody cancelled."""

    NONE = 0
    PREEMPT = 1
    MOVE = 2
    DEADLINE = 3
    WAIT_EXPIRED = 4
    DEADLOCK = 5
    RUN_FAILED = 6


class AttemptState(IntEnum):
    """Where one try is in its life."""

    OFFERED = 1
    ACCEPTED = 2
    STARTED = 3
    BLOCKED = 4
    CLOSED = 5
    REJECTED = 6
    REVOKED = 7
    LOST = 8
    FENCED = 9


class Connectivity(IntEnum):
    """Whether an agent can be reached."""

    ONLINE = 1
    SUSPECT = 2
    LOST = 3
    LEFT = 4


class Admin(IntEnum):
    """What an operator wants of an agent."""

    ACTIVE = 1
    PAUSED = 2
    DRAINING = 3


class BreakerState(IntEnum):
    """Whether an agent is trusted with work, or an outside system with the tasks that need it."""

    CLOSED = 1
    OPEN = 2
    HALF_OPEN = 3


class Blame(IntEnum):
    """Who is held responsible for the end of an attempt."""

    NONE = 0
    TASK = 1
    AGENT = 2
    SYSTEM = 3


class EventType(IntEnum):
    """Kinds of entries in the event log."""

    TASK_SUBMITTED = 1
    TASK_QUEUED = 2
    TASK_ASSIGNED = 3
    TASK_STARTED = 4
    TASK_PROGRESS = 5
    TASK_BLOCKED = 6
    TASK_UNBLOCKED = 7
    TASK_RETRYING = 8
    TASK_CANCELLING = 9
    TASK_SUCCEEDED = 10
    TASK_FAILED = 11
    TASK_CANCELLED = 12
    TASK_EXPIRED = 13
    TASK_SKIPPED = 14
    TASK_PREEMPTED = 15
    TASK_DEADLOCK = 16
    RUN_SUBMITTED = 30
    RUN_ENDED = 31
    RUN_EXTENDED = 32
    RUN_MILESTONE = 33
    AGENT_ADDED = 50
    AGENT_REMOVED = 51
    AGENT_ONLINE = 52
    AGENT_SUSPECT = 53
    AGENT_LOST = 54
    AGENT_LEFT = 55
    AGENT_PAUSED = 56
    AGENT_RESUMED = 57
    AGENT_DRAINING = 58
    AGENT_BREAKER = 59
    AGENT_TYPE_BREAKER = 60
    AGENT_OUTBOX_GAP = 61
    AGENT_QUARANTINED = 62
    SYSTEM_BREAKER = 70
    FLEET_ALARM = 71
    FLEET_RECOVERED = 72
    SCHEDULE_FIRED = 80
    SCHEDULE_SKIPPED = 81
