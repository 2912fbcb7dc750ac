"""Why an agent gets no work: the rules that close it, and what waits for something else than this agent.

Reads memory, decides nothing; sliced like `reasons`. Of each class of waiting tasks the first one is asked about.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import NamedTuple

from outrider_coordinator.core.explain import whatif
from outrider_coordinator.core.explain.reasons import obstacles
from outrider_coordinator.core.model import Agent, Task
from outrider_coordinator.core.placement.eligibility import closed_to_work, refusal
from outrider_coordinator.core.placement.queue import TaskClass
from outrider_coordinator.core.rules import Rule
from outrider_coordinator.core.state import State

GROUPS_MAX, CLASSES_MAX, SUGGESTIONS_MAX = 100, 10_000, 5
_SLICE = 20


class Group(NamedTuple):
    """Waiting tasks that one rule keeps from the agent; ``task_id`` is the next of them."""

    task_id: str
    tasks: int
    rule: str
    text: str


@dataclass(slots=True)
class AgentExplanation:
    """Everything that ExplainAgent answers; ``closed_by`` are rules that keep all work away."""

    summary: str
    closed_by: list[Rule] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    suggestions: list[str] = field(default_factory=list)


def explain_agent(state: State, agent_id: str) -> Generator[None, None, AgentExplanation | None]:
    """Why an agent gets no work, None when there is no such agent. Yields between slices."""
    agent = state.agents.get(agent_id)
    if agent is None:
        return None
    closing = whatif.closing_rules(agent, closed_to_work)
    found: dict[tuple[str, str], Group] = {}
    could = 0
    firsts: dict[tuple[str, str], Task] = {}
    for number, group in enumerate(list(state.queue.classes.values())[:CLASSES_MAX]):
        if number % _SLICE == _SLICE - 1:
            yield
        first, tasks = _first(group)
        if first is None:
            continue
        rule = refusal(agent, first) or next(iter(obstacles(state, first)), None)
        if rule is None:
            could += tasks
            continue
        known = found.get(rule)
        if known is None or first.order < firsts[rule].order:
            firsts[rule] = first
        found[rule] = Group(firsts[rule].id, tasks + (known.tasks if known else 0), *rule)
    groups = sorted(found.values(), key=lambda group: (-group.tasks, group.rule, group.text))
    del groups[GROUPS_MAX:]
    closed_by = [rule for rule, _ in closing]
    suggestions = [text for _, text in closing if text]
    suggestions += _fitting(agent, groups, firsts, set(suggestions))
    return AgentExplanation(_summary(agent, closed_by, groups, could), closed_by, groups, suggestions)


def _first(group: TaskClass) -> tuple[Task | None, int]:
    """The task of a class that came first, and about how many there are."""
    entries = [(strand.first(), len(strand.line)) for strand in group.strands.values()]
    firsts = [entry[2] for entry, _ in entries if entry is not None]
    return min(firsts, key=lambda task: task.order, default=None), sum(count for _, count in entries)


def _summary(agent: Agent, closed_by: list[Rule], groups: list[Group], could: int) -> str:
    waiting = sum(group.tasks for group in groups)
    if closed_by:
        return f"gets no work: {closed_by[0].text}"
    if could:
        return f"open to work; {could} waiting tasks could go to it now"
    if not waiting:
        return "open to work; nothing waits" + ("" if agent.free_slots else f", and all {agent.slots} slots are in use")
    if agent.free_slots == 0:
        return f"all {agent.slots} slots are in use; {waiting} tasks wait"
    return f"open to work, with {agent.free_slots} free slots; none of the {waiting} tasks that wait can go to it"


def _fitting(agent: Agent, groups: list[Group], firsts: dict[tuple[str, str], Task], said: set[str]) -> list[str]:
    """What of the agent to change so that more of what waits could go to it, the most tasks first."""
    helped: dict[str, int] = {}
    for group in groups:
        changes = whatif.remedy(agent, firsts[group.rule, group.text])
        if changes is not None:
            text = changes.text.replace("{}", agent.id)
            helped[text] = helped.get(text, 0) + group.tasks
    best = sorted((text for text in helped if text not in said), key=lambda text: (-helped[text], text))
    return [f"{text}: {helped[text]} waiting tasks could go to it" for text in best[:SUGGESTIONS_MAX]]
