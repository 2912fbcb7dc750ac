"""The tables of legal steps are total, and they are what the code runs: every pair of states is tried."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.explain.reasons import STATUS_RULES, status_word
from outrider_coordinator.core.model import Agent, Attempt, Breaker, HostFacts, Task
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import Spec
from outrider_coordinator.core.states import TERMINAL, Admin, AttemptState, BreakerState, Connectivity, TaskState
from outrider_coordinator.core.step import new_state
from outrider_coordinator.core.transitions import (
    ADMIN_STEPS,
    ATTEMPT_STEPS,
    BREAKER_STEPS,
    CONNECTIVITY_STEPS,
    TASK_STEPS,
    move_admin,
    move_attempt,
    move_breaker,
    move_connectivity,
)


def task_moved(was: IntEnum, to: IntEnum) -> IntEnum:
    """Where `State.move` brings a task."""
    state = new_state(CoreSettings(), coordinator_epoch=1, now_us=1)
    task = Task("t", "default", Spec(b"", "m:f", True), 1, 1, TaskState(was))
    state.add_task(task)
    if was is TaskState.QUEUED:
        state.queue.push(task)
    try:
        state.move(task, TaskState(to), Effects())
    finally:
        assert [state.count(one) for one in TaskState] == [int(one is task.state) for one in TaskState]
        assert len(state.queue) == (task.state is TaskState.QUEUED)
    return task.state


def attempt_moved(was: IntEnum, to: IntEnum) -> IntEnum:
    """Where `move_attempt` brings an attempt."""
    attempt = Attempt("t", 1, "a", 1, AttemptState(was), 1)
    move_attempt(attempt, AttemptState(to))
    return attempt.state


def connectivity_moved(was: IntEnum, to: IntEnum) -> IntEnum:
    """Where `move_connectivity` brings an agent."""
    agent = Agent("a", "m", connectivity=Connectivity(was))
    move_connectivity(agent, Connectivity(to))
    return agent.connectivity


def admin_moved(was: IntEnum, to: IntEnum) -> IntEnum:
    """Where `move_admin` brings an agent."""
    agent = Agent("a", "m", admin=Admin(was))
    move_admin(agent, Admin(to))
    return agent.admin


def breaker_moved(was: IntEnum, to: IntEnum) -> IntEnum:
    """Where `move_breaker` brings a breaker."""
    breaker = Breaker(state=BreakerState(was))
    move_breaker(breaker, BreakerState(to))
    return breaker.state


Machine = tuple[type[IntEnum], Any, Callable[[IntEnum, IntEnum], IntEnum], IntEnum, frozenset[IntEnum]]
ATTEMPT_ENDS = frozenset((AttemptState.CLOSED, AttemptState.REJECTED, AttemptState.REVOKED, AttemptState.FENCED))
#: The states, their table, what runs it, the first state, and those that nothing leaves.
MACHINES: dict[str, Machine] = {
    "task": (TaskState, TASK_STEPS, task_moved, TaskState.PENDING, frozenset(TERMINAL)),
    "attempt": (AttemptState, ATTEMPT_STEPS, attempt_moved, AttemptState.OFFERED, ATTEMPT_ENDS),
    "connectivity": (Connectivity, CONNECTIVITY_STEPS, connectivity_moved, Connectivity.LEFT, frozenset()),
    "admin": (Admin, ADMIN_STEPS, admin_moved, Admin.ACTIVE, frozenset()),
    "breaker": (BreakerState, BREAKER_STEPS, breaker_moved, BreakerState.CLOSED, frozenset()),
}
machines = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())


@machines
def test_every_pair_of_states_is_a_step_with_a_cause_or_refused(machine: Machine) -> None:
    """The code takes exactly the steps of the table, each with a cause; any other is an AssertionError."""
    states, steps, moved, _, _ = machine
    for was, to in product(states, states):
        if to in steps[was]:
            assert steps[was][to].strip(), f"{was.name} -> {to.name} has no cause"
            assert moved(was, to) is to
        elif was is not to:
            with pytest.raises(AssertionError, match=rf"\b{was.name} -> {to.name} is no step"):
                moved(was, to)


@machines
def test_nothing_leaves_a_terminal_state(machine: Machine) -> None:
    """Terminal states have no steps, all others have, and no state follows itself."""
    states, steps, _, _, terminal = machine
    assert {state for state in states if not steps[state]} == terminal
    assert not [state for state in states if state in steps[state]]


@machines
def test_every_state_can_be_reached(machine: Machine) -> None:
    """Steps lead from the first state to each of the others."""
    states, steps, _, first, _ = machine
    reached, todo = {first}, [first]
    while todo:
        fresh = set(steps[todo.pop()]) - reached
        reached |= fresh
        todo += fresh
    assert reached == set(states)


@machines
@given(data=st.data())
def test_a_walk_by_the_table_stays_where_it_ends(machine: Machine, data: st.DataObject) -> None:
    """Any sequence of legal steps can be taken, and once it has come to a terminal state no wish changes that."""
    states, steps, moved, first, terminal = machine
    at = first
    for wish in data.draw(st.lists(st.sampled_from(list(states)), max_size=30)):
        if wish in steps[at]:
            assert at not in terminal
            at = moved(at, wish)
    if at in terminal:
        assert not steps[at]


@given(
    st.sampled_from(list(Connectivity)),
    st.sampled_from(list(Admin)),
    st.sampled_from(list(BreakerState)),
    st.booleans(),
    st.booleans(),
)
def test_every_agent_has_one_word(
    connectivity: Connectivity, admin: Admin, breaker: BreakerState, leaving: bool, busy: bool
) -> None:
    """Whatever its three fields are, people see a word, and "idle" or "running" only of one that may get work."""
    agent = Agent("a", "m", connectivity, admin, Breaker(state=breaker), facts=HostFacts(is_leaving=leaving))
    if busy:
        agent.attempts["t", 1] = Attempt("t", 1, "a", 1, AttemptState.STARTED, 1)
    word = status_word(agent)
    assert word in {rule.word for rule in STATUS_RULES}
    is_open = connectivity is Connectivity.ONLINE and admin is Admin.ACTIVE and not leaving
    assert (word in ("idle", "running")) == (is_open and breaker is not BreakerState.OPEN)
