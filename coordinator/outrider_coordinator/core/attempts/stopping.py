"""Attempts that the coordinator stops though nobody cancelled their task: why, and what then becomes of the task.

The order to stop is durable as the attempt's `Intent` and is sent again in every new session. The end of the attempt
decides: most intents end the task, PREEMPT and MOVE queue it again without using up a try. A success that comes first
still wins, and a cancel wins over all. It must not know how an end is recorded: `retry` asks `decider` about it.
"""

from __future__ import annotations

from typing import NamedTuple

from outrider_coordinator.core.effects import Effects, PushCancel
from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import EventType, Intent, Reason, TaskState


class Stop(NamedTuple):
    """What follows from an intent: the reason it is reported with, how the task ends (None: it is queued again)."""

    reason: Reason
    ends: TaskState | None
    text: str


STOPS: dict[Intent, Stop] = {
    Intent.PREEMPT: Stop(Reason.PREEMPTED, None, "a more urgent task takes its slot"),
    Intent.MOVE: Stop(Reason.MOVED, None, "it goes on elsewhere"),
    Intent.DEADLINE: Stop(Reason.DEADLINE_EXCEEDED, TaskState.EXPIRED, "its deadline has passed"),
    Intent.WAIT_EXPIRED: Stop(Reason.WAIT_EXPIRED, TaskState.FAILED, "it waited for longer than it may"),
    Intent.DEADLOCK: Stop(Reason.DEADLOCK, TaskState.FAILED, "it waited for something that could never come"),
    Intent.RUN_FAILED: Stop(Reason.RUN_FAILED, TaskState.CANCELLED, "another task of its run failed"),
}

#: Ends that say nothing about the attempt's own work: it was stopped, or its agent went away.
_STOPPED = frozenset(
    {stop.reason for stop in STOPS.values()} | {Reason.CANCEL_REQUESTED, Reason.AGENT_STOPPED, Reason.AGENT_LOST}
)


def stop_attempt(
    state: State, effects: Effects, task: Task, attempt: Attempt, intent: Intent, message: str = ""
) -> bool:
    """Ask the attempt's agent to stop it, now or when it is back; its end then decides as `STOPS` says.

    False, and nothing happens: it is not the task's current attempt, the task is being cancelled, or the attempt is
    being stopped already and this would not end the task where that goes on.
    """
    if task.attempt is not attempt or task.cancel_requested or not _outranks(intent, attempt.intent):
        return False
    attempt.intent = intent
    effects.attempts[attempt.key] = attempt
    stop = STOPS[intent]
    text = message or stop.text
    if stop.ends is None:
        state.event(effects, EventType.TASK_PREEMPTED, task, attempt, reason=stop.reason, text=text)
    agent = state.agents.get(attempt.agent_id)
    if agent is not None and agent.is_online:
        _push(effects, agent, attempt, text)
    return True


def send_again(effects: Effects, agent: Agent, attempt: Attempt) -> None:
    """The agent has a new session: the last one may not have carried the order."""
    if attempt.intent:
        _push(effects, agent, attempt, STOPS[attempt.intent].text)


def decider(attempt: Attempt, reason: Reason) -> Stop | None:
    """What decides about the task of an attempt that ended without success for this reason; None: the end itself.

    An attempt that failed by itself before it was stopped has just failed, unless there is no time for another. Its
    agent keeps the deadline too, and may be the first to say so.
    """
    if reason is Reason.DEADLINE_EXCEEDED:
        return STOPS[Intent.DEADLINE]
    if attempt.intent and (reason in _STOPPED or attempt.intent is Intent.DEADLINE):
        return STOPS[attempt.intent]
    return None


def _outranks(intent: Intent, before: Intent) -> bool:
    if before is Intent.NONE:
        return True
    return STOPS[before].ends is None and STOPS[intent].ends is not None


def _push(effects: Effects, agent: Agent, attempt: Attempt, text: str) -> None:
    reason = STOPS[attempt.intent].reason
    effects.sends.append(PushCancel(agent.epoch, agent.id, *attempt.key, attempt.fence, text, reason=reason))
