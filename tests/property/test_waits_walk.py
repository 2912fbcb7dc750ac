"""Random walks of waits: every kind, with budgets, answered by all who may; and Explain agrees with placement."""

from __future__ import annotations

from typing import Any

import pytest
from test_core_walk import Walk

from outrider_coordinator.core.events import Answered, GivenAnswer, ReportKind
from outrider_coordinator.core.explain.explain_agent import explain_agent
from outrider_coordinator.core.explain.reasons import explain_task, explained, obstacles
from outrider_coordinator.core.placement.eligibility import refusal
from outrider_coordinator.core.spec import (
    SECOND_US,
    Claim,
    Constraint,
    Demands,
    Operator,
    WaitExpiry,
    WaitPolicies,
    WaitPolicy,
)
from outrider_coordinator.core.states import AttemptState, TaskState

SEEDS = 100
STEPS = 120
KINDS = ("dependency", "external", "complexity", "clarification", "resource")


class WaitsWalk(Walk):
    """A walk whose attempts wait for everything there is."""

    asked = 0

    def submit(self) -> None:
        """Tasks with random budgets; some of them hold a limit, some can go to one agent only."""
        draw = self.random
        policy = [WaitPolicy(draw.choice((0, 2, 20)) * SECOND_US, draw.choice(list(WaitExpiry))) for _ in range(4)]
        demands = Demands(
            constraints=(Constraint("name", Operator.IN, ("a",)),) if draw.random() < 0.2 else (),
            claims=(Claim("db"),) if draw.random() < 0.2 else (),
        )
        fields: dict[str, Any] = {
            "max_attempts": draw.choice((0, 1, 3)),
            "waits": WaitPolicies(*policy, draw.choice((0, 3)) * SECOND_US),
            "at_most_once": draw.random() < 0.1,
            "demands": demands,
        }
        self.tasks += self.world.submit(draw.randint(1, 2), **fields)

    def connect(self) -> None:
        """An agent says hello with its name as a label."""
        name = self.random.choice("abc")
        self.world.connect(name, 2, labels={"name": name})

    def block(self) -> None:
        """A running attempt waits, for anything."""
        found = self.held(AttemptState.STARTED)
        if not found:
            return
        kind = self.random.choice(KINDS)
        self.asked += 1
        key = "q" if kind == "clarification" else f"{kind}{self.asked}"
        facts: dict[str, Any] = {}
        if kind == "dependency":
            facts["required_task_id"] = self.random.choice(self.tasks)
        elif kind == "external":
            facts = {"system": "ci", "retry_us": self.random.choice((0, self.world.now_us + SECOND_US))}
        elif kind == "complexity":
            facts["additional_us"] = SECOND_US
        elif kind == "resource":
            facts["claim"] = Claim("db")
        self.world.block(*found, key, kind, keeps_running=self.random.random() < 0.1, **facts)

    def wake(self) -> None:
        """What waits is answered, granted, refused or given up."""
        found = self.held(AttemptState.BLOCKED)
        if not found:
            return
        agent, ref = found
        task = self.world.state.tasks.get(ref.task_id)
        waits = [wait for wait in task.waits if wait.is_open] if task else []
        if task is None or task.attempt is None or task.attempt.number != ref.attempt or not waits:
            self.world.fail(agent, ref)
            return
        said = self.random.choice(({}, {"agrees": True}, {"refuses": True}, {"granted_us": 5}))
        self.world.do(Answered(task.id, waits[0].key, b"x", self.world.replies.append, **said))
        self.world.unblock(agent, ref, waits[0].key)

    def tell(self) -> None:
        """A running attempt answers another task."""
        found = self.held(AttemptState.STARTED)
        if found and self.tasks:
            given = GivenAnswer(self.random.choice(self.tasks), self.random.choice(("", "q")), b"x")
            self.world.report(*found, ReportKind.ANSWER_GIVEN, given=given)

    def welcome(self, name: str) -> None:
        """With the label that tasks ask for."""
        self.world.connect(name, 2, labels={"name": name})

    def check_explanations(self) -> None:
        """What Explain says of every task and agent is what placement did."""
        state = self.world.state
        for task in list(state.tasks.values()):
            explanation = explained(explain_task(state, task.id, self.world.now_us))
            assert explanation is not None
            assert explanation.summary
            if task.state is TaskState.QUEUED and not obstacles(state, task):
                takers = [agent.id for agent in state.agents.values() if refusal(agent, task) is None]
                claims = bool(task.spec.demands.claims)
                assert claims or not takers, f"{task.id} is queued though {takers} could take it"
        for agent_id in state.agents:
            assert explained(explain_agent(state, agent_id)) is not None


@pytest.mark.parametrize("seed", range(SEEDS))
def test_waits_of_every_kind_end_and_explain_agrees_with_placement(seed: int) -> None:
    """Whatever tasks wait for, with whatever budget: invariants hold, Explain says what is so, every task ends."""
    walk = WaitsWalk(seed)
    happenings = (
        [walk.submit, walk.block] * 3
        + [walk.start] * 4
        + [walk.finish, walk.wake, walk.wait, walk.tell, walk.connect] * 2
        + [walk.disconnect, walk.obey, walk.obey, walk.cancel]
    )
    for number in range(STEPS):
        walk.random.choice(happenings)()
        if number % 5 == 0:
            walk.check_explanations()
    walk.settle()
    left = {task.id: (task.state.name, task.waits) for task in walk.world.state.tasks.values()}
    assert not left
    assert set(walk.tasks) == set(walk.world.ended)
