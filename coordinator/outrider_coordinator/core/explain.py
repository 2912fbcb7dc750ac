"""Why: what holds a task up, agent by agent, and why an agent gets no work. Reads memory, changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from outrider_coordinator.core.eligibility import closed_to_work, describe, mismatch, refusal
from outrider_coordinator.core.model import Agent, Task
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import Admin, BreakerState, Connectivity, TaskState


@dataclass(slots=True)
class Explanation:
    """Everything Explain answers. ``agents``: (agent id, eligible, rule name, text); ``ready_us`` 0: not by time."""

    state: TaskState
    summary: str
    agents: list[tuple[str, bool, str, str]] = field(default_factory=list)
    ahead: int = 0
    waiting_for: list[str] = field(default_factory=list)
    ready_us: int = 0
    suggestions: list[str] = field(default_factory=list)


def explain_task(state: State, task_id: str, now_us: int) -> Explanation | None:
    """Why a task is where it is; None when it is not in memory (terminal or unknown)."""
    task = state.tasks.get(task_id)
    if task is None:
        return None
    if task.state is TaskState.PENDING:
        return _pending(task, now_us)
    if task.state is TaskState.QUEUED:
        return _queued(state, task)
    return Explanation(task.state, _held(state, task))


def no_work_reason(agent: Agent) -> str:
    """Why an agent gets no new work, one line; empty when it may."""
    rule = closed_to_work(agent)
    if rule is not None:
        return rule.text
    return "" if agent.free_slots else f"all {agent.slots} slots are in use"


class StatusRule(NamedTuple):
    """One word for what people see of an agent, when it is said, and the test for that."""

    word: str
    when: str
    holds: Callable[[Agent], bool]


#: The first rule that holds gives the word; the last one always does.
STATUS_RULES: tuple[StatusRule, ...] = (
    StatusRule("stopped", "connectivity is LEFT", lambda agent: agent.connectivity is Connectivity.LEFT),
    StatusRule("failed", "connectivity is LOST", lambda agent: agent.connectivity is Connectivity.LOST),
    StatusRule("suspect", "connectivity is SUSPECT", lambda agent: agent.connectivity is Connectivity.SUSPECT),
    StatusRule("failed", "breaker is OPEN", lambda agent: agent.breaker.state is BreakerState.OPEN),
    StatusRule("draining", "its heartbeat says that it leaves", lambda agent: agent.facts.is_leaving),
    StatusRule("draining", "admin is DRAINING", lambda agent: agent.admin is Admin.DRAINING),
    StatusRule("paused", "admin is PAUSED", lambda agent: agent.admin is Admin.PAUSED),
    StatusRule("running", "it holds an attempt", lambda agent: bool(agent.attempts)),
    StatusRule("idle", "otherwise", lambda agent: True),
)


def status_word(agent: Agent) -> str:
    """One word for people: the first of `STATUS_RULES` that holds."""
    return next(rule.word for rule in STATUS_RULES if rule.holds(agent))


def _pending(task: Task, now_us: int) -> Explanation:
    if task.waiting_for:
        waiting = sorted(other for other in task.waiting_for if other != task.run_id)
        summary = f"waits for {len(waiting)} of {len(task.dependency_ids)} dependencies to end"
        if not waiting:
            summary = "waits for the phases of its run before its own"
        return Explanation(task.state, summary, waiting_for=waiting)
    seconds = max(0, task.ready_us - now_us) / 1e6
    cause = f"attempt {task.attempts_made} failed; the next try" if task.attempts_made else "its start time"
    return Explanation(task.state, f"{cause} comes in {seconds:.1f} s", ready_us=task.ready_us)


def _queued(state: State, task: Task) -> Explanation:
    verdicts, rules = [], []
    for agent_id in sorted(state.agents):
        rule = refusal(state.agents[agent_id], task)
        verdicts.append((agent_id, rule is None, rule.name if rule else "", rule.text if rule else ""))
        rules.append(rule.name if rule else "")
    explanation = Explanation(task.state, "", verdicts, state.queue.ahead_of(task))
    explanation.summary = _queued_summary(state, explanation.ahead, rules)
    explanation.suggestions = _suggestions(state, task, rules)
    return explanation


def _queued_summary(state: State, ahead: int, rules: list[str]) -> str:
    if not rules:
        return "no agent has ever registered; start one with `outrider agent run`"
    if all(rule == "LABELS" for rule in rules):
        return f"no agent has the labels it asks for ({len(rules)} known)"
    if all(rule in ("LABELS", "NO_FREE_SLOT") for rule in rules):
        return f"every agent that could take it is busy; {ahead} tasks go before it"
    if "" in rules:
        return f"about to be placed; {ahead} tasks go before it"
    return "no agent that could take it is open to work: " + ", ".join(sorted(set(rules)))


def _suggestions(state: State, task: Task, rules: list[str]) -> list[str]:
    suggestions = []
    if "" not in rules and task.spec.constraints:
        wanted = " and ".join(describe(constraint) for constraint in task.spec.constraints)
        suggestions.append(f"one more agent with {wanted}")
    elif "" not in rules:
        suggestions.append("one more agent, or more slots on one")
    for agent_id in sorted(state.agents):
        agent = state.agents[agent_id]
        if agent.admin is Admin.PAUSED and mismatch(agent, task.spec.demands) is None:
            suggestions.append(f"outrider agent resume {agent_id}")
    if "NO_FREE_SLOT" in rules and task.spec.priority < 10:
        suggestions.append(f"a higher priority than {task.spec.priority}")
    return suggestions


def _held(state: State, task: Task) -> str:
    attempt = task.attempt
    if attempt is None:
        return task.state.name.lower()
    where = f"attempt {attempt.number} on agent {attempt.agent_id}"
    agent = state.agents.get(attempt.agent_id)
    if agent is not None and agent.connectivity is Connectivity.SUSPECT:
        grace_s = task.spec.disconnect_grace_us / 1e6
        return f"{where}, which is out of contact; it goes elsewhere {grace_s:.0f} s after contact was lost"
    if task.state is TaskState.BLOCKED:
        keys = ", ".join(f"{wait.kind} {wait.key!r}" for wait in task.waits if wait.is_open)
        return f"{where} waits for {keys}"
    if task.state is TaskState.CANCELLING:
        return f"{where} is being killed"
    return f"{where} is {attempt.state.name.lower()}"
