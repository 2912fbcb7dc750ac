"""Why a task is where it is: what holds it up, agent by agent, when it may start, and what would change that.

Reads memory, decides nothing. What placement asks is what is asked here: the hard rules of `eligibility` for each
agent, and `obstacles`, everything that can hold a task back whatever the agent. Long work comes in slices: a generator
yields between them, at least every few milliseconds, and the state may change meanwhile: answers are advisory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar, cast

from outrider_coordinator.core.attempts.stopping import STOPS
from outrider_coordinator.core.explain import foresight, position, whatif
from outrider_coordinator.core.limits import caps, lines
from outrider_coordinator.core.model import Agent, Task, Wait
from outrider_coordinator.core.placement.eligibility import closed_to_kind, closed_to_work, mismatch, refusal
from outrider_coordinator.core.placement.fleet import demands_of
from outrider_coordinator.core.rules import Rule
from outrider_coordinator.core.spec import SECOND_US, Condition
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import Admin, BreakerState, Connectivity, TaskState
from outrider_coordinator.core.trust import systems

Answer = TypeVar("Answer")
#: Agents that are asked between two pauses; lines of one kind that are told.
_SLICE, LINES_MAX = 200, 100
#: Changes of agents that are suggested.
_CHANGES_MAX = 3
_MUST = {Condition.SUCCESS: "succeed", Condition.FAILURE: "end otherwise than well", Condition.ALWAYS: "end"}


@dataclass(slots=True)
class Explanation:
    """Everything Explain answers. ``agents``: (agent id, eligible, rule name, text); times are 0 where not known.

    ``position`` counts from 1, 0 for a task that is not queued. ``held_back`` says what holds it up whatever the agent.
    """

    state: TaskState
    summary: str = ""
    agents: list[tuple[str, bool, str, str]] = field(default_factory=list)
    ahead: int = 0
    waiting_for: list[str] = field(default_factory=list)
    ready_us: int = 0
    suggestions: list[str] = field(default_factory=list)
    held_back: list[str] = field(default_factory=list)
    position: int = 0
    predicted_us: int = 0


Explaining = Generator[None, None, Explanation | None]


def explain_task(state: State, task_id: str, now_us: int) -> Explaining:
    """Why a task is where it is; None when it is not in memory (terminal or unknown). Yields between slices."""
    task = state.tasks.get(task_id)
    if task is None:
        return None
    if task.state is TaskState.PENDING:
        return _pending(state, task, now_us)
    if task.state is TaskState.QUEUED:
        return (yield from _queued(state, task, now_us))
    return _held(state, task, now_us)


def explained(explaining: Generator[None, None, Answer]) -> Answer:
    """All slices at once: what is left when the last one is done."""
    while True:
        try:
            next(explaining)
        except StopIteration as end:
            return cast(Answer, end.value)


def obstacles(state: State, task: Task) -> list[Rule]:
    """Everything that holds a task back now whatever the agent: outside systems, caps, limits, write scopes."""
    rules = (systems.held_back(state, task.spec.demands), caps.held_back(state, task))
    return [*(rule for rule in rules if rule is not None), *lines.obstacles(state, task)]


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


def _pending(state: State, task: Task, now_us: int) -> Explanation:
    if task.waiting_for:
        waiting = sorted(other for other in task.waiting_for if other != task.run_id)
        summary = f"waits for {len(waiting)} of {len(task.dependency_ids)} dependencies to end"
        if not waiting:
            summary = "waits for the phases of its run before its own"
        held = [
            _dependency(state, dependency_id, task.waiting_for[dependency_id]) for dependency_id in waiting[:LINES_MAX]
        ]
        return Explanation(task.state, summary, waiting_for=waiting, held_back=held)
    seconds = max(0, task.ready_us - now_us) / SECOND_US
    cause = f"attempt {task.attempts_made} failed; the next try" if task.attempts_made else "its start time"
    if task.id in state.retries.delayed:
        text = f"retries are held to a tenth of all offers, and {state.retries.floor} a minute: others go before it"
        summary = f"{cause} comes in {seconds:.1f} s: {text}"
        return Explanation(task.state, summary, ready_us=task.ready_us, held_back=[f"RETRY_BUDGET: {text}"])
    return Explanation(task.state, f"{cause} comes in {seconds:.1f} s", ready_us=task.ready_us)


def _dependency(state: State, dependency_id: str, condition: Condition) -> str:
    dependency = state.tasks.get(dependency_id)
    must = _MUST[condition]
    if dependency is None:
        return f"task {dependency_id} must {must}"
    name = f"task {dependency_id}" + (f" ({dependency.run_key})" if dependency.run_key else "")
    return f"{name} must {must}; it is {dependency.state.name}"


def _queued(state: State, task: Task, now_us: int) -> Generator[None, None, Explanation]:
    explanation = Explanation(task.state)
    able: list[Agent] = []
    rules: list[str] = []
    for number, agent_id in enumerate(sorted(state.agents)):
        if number % _SLICE == _SLICE - 1:
            yield
        agent = state.agents.get(agent_id)
        if agent is None:
            continue
        rule = refusal(agent, task)
        explanation.agents.append((agent_id, rule is None, rule.name if rule else "", rule.text if rule else ""))
        rules.append(rule.name if rule else "")
        if could_take(agent, task):
            able.append(agent)
    others = yield from position.rivals(state, able)
    before = yield from position.ahead(position.place_of(state, task), others)
    explanation.ahead = sum(item.tasks for item in before)
    explanation.position = explanation.ahead + 1
    explanation.held_back = [rule.text for rule in obstacles(state, task)[:LINES_MAX]]
    never = whatif.never(task)
    start_us = None
    if able and not explanation.held_back:
        start_us = yield from foresight.start_in_us(state, able, before)
        explanation.predicted_us = now_us + start_us if start_us is not None else 0
    explanation.summary = _queued_summary(explanation, rules, never)
    if never is None:
        explanation.suggestions = yield from _suggestions(state, task, explanation, able, before, start_us)
        if explanation.ahead and explanation.suggestions and not explanation.held_back:
            priority = yield from whatif.better_priority(state, task, others, explanation.ahead)
            explanation.suggestions += [priority] if priority else []
    return explanation


def could_take(agent: Agent, task: Task) -> bool:
    """Whether an agent could take the task were it idle."""
    return (
        mismatch(agent, demands_of(task)) is None
        and closed_to_work(agent) is None
        and closed_to_kind(agent, task.spec.kind) is None
    )


def _queued_summary(explanation: Explanation, rules: list[str], never: Rule | None) -> str:
    ahead = explanation.ahead
    if never is not None:
        return f"no agent could ever take it: {never.text}"
    if not rules:
        return "no agent has ever registered; start one with `outrider agent run`"
    if all(rule == "LABELS" for rule in rules):
        return f"no agent has the labels it asks for ({len(rules)} known)"
    if all(rule == "SECRET" for rule in rules):
        return f"no agent has the secrets it asks for ({len(rules)} known)"
    if all(rule in _UNFIT for rule in rules):
        return f"no agent has what it asks for ({len(rules)} known): " + ", ".join(sorted(set(rules)))
    if explanation.held_back:
        return f"held back: {explanation.held_back[0]}"
    if "" in rules:
        return f"about to be placed; {ahead} tasks go before it"
    if all(rule in _UNFIT or rule in _BUSY for rule in rules):
        return f"every agent that could take it is busy; {ahead} tasks go before it"
    return "no agent that could take it is open to work: " + ", ".join(sorted(set(rules)))


def _suggestions(
    state: State,
    task: Task,
    explanation: Explanation,
    able: list[Agent],
    before: list[position.Ahead],
    start_us: int | None,
) -> Generator[None, None, list[str]]:
    if explanation.held_back:
        return whatif.changes_of_what_holds(state, task)
    if any(eligible for _, eligible, _, _ in explanation.agents):
        return []
    one_more = whatif.one_more_agent(task)
    if start_us:
        with_it = yield from foresight.start_in_us(state, [*able, whatif.agent_for(task)], before)
        assert with_it is not None, "an agent made for the task has a free slot"
        earlier_s = (start_us - with_it) / SECOND_US
        one_more += f": would start about {earlier_s:.0f} s earlier" if earlier_s >= 1 else ""
    suggestions = [one_more]
    changes = yield from whatif.agent_changes(state, task)
    suggestions += changes[:_CHANGES_MAX]
    return suggestions


def _held(state: State, task: Task, now_us: int) -> Explanation:
    explanation = Explanation(task.state, _where(state, task))
    for wait in task.waits:
        if wait.is_pending:
            explanation.held_back.append(_wait(wait, now_us))
            explanation.suggestions.append(_remedy(task, wait))
    return explanation


def _where(state: State, task: Task) -> str:
    attempt = task.attempt
    assert attempt is not None, f"task {task.id} is {task.state.name} and has no attempt"
    where = f"attempt {attempt.number} on agent {attempt.agent_id}"
    agent = state.agents.get(attempt.agent_id)
    if agent is not None and agent.connectivity is Connectivity.SUSPECT:
        grace_s = task.spec.disconnect_grace_us / SECOND_US
        return f"{where}, which is out of contact; it goes elsewhere {grace_s:.0f} s after contact was lost"
    if attempt.intent and not task.cancel_requested:
        return f"{where} is being stopped: {STOPS[attempt.intent].text}"
    if task.state is TaskState.BLOCKED:
        keys = ", ".join(f"{wait.kind} {wait.key!r}" for wait in task.waits if wait.is_open)
        return f"{where} waits for {keys}"
    if task.state is TaskState.CANCELLING:
        return f"{where} is being killed"
    return f"{where} is {attempt.state.name.lower()}"


def _wait(wait: Wait, now_us: int) -> str:
    target = f"task {wait.required_task_id}" if wait.required_task_id else wait.system or "an answer"
    if wait.claim is not None:
        target = f"limit {wait.claim.key}"
    if wait.kind == "complexity":
        target = f"{wait.additional_us / SECOND_US:g} s more time"
    text = f"{wait.kind} {wait.key!r} waits for {target} since {_span(now_us - wait.opened_us)}"
    if wait.retry_us:
        text += f", tries again in {_span(wait.retry_us - now_us)}"
    return text + (f", {_span(wait.expires_us - now_us)} of its budget left" if wait.expires_us else "")


def _remedy(task: Task, wait: Wait) -> str:
    if wait.kind == "dependency":
        return f"the end of task {wait.required_task_id}; `outrider task explain {wait.required_task_id}` says more"
    if wait.kind == "complexity":
        return f"outrider answer {task.id} --key {wait.key} --extend {wait.additional_us / SECOND_US:g}s"
    if wait.claim is not None:
        return f"limit {wait.claim.key} becoming free; `outrider limit show {wait.claim.key}` says who holds it"
    return f"outrider answer {task.id} --key {wait.key} TEXT"


def _span(us: int) -> str:
    seconds = max(0, us) / SECOND_US
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


#: Rules by which an agent as it is could never take a task, and those by which it cannot now.
_UNFIT = frozenset(("LABELS", "SECRET", "RUNNER", "TASK_TYPE", "UNSIGNED", "REFUSED", "RESOURCES"))
_BUSY = frozenset(("NO_FREE_SLOT", "RESOURCES_IN_USE"))
