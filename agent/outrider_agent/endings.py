"""What an attempt reports in the end, whoever ended it.

Owns the words and reasons of ends that are not the worker's own. It must not know when an attempt ends.
"""

from __future__ import annotations

from outrider.v1 import task_pb2
from outrider.worker import messages
from outrider_agent import clock
from outrider_agent.assignment import Dossier
from outrider_agent.core.budgets import Bound

LEASE_OVER = "out of contact with the coordinator for longer than the lease of an exclusive task"


def expiry(dossier: Dossier, bound: Bound) -> tuple[int, str]:
    """Reason and message of an attempt that has reached a bound."""
    if bound is Bound.TIMEOUT:
        text = f"the attempt ran longer than its timeout of {dossier.timeout_us / 1e6:g} s"
        if dossier.timeout_us == dossier.timeout_max_us:
            text += ", which is all that this agent's own policy gives (policy.time_max_s)"
        return task_pb2.TASK_REASON_TIMED_OUT, text
    if bound is Bound.STALL:
        text = f"the attempt reported nothing for {dossier.silence_us / 1e6:g} s; output and progress count as reports"
        return task_pb2.TASK_REASON_STALLED, text
    return task_pb2.TASK_REASON_DEADLINE_EXCEEDED, "the task's deadline has passed"


def died(dossier: Dossier, how: str, *, by_lease: bool) -> messages.Failed:
    """What an attempt reports whose worker is dead; ``by_lease`` as in `pool.Listener`."""
    reason, text = task_pb2.TASK_REASON_WORKER_DIED, f"the worker process {how} while it ran this attempt"
    if by_lease and dossier.is_exclusive:
        reason, text = task_pb2.TASK_REASON_LEASE_EXPIRED, LEASE_OVER
    return messages.Failed(dossier.attempt.key, clock.wall_ns(), reason, text, recoverable=True)


def stopped(key: int, time_ns: int, reason: int, message: str) -> messages.Failed:
    """What an attempt reports that was not left to end by itself."""
    recoverable = reason != task_pb2.TASK_REASON_CANCEL_REQUESTED
    return messages.Failed(key, time_ns, reason, message, recoverable=recoverable)


def without_secret(dossier: Dossier, agent: str, fault: str) -> messages.Failed:
    """What an attempt reports that was not started, for a secret of its could not be had."""
    reason, text = task_pb2.TASK_REASON_SECRET_UNAVAILABLE, f"agent {agent} {fault}"
    return messages.Failed(dossier.attempt.key, clock.wall_ns(), reason, text, recoverable=True)


def outcome(dossier: Dossier) -> messages.Completed | messages.Failed:
    """What is reported in the end: a success always counts, a failure under the kill ladder is the ladder's."""
    word, verdict = dossier.last_word, dossier.verdict
    assert word is not None or verdict is not None, "an end without a cause"
    if word is not None and (verdict is None or isinstance(word, messages.Completed)):
        return word
    assert verdict is not None
    exit_code = word.exit_code if word is not None else None
    return messages.Failed(
        verdict.key, clock.wall_ns(), verdict.reason, verdict.message, verdict.recoverable, exit_code=exit_code
    )
