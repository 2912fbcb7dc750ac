"""What must hold in every state, for tests, simulation and a debug flag in production."""

from __future__ import annotations

from outrider_coordinator.core import fleet, limits, resources
from outrider_coordinator.core.eligibility import fits
from outrider_coordinator.core.model import Agent, Task
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import TERMINAL, AttemptState, TaskState

_WITH_ATTEMPT = frozenset((TaskState.ASSIGNED, TaskState.RUNNING, TaskState.BLOCKED, TaskState.CANCELLING))


def check(state: State) -> None:
    """Raises AssertionError with the story of the first broken invariant."""
    for task in state.tasks.values():
        _check_task(state, task)
    for agent in state.agents.values():
        _check_agent(agent)
    limits.check(state)
    fleet.check(state.fleet, state.agents, fits)
    _check_queue(state)
    queued = sum(task.state is TaskState.QUEUED for task in state.tasks.values())
    assert len(state.queue) == queued, f"{len(state.queue)} in the queue, {queued} are QUEUED"
    for task_state in TaskState:
        found = sum(task.state is task_state for task in state.tasks.values())
        assert state.count(task_state) == found, f"{task_state.name}: counted {state.count(task_state)}, are {found}"


def _check_queue(state: State) -> None:
    """Every need counts its tasks, every sleeping one is woken by its agents, and no tag runs ahead of its lanes."""
    queue = state.queue
    waiting: dict[tuple[object, ...], int] = {}
    for task in queue.tasks.values():
        assert task.strand is not None, f"task {task.id} is in the queue and in no strand of it"
        need = task.strand.group.need
        waiting[need.name] = waiting.get(need.name, 0) + 1
        assert any(entry[2] == task.id for entry in task.strand.line), f"task {task.id} has no entry in its strand"
    for need in queue.needs.values():
        assert need.waiting == waiting.get(need.name, 0), f"{need.demands}: counted {need.waiting}, are {waiting}"
        assert need.is_awake or (need.reach and need in need.reach.asleep), f"{need.demands} sleeps for ever"
    active = sum(need.is_awake and need.waiting > 0 for need in queue.needs.values())
    assert queue.active == active, f"{active} needs are awake with tasks, counted {queue.active}"


def _check_task(state: State, task: Task) -> None:
    story = f"task {task.id} ({task.state.name})"
    assert task.state not in TERMINAL, f"I1: {story} is terminal and still in memory"
    assert (task.attempt is not None) == (task.state in _WITH_ATTEMPT), f"I2: {story} has attempt {task.attempt}"
    assert task.attempts_counted <= task.attempts_made, f"I3: {story} counted more tries than were made"
    for stray in task.strays:
        assert stray.state is AttemptState.LOST, f"I2: {story} has a stray in {stray.state.name}"
    if task.state is not TaskState.PENDING:
        assert not task.waiting_for, f"I9: {story} waits for {sorted(task.waiting_for)}"
    if task.attempt is not None and task.attempt.agent_id in state.agents:
        agent = state.agents[task.attempt.agent_id]
        assert task.attempt.key in agent.attempts, f"{story}: agent {agent.id} does not know its attempt"


def _check_agent(agent: Agent) -> None:
    holding = sum(attempt.holds_slot for attempt in agent.attempts.values())
    assert holding == agent.slots_used, f"I11: agent {agent.id} holds {holding} slots, counts {agent.slots_used}"
    parked = sum(
        not attempt.holds_slot and attempt.state is AttemptState.BLOCKED for attempt in agent.attempts.values()
    )
    assert parked == agent.parked, f"I11: agent {agent.id} parks {parked}, counts {agent.parked}"
    resources.check(agent)
    for key in agent.ahead:
        assert key in agent.attempts, f"I11: agent {agent.id} has {key} ahead and does not hold it"
