"""The fleet's retry budget: a tenth of all offers and a floor; the loss of one agent is free; nothing is dropped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outrider_coordinator.core.attempts.retry_budget import SHARE, WINDOW_US, RetryBudget
from outrider_coordinator.core.explain.reasons import explain_task, explained
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.states import Reason, TaskState
from support.core_world import World


def test_a_wave_of_failures_is_spread() -> None:
    """Beyond the floor retries get turns a while apart, in order; all of them run in the end."""
    world = World(CoreSettings(retry_floor=6, breaker_failures=999, fails_everywhere=99))
    agent = world.connect("a", 100)
    tasks = world.submit(20, max_attempts=2, initial_backoff_us=0)
    for ref in list(agent.held):
        world.start(agent, ref)
        world.fail(agent, ref)
    again = [task for task in tasks if world.state.tasks[task].state is TaskState.ASSIGNED]
    assert 6 <= len(again) <= 6 + int(SHARE * 40)
    late = next(task for task in tasks if task not in again)
    explanation = explained(explain_task(world.state, late, world.now_us))
    assert explanation is not None
    assert explanation.held_back[0].startswith("RETRY_BUDGET")
    world.wait(180)
    assert all(world.state.tasks[task].attempts_made >= 2 for task in tasks)


def test_the_loss_of_one_agent_is_free() -> None:
    """Everything that one agent took along goes elsewhere at once, whatever the budget says."""
    world = World(CoreSettings(retry_floor=1))
    lost = world.connect("a", 30)
    tasks = world.submit(30)
    for ref in list(lost.held):
        world.start(lost, ref)
    other = world.connect("b", 30)
    world.disconnect(lost)
    world.wait(6)
    assert {ref.task_id for ref in other.held} == set(tasks)


def test_a_failure_here_and_there_waits_for_its_backoff_only() -> None:
    """Within the budget a retry is ready when its policy says so."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(max_attempts=3, initial_backoff_us=SECOND_US)
    ref = world.ref(agent, task)
    world.start(agent, ref)
    world.fail(agent, ref, Reason.TASK_ERROR)
    assert world.state.tasks[task].ready_us == world.now_us + SECOND_US


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3_000_000)), max_size=120), st.integers(1, 20))
def test_no_window_has_more_retries_than_its_budget(steps: list[tuple[int, int]], floor: int) -> None:
    """However offers and failures come, a window's undelayed retries stay within the share and the floor."""
    budget, now_us, taken = RetryBudget(floor), 0, []
    offers: list[tuple[int, int]] = []
    for dispatched, pause_us in steps:
        now_us += pause_us
        budget.dispatched += dispatched
        offers.append((now_us, dispatched))
        at_us = budget.take("t", now_us, now_us)
        assert at_us >= now_us
        if at_us == now_us:
            taken.append(now_us)
        window = [at for at in taken if at > now_us - WINDOW_US]
        offered = sum(count for at, count in offers if at >= now_us - WINDOW_US - 5 * SECOND_US)
        assert len(window) <= 2 * (floor + SHARE * offered) + 1
