"""What counts as a try, what is a strike, and offers that nobody answers."""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.effects import PushCancel, PushRevoke
from outrider_coordinator.core.events import AttemptsAccepted, AttemptsReturned
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.states import AttemptState, Reason, TaskState
from support.core_world import ModelAgent, World


def silent_offer(**spec: Any) -> tuple[World, ModelAgent, str]:
    """A task offered to an agent that is there and does not answer."""
    world = World()
    agent = world.connect("a")
    (task,) = world.submit(**spec)
    return world, agent, task


def test_an_offer_that_is_not_accepted_is_asked_back() -> None:
    """After the accept timeout the agent is asked for it; what it says then decides."""
    world, agent, task = silent_offer()
    ref = world.ref(agent, task)
    world.wait(5.1)
    assert [send for send in world.sent if isinstance(send, PushRevoke)]
    world.do(AttemptsReturned("a", agent.epoch, [ref], revoked=True))
    assert world.state.tasks[task].attempts_made == 2


def test_a_plain_task_goes_elsewhere_after_the_second_timeout() -> None:
    """The offer is fenced, so that whatever became of it decides nothing; no try is used up."""
    world, agent, task = silent_offer(max_attempts=1)
    other = world.connect("b")
    old = world.ref(agent, task)
    world.wait(12.2)
    fences = [send for send in world.sent if isinstance(send, PushCancel) and send.fenced]
    assert [(send.task_id, send.attempt) for send in fences] == [old[:2]]
    agent.held[old] = AttemptState.STARTED  # it runs all the same
    world.complete(agent, old)
    assert world.state_of(task) is TaskState.ASSIGNED
    assert world.state.tasks[task].attempts_counted == 0
    assert [ref.task_id for ref in (*other.held, *agent.held)] == [task]


@pytest.mark.parametrize("policy", ["exclusive", "at_most_once"])
def test_others_wait_for_an_answer(policy: str) -> None:
    """Exclusive and at-most-once tasks go nowhere before the agent has said what became of the offer."""
    world, agent, task = silent_offer(**{policy: True})
    world.connect("b")
    world.wait(60)
    assert world.state.tasks[task].attempts_made == 1
    assert len([send for send in world.sent if isinstance(send, PushRevoke)]) >= 10
    world.do(AttemptsAccepted("a", agent.epoch, [world.ref(agent, task)]))
    count = len(world.sent)
    world.wait(60)
    assert not [send for send in world.sent[count:] if isinstance(send, PushRevoke)]


@pytest.mark.parametrize(
    ("reason", "is_started", "counted"),
    [
        (Reason.TASK_ERROR, True, 1),
        (Reason.TIMED_OUT, True, 1),
        (Reason.STALLED, True, 1),
        (Reason.WORKER_DIED, True, 1),
        (Reason.AGENT_STOPPED, True, 1),
        (Reason.AGENT_STOPPED, False, 0),
        (Reason.LEASE_EXPIRED, True, 1),
        (Reason.LEASE_EXPIRED, False, 0),
        (Reason.SECRET_UNAVAILABLE, False, 1),
    ],
)
def test_what_counts_as_a_try(reason: Reason, is_started: bool, counted: int) -> None:  # a table
    """Failed, timed out, stalled, lost after the start: counted. Ended before it: not."""
    world, agent, task = silent_offer(max_attempts=5)
    ref = world.ref(agent, task)
    if is_started:
        world.start(agent, ref)
    world.fail(agent, ref, reason)
    assert world.state.tasks[task].attempts_counted == counted


def test_three_dead_workers_quarantine_a_task() -> None:
    """A task whose attempts kill their worker three times is POISONED, however often it may be tried."""
    world, agent, task = silent_offer(max_attempts=9, initial_backoff_us=1)
    for _ in range(3):
        world.wait(1)
        ref = world.ref(agent, task)
        world.start(agent, ref)
        world.fail(agent, ref, Reason.WORKER_DIED)
    assert world.state_of(task) is TaskState.FAILED
    assert Reason(world.log[-1].reason) is Reason.POISONED


@pytest.mark.parametrize(("boot", "strikes"), [("boot-2", 1), ("boot-1", 0), ("", 0)])
def test_a_machine_that_died_under_a_task_is_a_strike(boot: str, strikes: int) -> None:
    """It comes back with another boot id: what ran there is a suspect; a keeper that was restarted is none."""
    for wait_s in (1, 9):
        world = World(CoreSettings(breaker_failures=50))
        agent = world.connect("a", boot_id="boot-1", slots=2)
        ran, waited = world.submit(2, max_attempts=9)
        world.start(agent, world.ref(agent, ran))
        world.disconnect(agent)
        world.wait(wait_s)
        agent.held.clear()
        world.connect("a", boot_id=boot, instance_id="next", previous_instance_id="i", slots=2)
        assert [world.state.tasks[task].worker_deaths for task in (ran, waited)] == [strikes, 0]


def test_an_agent_that_never_comes_back_is_a_strike() -> None:
    """Lost for good with its machine: a task that does that to three agents is POISONED, a partition costs nothing."""
    world = World(CoreSettings(lost_after_us=100 * SECOND_US, breaker_failures=50))
    world.connect("z")
    (task,) = world.submit(max_attempts=9)
    for name in "abc":
        holder = next(agent for agent in world.agents.values() if agent.epoch and agent.held)
        world.start(holder, world.ref(holder, task))
        world.connect(name)
        world.disconnect(holder)
        world.wait(20)
    assert world.state.tasks[task].worker_deaths == 0
    world.wait(100)
    assert world.state_of(task) is TaskState.FAILED
    assert Reason(next(event.reason for event in reversed(world.log) if event.task_id == task)) is Reason.POISONED
