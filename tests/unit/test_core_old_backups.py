"""A coordinator whose store was restored from an old backup: what agents know of a time that it has forgotten.

The store's forgetting is played by agents that hold, or have reported, what the coordinator was never told.
"""

from __future__ import annotations

from typing import Any

import pytest

from outrider_coordinator.core.effects import PushCancel
from outrider_coordinator.core.events import OutboxFacts, Ref
from outrider_coordinator.core.states import AttemptState, Reason, TaskState
from support.core_world import ModelAgent, World
from support.restart import restart


def forgetful(**spec: object) -> tuple[World, ModelAgent, str, Ref]:
    """An agent with a task that it was offered, as the backup has it; further reports of it are forgotten."""
    world = World()
    world.state.store_id = "s"
    agent = world.connect("a", slots=2)
    (task_id,) = world.submit(**spec)
    ref = world.ref(agent, task_id)
    world.start(agent, ref)
    world.disconnect(agent)
    agent.seq += 5
    return world, agent, task_id, ref


def test_what_waits_for_something_forgotten_goes_elsewhere() -> None:
    """An attempt that waits, nobody here knows for what, is moved without using up a try; one that runs is not."""
    world, agent, task_id, ref = forgetful()
    agent.held[ref] = AttemptState.BLOCKED
    world.connect("a", slots=2)
    assert ref in agent.cancelled
    world.fail(agent, ref, Reason.MOVED)
    again = world.ref(agent, task_id)
    assert again.attempt == 2
    assert world.state.tasks[task_id].attempts_counted == 0
    agent.seq += 5
    world.disconnect(agent)
    agent.held[again] = AttemptState.STARTED
    world.connect("a", slots=2)
    assert again not in agent.cancelled


def test_what_was_known_to_wait_may_wait_for_something_else_by_now() -> None:
    """An open wait of before the backup says nothing: the agent may have gone on since, and is told why it stops."""
    world = World()
    world.state.store_id = "s"
    agent = world.connect("a", slots=2)
    (task_id,) = world.submit()
    ref = world.ref(agent, task_id)
    world.start(agent, ref)
    world.block(agent, ref, "old")
    world.disconnect(agent)
    agent.seq += 5
    world.wait(1)
    world.connect("a", slots=2)
    assert ref in agent.cancelled
    text = "it waits for something that was forgotten when the store was restored"
    assert next(send.message for send in world.sent if isinstance(send, PushCancel)) == text


def test_what_is_known_to_wait_waits_on_after_a_start() -> None:
    """A store that has forgotten nothing knows what the attempt waits for."""
    world = World()
    agent = world.connect("a", slots=2)
    (task_id,) = world.submit()
    ref = world.ref(agent, task_id)
    world.start(agent, ref)
    world.block(agent, ref, "k")
    world.wait(1)
    restart(world)
    world.connect("a", slots=2)
    assert not agent.cancelled
    assert world.state_of(task_id) is TaskState.BLOCKED


def test_one_that_ends_in_the_replay_does_not_hide_the_others() -> None:
    """Of two that wait, the first one's end is replayed after the gap: the other one is moved all the same."""
    world = World()
    world.state.store_id = "s"
    agent = world.connect("a", slots=2)
    first, second = (world.ref(agent, task_id) for task_id in world.submit(2))
    for ref in (first, second):
        world.start(agent, ref)
        agent.held[ref] = AttemptState.BLOCKED
    world.disconnect(agent)
    agent.seq += 5
    world.connect("a", slots=2, outboxes=[OutboxFacts("box-a", agent.seq + 1, agent.seq + 1)])
    world.complete(agent, first)
    assert agent.cancelled == [second]


def test_what_is_replayed_is_not_forgotten() -> None:
    """A wait that the agent reports after the gap is known: it stays, and can be answered."""
    world, agent, _, ref = forgetful()
    agent.held[ref] = AttemptState.BLOCKED
    world.connect("a", slots=2, outboxes=[OutboxFacts("box-a", agent.seq + 1, agent.seq + 1)])
    world.block(agent, ref, "q")
    assert ref not in agent.cancelled


def test_an_attempt_of_a_forgotten_time_is_no_other() -> None:
    """An agent that holds an attempt of the same number under another fence has not got ours."""
    world = World()
    agent = world.connect("a")
    (task_id,) = world.submit()
    ref = world.ref(agent, task_id)
    world.disconnect(agent)
    agent.held = {ref._replace(fence=ref.fence - 1): AttemptState.CLOSED}
    world.connect("a")
    assert world.ref(agent, task_id).attempt == 2


@pytest.mark.parametrize(("forgot", "ends"), [(True, TaskState.FAILED), (False, TaskState.ASSIGNED)])
def test_what_may_have_run_in_a_forgotten_time_is_not_started_again(forgot: bool, ends: TaskState) -> None:
    """A task that runs at most once and is not listed has run, unless everything that its agent said is known."""
    world = World()
    world.state.store_id = "s"
    agent = world.connect("a")
    (task_id,) = world.submit(at_most_once=True)
    world.disconnect(agent)
    agent.held.clear()
    agent.seq += 3 * forgot
    world.connect("a")
    assert world.state_of(task_id) is ends


def test_a_forgotten_time_shows_in_the_epoch() -> None:
    """An agent that was restarted since has nothing to show but the epoch: it comes from a start that is forgotten."""
    world = World()
    world.state.store_id = "s"
    agent = world.connect("a")
    (task_id,) = world.submit(at_most_once=True)
    world.disconnect(agent)
    agent.held.clear()
    world.wait(1)
    world.state.started_us = world.now_us  # a start, from here on
    world.connect("a", store_id="s", coordinator_epoch=3)
    assert world.state.epoch == 4
    assert world.state_of(task_id) is TaskState.FAILED


@pytest.mark.parametrize(("instance", "ends"), [("j", TaskState.FAILED), ("i", TaskState.ASSIGNED)])
def test_a_keeper_that_nobody_knew_says_nothing_of_the_one_before(instance: str, ends: TaskState) -> None:
    """After a start, a new process has nothing to show of what the one before it reported and was told is durable."""
    world = World()
    agent = world.connect("a")
    (task_id,) = world.submit(at_most_once=True)
    world.disconnect(agent)
    agent.held.clear()
    world.wait(1)
    world.state.started_us = world.now_us  # a start, from here on
    world.connect("a", instance_id=instance, previous_instance_id="i", instance_start_ms=2)
    assert world.state_of(task_id) is ends


@pytest.mark.parametrize("listed", [AttemptState.STARTED, AttemptState.BLOCKED, AttemptState.CLOSED])
def test_what_is_listed_as_begun_is_not_begun_again(listed: AttemptState) -> None:
    """A restored store has forgotten that a task that runs at most once began; moved or failed, it has run."""
    world = World()
    agent = world.connect("a")
    (task_id,) = world.submit(at_most_once=True, max_attempts=3)
    ref = world.ref(agent, task_id)
    world.disconnect(agent)
    agent.seq += 2
    agent.held[ref] = listed
    world.connect("a")
    world.fail(agent, ref, Reason.AGENT_STOPPED)
    assert world.state_of(task_id) is TaskState.FAILED


def test_a_doubt_outlives_its_session() -> None:
    """A session that ends before everything is replayed decides nothing: the next one knows what is missing, too."""
    world, agent, _, waiting = forgetful()
    agent.held = {waiting: AttemptState.BLOCKED}
    world.connect("a", slots=2, outboxes=[OutboxFacts("box-a", agent.seq + 1, agent.seq + 1)])
    world.wait(1)
    world.disconnect(agent)
    assert waiting not in agent.cancelled
    world.connect("a", slots=2)
    assert waiting in agent.cancelled


def test_that_something_may_have_run_is_durable_with_the_gap() -> None:
    """What is not listed and may have run is not started again, though the coordinator dies before all is replayed."""
    world = World()
    agent = world.connect("a")
    (task_id,) = world.submit(at_most_once=True)
    world.disconnect(agent)
    agent.held.clear()
    agent.seq += 3
    world.connect("a", outboxes=[OutboxFacts("box-a", agent.seq + 1, agent.seq + 1)])
    assert world.state_of(task_id) is TaskState.ASSIGNED
    world.disconnect(agent)
    world.state.agents["a"].is_unsure = False  # as after a start, which finds the gap passed
    world.connect("a")
    assert world.state_of(task_id) is TaskState.FAILED


@pytest.mark.parametrize(
    ("gap", "listed", "at_most_once", "began"),
    [
        (0, AttemptState.OFFERED, False, False),
        (0, AttemptState.STARTED, False, False),
        (3, AttemptState.OFFERED, False, False),
        (3, AttemptState.OFFERED, True, False),
        (3, AttemptState.STARTED, False, True),
        (3, AttemptState.CLOSED, False, False),
        (3, AttemptState.CLOSED, True, True),
    ],
)
def test_only_what_began_in_a_forgotten_time_began_without_a_word(
    *, gap: int, listed: AttemptState, at_most_once: bool, began: bool
) -> None:
    """Where nothing is forgotten the begin is still to be heard of; what is only held has not begun.

    What is over may never have begun, which only matters where it must not begin again.
    """
    world = World()
    agent = world.connect("a")
    (task_id,) = world.submit(at_most_once=at_most_once)
    ref = world.ref(agent, task_id)
    world.disconnect(agent)
    agent.held[ref] = listed
    agent.seq += gap
    world.connect("a", outboxes=[OutboxFacts("box-a", agent.seq + 1, agent.seq + 1)])
    attempt = world.state.tasks[task_id].attempt
    assert attempt is not None
    assert bool(attempt.started_us) is began


@pytest.mark.parametrize("spec", [{}, {"at_most_once": True}])
def test_an_end_in_the_replay_counts_though_its_begin_is_forgotten(spec: dict[str, Any]) -> None:
    """Not listed as it is over: of a task that runs at most once the word that it was taken is what was forgotten."""
    world = World()
    agent = world.connect("a")
    (task_id,) = world.submit(**spec)
    ref = world.ref(agent, task_id)
    world.disconnect(agent)
    agent.held.clear()
    agent.seq += 3
    agent.numbers[ref] = len(spec)
    world.connect("a", outboxes=[OutboxFacts("box-a", agent.seq + 1, agent.seq + 1)])
    world.complete(agent, ref, start=(world.now_us, b""))
    assert world.state_of(task_id) is TaskState.SUCCEEDED


@pytest.mark.parametrize(("instance", "made"), [("j", 2), ("i", 1)])
def test_what_ended_under_an_earlier_keeper_and_was_passed_is_given_up(instance: str, made: int) -> None:
    """A keeper that lists an end of its predecessor has it on its disk: once that is applied, nobody else will tell."""
    world = World()
    agent = world.connect("a", slots=2)
    (task_id,) = world.submit()
    ref = world.ref(agent, task_id)
    world.start(agent, ref)
    world.disconnect(agent)
    agent.held = {ref: AttemptState.CLOSED}
    world.connect("a", slots=2, instance_id=instance, previous_instance_id="i", instance_start_ms=2)
    assert world.state.tasks[task_id].attempts_made == made


@pytest.mark.parametrize(("is_first", "stays"), [(True, False), (False, True)])
def test_at_the_first_hello_whatever_waits_must_be_known(*, is_first: bool, stays: bool) -> None:
    """A start that found out what was forgotten may have died of it: the next one asks of waits again."""
    world = World()
    agent = world.connect("a")
    (task_id,) = world.submit()
    ref = world.ref(agent, task_id)
    world.start(agent, ref)
    world.disconnect(agent)
    world.wait(1)
    if is_first:
        world.state.started_us = world.now_us
    agent.held[ref] = AttemptState.BLOCKED
    world.connect("a")
    assert (ref not in agent.cancelled) is stays


def test_a_wait_that_is_known_stays_over_a_start() -> None:
    """An attempt whose wait was stored goes on waiting for it after the coordinator was restarted."""
    world = World()
    agent = world.connect("a")
    (task_id,) = world.submit()
    ref = world.ref(agent, task_id)
    world.start(agent, ref)
    world.block(agent, ref, "q")
    world.disconnect(agent)
    world.wait(1)
    world.state.started_us = world.now_us
    agent.held[ref] = AttemptState.BLOCKED
    world.connect("a")
    assert ref not in agent.cancelled
