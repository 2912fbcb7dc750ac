"""How long waits may last, and how much running time a task may be granted without asking anybody.

A budget counts from the report that opened a wait to its resolution, on the coordinator's clock; its end is durable
with the wait. It must not know who resolves waits. Invariants: nothing that is resolved expires; what policy grants a
task in all is at most its ``extension_max_us``; a wait moves its task only to an agent on which it has not run out yet,
and all waits of a task together at most `MOVES_MAX` times.
"""

from __future__ import annotations

from outrider_coordinator.core.attempts.stopping import stop_attempt
from outrider_coordinator.core.effects import Carried, Effects
from outrider_coordinator.core.model import Attempt, Task, Wait
from outrider_coordinator.core.placement.eligibility import closed_to_kind, fits, is_open
from outrider_coordinator.core.placement.fleet import demands_of, hard_of
from outrider_coordinator.core.protobuf import block, integer
from outrider_coordinator.core.spec import SECOND_US, WaitExpiry, WaitPolicy
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import Intent

#: How often the waits of one task may move it, whatever they are called.
MOVES_MAX = 16

#: Resolution.key, .answer, .resolved_by, .error, .granted_duration; Duration.seconds, .nanos.
_KEY, _ANSWER, _BY, _ERROR, _GRANTED, _SECONDS, _NANOS = 1, 2, 4, 5, 6, 1, 2


def policy_of(state: State, task: Task, kind: str) -> WaitPolicy:
    """What the task says of waits of this kind, with the coordinator's budget where it names none."""
    own = getattr(task.spec.waits, _POLICIES[kind])
    assert isinstance(own, WaitPolicy)
    if own.budget_us:
        return own
    return own._replace(budget_us=getattr(state.settings.wait_budgets, _POLICIES[kind] + "_us"))


def open_budget(state: State, task: Task, wait: Wait) -> None:
    """The wait was opened now."""
    budget_us = policy_of(state, task, wait.kind).budget_us
    wait.opened_us = state.now_us
    wait.expires_us = state.now_us + budget_us if budget_us else 0


def budget_ended(state: State, effects: Effects, task_id: str, key: str) -> None:
    """A wait has lasted as long as it may: the attempt is stopped, to fail or to go on elsewhere, or waits on."""
    task = state.tasks.get(task_id)
    wait = task.wait(key) if task else None
    if task is None or task.attempt is None or wait is None or not wait.is_pending:
        return
    if not 0 < wait.expires_us <= state.now_us or wait.expired_on:
        return
    policy = policy_of(state, task, wait.kind)
    intent = _intent(state, task, task.attempt, wait, policy.on_expiry)
    message = f"{wait.kind} {wait.key!r} waited for longer than {policy.budget_us / SECOND_US:g} s"
    if wait.moved_from:
        message += f", after {len(wait.moved_from)} times elsewhere"
    if intent and stop_attempt(state, effects, task, task.attempt, intent, message):
        wait.expired_on = task.attempt.agent_id
        effects.waits[task.id, key] = wait


def expired_on(wait: Wait) -> tuple[str, ...]:
    """Agents on which the time of a wait ran out, in their order."""
    return (*wait.moved_from, wait.expired_on) if wait.expired_on else wait.moved_from


def moves_made(task: Task) -> int:
    """How often waits of the task have run out of time."""
    return sum(len(expired_on(wait)) for wait in task.waits)


def _intent(state: State, task: Task, attempt: Attempt, wait: Wait, on_expiry: WaitExpiry) -> Intent:
    """What becomes of an attempt whose wait has run out of time; NONE: it waits on."""
    if on_expiry.moves and _may_move(state, task, {*wait.moved_from, attempt.agent_id}):
        return Intent.MOVE
    return Intent.NONE if on_expiry in (WaitExpiry.KEEP, WaitExpiry.MOVE_OR_KEEP) else Intent.WAIT_EXPIRED


def _may_move(state: State, task: Task, tried: set[str]) -> bool:
    """Whether there is an agent for the task that is none of these. What may have started never starts elsewhere."""
    if task.spec.at_most_once or moves_made(task) >= MOVES_MAX:
        return False
    reach = state.fleet.reach(hard_of(demands_of(task)), state.agents, fits)
    others = (agent for agent in reach.members.values() if agent.id not in tried)
    return any(is_open(agent) and closed_to_kind(agent, task.spec.kind) is None for agent in others)


def carried(task: Task) -> Carried:
    """What the next attempt should know: answers to questions, and what was waited for in vain."""
    known = tuple(wait.resolution for wait in task.waits if wait.kind == "clarification" and wait.resolution)
    return Carried(known, tuple(wait.body for wait in task.waits if wait.expired_on))


def granted_us(task: Task) -> int:
    """Running time that the task has been granted in all."""
    return max((wait.granted_us for wait in task.waits), default=0)


def grant(task: Task, wait: Wait, amount_us: int, by: str) -> None:
    """Resolve a request for more time with so much of it."""
    wait.granted_us = granted_us(task) + amount_us
    wait.resolution = encode_resolution(wait.key, by=by, granted_us=amount_us)


def grant_by_policy(task: Task, wait: Wait) -> None:
    """Resolve a request for more time that the task's policy covers."""
    wait.granted_us = granted_us(task)
    if 0 < wait.additional_us <= task.spec.waits.extension_max_us - wait.granted_us:
        grant(task, wait, wait.additional_us, "policy")


def encode_resolution(key: str, *, by: str, payload: bytes = b"", error: bytes = b"", granted_us: int = 0) -> bytes:
    """A serialized Resolution; ``payload`` is a Payload and ``error`` a TaskError, serialized."""
    parts = [block(_KEY, key.encode())]
    if payload:
        parts.append(block(_ANSWER, payload))
    parts.append(block(_BY, by.encode()))
    if error:
        parts.append(block(_ERROR, error))
    if granted_us:
        seconds, rest_us = divmod(granted_us, SECOND_US)
        parts.append(block(_GRANTED, integer(_SECONDS, seconds) + integer(_NANOS, rest_us * 1000)))
    return b"".join(parts)


_POLICIES = {
    "dependency": "dependency",
    "resource": "dependency",
    "external": "external",
    "complexity": "complexity",
    "clarification": "clarification",
}
