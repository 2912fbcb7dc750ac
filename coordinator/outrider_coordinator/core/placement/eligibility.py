"""Which agents may take work at all, and the first rule by which one cannot take a given task.

Owns the hard rules, in the order in which Explain names them. Reads one agent and one task; changes nothing.
"""

from __future__ import annotations

from outrider_coordinator.core.model import Agent, Task
from outrider_coordinator.core.placement import resources
from outrider_coordinator.core.placement.fleet import Hard, demands_of, hard_of
from outrider_coordinator.core.rules import Rule
from outrider_coordinator.core.spec import NO_DEMANDS, SECRET_PREFIX, Constraint, Demands, Operator
from outrider_coordinator.core.states import Admin, BreakerState, Connectivity
from outrider_coordinator.core.trust import breaker

_ABSENT = {
    Connectivity.SUSPECT: "it has not been heard for a while",
    Connectivity.LOST: "it is lost: out of contact for long",
    Connectivity.LEFT: "it has left",
}
#: On agents that take signed tasks only, whatever its value; they set it themselves.
SIGNED_LABEL = "outrider.signed"
_UNSIGNED = Rule("UNSIGNED", "it takes signed tasks only; submit with --sign")
_CLOSED = BreakerState.CLOSED


def is_open(agent: Agent) -> bool:
    """Whether `closed_to_work` finds nothing: asked for every offer, so it makes no words."""
    return agent.takes_work and (agent.breaker.state is _CLOSED or breaker.may_pass(agent.breaker))


def closed_to_work(agent: Agent) -> Rule | None:
    """The first rule by which an agent gets no new work at all (I10), None when it may."""
    if not agent.is_online:
        return Rule("NOT_ONLINE", _ABSENT[agent.connectivity])
    if agent.is_quarantined:
        resume = f"stop all but one, then `outrider agent resume {agent.id}`"
        return Rule("QUARANTINED", f"several processes keep taking its name from each other; {resume}")
    if agent.admin is Admin.PAUSED:
        return Rule("PAUSED", f"an operator paused it; `outrider agent resume {agent.id}` ends that")
    if agent.admin is Admin.DRAINING or agent.facts.is_leaving:
        return Rule("DRAINING", "it finishes its work and leaves")
    if not breaker.may_pass(agent.breaker):
        return Rule("BREAKER_OPEN", f"its circuit breaker is {agent.breaker.state.name} after repeated failures")
    return None


def closed_to_kind(agent: Agent, kind: str) -> Rule | None:
    """Why an agent gets no new work of a kind while it may get other work, None when it may."""
    if breaker.may_offer(agent, kind):
        return None
    state = agent.type_breakers[kind].state.name
    return Rule(
        "TYPE_BREAKER_OPEN", f"its circuit breaker for {kind!r} is {state}: such work failed here, not elsewhere"
    )


def fits(agent: Agent, hard: Hard) -> bool:
    """Whether the agent as it is could ever meet these demands."""
    if hard == Hard():
        return SIGNED_LABEL not in agent.labels
    return _unmet(agent, hard) is None


def mismatch(agent: Agent, demands: Demands) -> Rule | None:
    """The first demand that an agent as it is could never meet, however idle: None when it could meet all."""
    if demands is NO_DEMANDS:
        return _UNSIGNED if SIGNED_LABEL in agent.labels else None
    return _unmet(agent, hard_of(demands))


def _unmet(agent: Agent, hard: Hard) -> Rule | None:
    rule = _label_rule(agent, hard.constraints)
    if rule is None and hard.runner and hard.runner not in agent.runners:
        rule = Rule("RUNNER", f"it offers no runner {hard.runner!r}")
    if rule is None and hard.task_type and hard.task_type not in agent.task_types:
        rule = Rule("TASK_TYPE", f"it offers no task type {hard.task_type!r}")
    if rule is None and not hard.is_signed and SIGNED_LABEL in agent.labels:
        rule = _UNSIGNED
    if rule is None and agent.id in hard.refused_by:
        rule = Rule("REFUSED", "its own policy refuses this task, as its attempt there says")
    return rule or resources.lacking(agent, hard.resources)


def refusal(agent: Agent, task: Task) -> Rule | None:
    """The first rule by which this agent cannot take this task now, None when it can."""
    demands = demands_of(task)
    rule = (
        mismatch(agent, demands)
        or closed_to_work(agent)
        or closed_to_kind(agent, task.spec.kind)
        or resources.in_use(agent, demands.resources)
    )
    if rule is None and agent.free_slots == 0:
        rule = Rule("NO_FREE_SLOT", f"all {agent.slots} slots are in use")
    return rule


def describe(constraint: Constraint) -> str:
    """A label constraint as people write it."""
    if constraint.operator is Operator.ADMITS:
        return f"secret {_secret(constraint)}"
    values = ", ".join(constraint.values)
    return {
        Operator.IN: f"{constraint.key} in ({values})" if len(constraint.values) > 1 else f"{constraint.key}={values}",
        Operator.NOT_IN: f"{constraint.key} not in ({values})",
        Operator.EXISTS: f"{constraint.key} present",
        Operator.NOT_EXISTS: f"{constraint.key} absent",
    }[constraint.operator]


def _label_rule(agent: Agent, constraints: tuple[Constraint, ...]) -> Rule | None:
    for constraint in constraints:
        value = agent.labels.get(constraint.key)
        if not _holds(constraint, value):
            if constraint.operator is Operator.ADMITS:
                return _secret_rule(constraint, value)
            there = f"no label {constraint.key}" if value is None else f"{constraint.key}={value}"
            return Rule("LABELS", f"{describe(constraint)} does not hold; it has {there}")
    return None


def _secret_rule(constraint: Constraint, value: str | None) -> Rule:
    name = _secret(constraint)
    return Rule("SECRET", f"it has no secret {name}" if value is None else f"its secret {name} is not for such work")


def _secret(constraint: Constraint) -> str:
    return constraint.key.removeprefix(SECRET_PREFIX)


def _holds(constraint: Constraint, value: str | None) -> bool:
    if constraint.operator is Operator.ADMITS:
        return value is not None and not set(value.split()).isdisjoint(constraint.values)
    if constraint.operator is Operator.IN:
        return value in constraint.values
    if constraint.operator is Operator.NOT_IN:
        return value not in constraint.values
    return (value is not None) == (constraint.operator is Operator.EXISTS)
