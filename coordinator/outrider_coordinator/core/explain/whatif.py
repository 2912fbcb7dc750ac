"""What would let a waiting task start: changes of the state, tried on copies by asking the rules again.

Nothing is guessed: an agent is copied with a change and asked by `eligibility.refusal`, a limit by its own `admits`,
the queue by its own order. A task that not even an agent made for it could take can never run, and that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import NamedTuple

from outrider_coordinator.core.explain import position
from outrider_coordinator.core.model import Agent, Breaker, Task
from outrider_coordinator.core.placement.eligibility import SIGNED_LABEL, describe, mismatch, refusal
from outrider_coordinator.core.rules import Rule
from outrider_coordinator.core.spec import SECRET_PREFIX, Constraint, Demands, Operator
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import Admin, Connectivity
from outrider_coordinator.core.trust import systems

#: Agents that are copied and asked, changes made to one of them, and agents named in one line.
AGENTS_MAX, CHANGES_MAX, NAMED_MAX = 200, 3, 3
PRIORITY_MAX = 10
_SLICE = 20
#: With these a label has one of the values that they name.
_NAMED = (Operator.IN, Operator.ADMITS)

Changed = tuple[str, Agent]


class Remedy(NamedTuple):
    """What would help on some agents: a text with ``{}`` for their names, and how many changes that takes."""

    text: str
    number: int


def never(task: Task) -> Rule | None:
    """Why not even an agent made for this task could take it, None when one could."""
    return refusal(agent_for(task), task)


def agent_for(task: Task) -> Agent:
    """An idle agent that has everything the task asks for, as far as that can be."""
    demands = task.spec.demands
    return Agent(
        "new",
        "",
        connectivity=Connectivity.ONLINE,
        labels=_labels(demands.constraints),
        resources=dict(demands.resources),
        task_types=(demands.task_type,) if demands.task_type else (),
        runners=(demands.runner,) if demands.runner else (),
        slots=1,
    )


def one_more_agent(task: Task) -> str:
    """What a new agent would need."""
    demands = task.spec.demands
    parts = [describe(constraint) for constraint in demands.constraints]
    parts += [f"runner {demands.runner}"] if demands.runner else []
    parts += [f"task type {demands.task_type}"] if demands.task_type else []
    parts += [f"{name} of at least {amount:g}" for name, amount in demands.resources]
    return "one more agent" + (f" with {' and '.join(parts)}" if parts else "")


def agent_changes(state: State, task: Task) -> Generator[None, None, list[str]]:
    """What would let the task start on agents there are, fewest changes first. Yields between slices."""
    found: dict[Remedy, list[str]] = {}
    for number, agent_id in enumerate(sorted(state.agents)[:AGENTS_MAX]):
        if number % _SLICE == _SLICE - 1:
            yield
        agent = state.agents.get(agent_id)
        changes = remedy(agent, task) if agent is not None else None
        if changes is not None:
            found.setdefault(changes, []).append(agent_id)
    best = sorted(found, key=lambda changes: (changes.number, changes.text))
    return [changes.text.replace("{}", _names(found[changes])) for changes in best]


def better_priority(
    state: State, task: Task, others: position.Rivals, before: int
) -> Generator[None, None, str | None]:
    """The least priority that would make the task next, or else go before most; None when none changes its place."""
    best: tuple[int, int] | None = None
    for priority in range(task.spec.priority + 1, PRIORITY_MAX + 1):
        found = yield from position.ahead(position.place_of(state, task, priority), others)
        count = sum(item.tasks for item in found)
        if count < (before if best is None else best[0]):
            best = count, priority
        if count == 0:
            break
    if best is None:
        return None
    return f"priority {best[1]}: {best[0]} instead of {before} tasks before it"


def changes_of_what_holds(state: State, task: Task) -> list[str]:
    """What would have to change of limits and outside systems that hold the task up, whatever the agent."""
    texts = _limit_changes(state, task)
    for name in task.spec.demands.systems:
        alone = task.spec.demands._replace(systems=(name,))
        if systems.held_back(state, alone) is not None:
            texts.append(f"outrider system reset {name}")
    return texts


def _limit_changes(state: State, task: Task) -> list[str]:
    """Capacities with which limits that hold the task up would admit it, or whose end would."""
    texts = []
    for claim in task.spec.demands.claims:
        pool = state.limits.pools.get((task.namespace, claim.key))
        if pool is None or pool.admits(claim, state.now_us):
            continue
        capacity = pool.held.units + claim.units
        wider = replace(pool, definition=pool.definition._replace(capacity=capacity))
        if wider.admits(claim, state.now_us):
            texts.append(f"outrider limit put {claim.key} --capacity {capacity}")
        elif pool.holders:
            holders = [task_id for task_id, _ in list(pool.holders)[:NAMED_MAX]]
            texts.append(f"the end of {' and '.join(f'task {holder}' for holder in holders)}, which holds {claim.key}")
    return texts


def closing_rules(agent: Agent, closed: Callable[[Agent], Rule | None]) -> list[tuple[Rule, str]]:
    """Every rule of ``closed`` that keeps work from an agent, with what would mend it, found by mending one by one."""
    rules: list[tuple[Rule, str]] = []
    while (rule := closed(agent)) is not None and rule.name not in [known.name for known, _ in rules]:
        mended = _mended(agent, rule, None)
        rules.append((rule, mended[0].replace("{}", agent.id) if mended else ""))
        if mended is None:
            break
        agent = mended[1]
    return rules


def remedy(agent: Agent, task: Task) -> Remedy | None:
    """The changes of an agent that would let it take the task now, None when that takes too many."""
    texts: list[str] = []
    while (rule := refusal(agent, task)) is not None:
        mended = _mended(agent, rule, task)
        if mended is None or len(texts) == CHANGES_MAX:
            return None
        text, agent = mended
        texts.append(text)
    return Remedy(", ".join(texts), len(texts)) if texts else None


def _mended(agent: Agent, rule: Rule, task: Task | None) -> Changed | None:
    """The agent without this obstacle, and what that takes; None when nobody can do anything about it."""
    if rule.name == "NOT_ONLINE":
        return "agent {} online again", replace(agent, connectivity=Connectivity.ONLINE)
    if rule.name == "QUARANTINED":
        return "outrider agent resume {}", replace(agent, is_quarantined=False)
    if rule.name == "PAUSED" or (rule.name == "DRAINING" and not agent.facts.is_leaving):
        return "outrider agent resume {}", replace(agent, admin=Admin.ACTIVE)
    if rule.name == "BREAKER_OPEN":
        return "outrider agent reset-breaker {}", replace(agent, breaker=Breaker())
    return _fitted(agent, rule, task) if task is not None else None


def _fitted(agent: Agent, rule: Rule, task: Task) -> Changed | None:
    """The agent with what this rule says that the task needs."""
    demands = task.spec.demands
    if rule.name in ("LABELS", "SECRET"):
        return _labelled(agent, task)
    if rule.name == "TYPE_BREAKER_OPEN":
        return f"outrider agent reset-breaker {{}} --type {task.spec.kind}", replace(agent, type_breakers={})
    if rule.name == "RUNNER":
        return f"runner {demands.runner} on agent {{}}", replace(agent, runners=(*agent.runners, demands.runner))
    if rule.name == "TASK_TYPE":
        wanted = demands.task_type
        return f"task type {wanted} on agent {{}}", replace(agent, task_types=(*agent.task_types, wanted))
    if rule.name == "UNSIGNED":
        labels = {key: value for key, value in agent.labels.items() if key != SIGNED_LABEL}
        return "signed, with `--sign`, on agent {}", replace(agent, labels=labels)
    if rule.name == "RESOURCES":
        more = {name: amount for name, amount in demands.resources if agent.resources.get(name, 0.0) < amount}
        text = " and ".join(f"{name}={amount:g}" for name, amount in more.items())
        return f"{text} on agent {{}}", replace(agent, resources=agent.resources | more)
    if rule.name == "RESOURCES_IN_USE":
        return "the end of what takes the resources of agent {}", replace(agent, resources_used={})
    if rule.name == "NO_FREE_SLOT":
        return "one more slot on agent {}", replace(agent, slots=agent.slots_used + 1)
    return None  # it is leaving, or refuses the task: nobody can do anything about that


def _labelled(agent: Agent, task: Task) -> Changed | None:
    constraints = task.spec.demands.constraints
    labels = {key: value for key, value in agent.labels.items() if key not in {one.key for one in constraints}}
    kept = {key: value for key, value in agent.labels.items() if key not in labels}
    wanted = _labels(constraints, kept)
    changed = sorted(key for key in wanted if agent.labels.get(key) != wanted[key])
    parts = [f"{key}={wanted[key]}" for key in changed if not key.startswith(SECRET_PREFIX)]
    parts += sorted(f"no {key}" for key in kept if key not in wanted)
    texts = [f"label {' and '.join(parts)} on agent {{}}"] if parts else []
    secrets = [f"[agent.secrets.{key.removeprefix(SECRET_PREFIX)}]" for key in changed if key.startswith(SECRET_PREFIX)]
    texts += [f"{' and '.join(secrets)} in the settings of agent {{}}"] if secrets else []
    return " and ".join(texts), replace(agent, labels=labels | wanted)


def _labels(constraints: Sequence[Constraint], there: dict[str, str] | None = None) -> dict[str, str]:
    """Labels that meet these constraints, where any do; what is there stays where it does no harm."""
    labels = dict(there or {})
    for key in sorted({constraint.key for constraint in constraints}):
        of_key = tuple(constraint for constraint in constraints if constraint.key == key)
        values = [value for one in of_key if one.operator in _NAMED for value in one.values]
        now = labels.pop(key, None)
        for value in (now, *values, None, "yes", "other"):
            label = {} if value is None else {key: value}
            if mismatch(Agent("new", "", labels=label), Demands(of_key)) is None:
                labels |= label
                break
    return labels


def _names(agent_ids: list[str]) -> str:
    more = len(agent_ids) - NAMED_MAX
    return ", ".join(agent_ids[:NAMED_MAX]) + (f" or {more} more" if more > 0 else "")
