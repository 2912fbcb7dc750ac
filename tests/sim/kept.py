"""Plans as text: a plan that failed is written down, and one that is kept is carried out by a test from then on.

A seed means another plan as soon as the workload draws differently; a plan that is written down stays what it was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sim.plan import AgentPlan, Item, Plan
from sim.report import commit, failure
from sim.simulate import Outcome

#: Where what failed is written, outside of what is committed; and what is carried out by `test_kept_plans`.
FAILED, KEPT = Path(__file__).parents[2] / "build" / "sim", Path(__file__).parent / "kept"


def written(plan: Plan, about: str) -> str:
    """A plan as JSON, an item a line; ``about`` says what it is kept for."""
    facts = {
        "about": about,
        "seed": plan.seed,
        "features": plan.features,
        "faults": plan.faults,
        "settings": dict(plan.settings),
        "agents": [vars(agent) for agent in plan.agents],
        "quiet_us": plan.quiet_us,
    }
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in facts.items()]
    items = [json.dumps(item) for item in plan.items]
    return "{" + ",\n".join([*lines, '"items": [\n' + ",\n".join(items) + "\n]"]) + "}\n"


def read(text: str) -> Plan:
    """The plan that `written` wrote."""
    facts: dict[str, Any] = json.loads(text)
    return Plan(
        facts["seed"],
        tuple(facts["features"]),
        tuple(facts["faults"]),
        facts["settings"],
        tuple(AgentPlan(**agent) for agent in facts["agents"]),
        tuple(Item(*item) for item in facts["items"]),
        facts["quiet_us"],
    )


def write_failure(outcome: Outcome) -> Path:
    """Write down a plan that failed, with what it said beside it; returns where."""
    FAILED.mkdir(parents=True, exist_ok=True)
    path = FAILED / f"seed-{outcome.plan.seed}.json"
    said = str(outcome.broken) or outcome.invariant
    path.write_text(written(outcome.plan, f"{said} (at commit {commit()})"))
    path.with_suffix(".txt").write_text(failure(outcome))
    return path
