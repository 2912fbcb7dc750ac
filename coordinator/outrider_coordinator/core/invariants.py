"""What must hold in every state, for tests, simulation and a debug flag in production."""

from __future__ import annotations

from outrider_coordinator.core import limits, resources
from outrider_coordinator.core.model import Agent, Run, Task
from outrider_coordinator.core.state import State
from outrider_coordinator.core.states import TERMINAL, AttemptState, TaskState

_WITH_ATTEMPT = frozenset((TaskState.ASSIGNED, TaskState.RUNNING, TaskState.BLOCKED, TaskState.CANCELLING))


def check(state: State) -> None:
    """Raises AssertionError with the story of the first broken invariant."""
    for task in state.tasks.values():
        _check_task(state, task)
    for run in state.runs.values():
        _check_run(state, run)
    for agent in state.agents.values():
        _check_agent(agent)
    limits.check(state)
    queued = sum(task.state is TaskState.QUEUED for task in state.tasks.values())
    assert len(state.queue) == queued, f"{len(state.queue)} in the queue, {queued} are QUEUED"
    for task_state in TaskState:
        found = sum(task.state is task_state for task in state.tasks.values())
        assert state.count(task_state) == found, f"{task_state.name}: counted {state.count(task_state)}, are {found}"


def _check_run(state: State, run: Run) -> None:
    story = f"run {run.id}"
    open_ids = [task_id for task_id in run.members.values() if task_id in state.tasks]
    assert run.open_count == len(open_ids), f"{story} counts {run.open_count} open tasks, has {len(open_ids)}"
    assert open_ids, f"{story} has no open task and is still in memory"
    for task_id in open_ids if run.phases else ():
        task, phase = state.tasks[task_id], run.phase_of(task_id)
        if phase > run.phase:
            assert run.id in (task.waiting_for or ()), f"I9: {story}: {task_id} does not wait for its phase"
            assert task.attempts_made == 0, f"I9: {story}: {task_id} of phase {phase} began in phase {run.phase}"
    counted = sum(run.phase_open.values())
    assert counted == (run.open_count if run.phases or run.phase_open else 0), f"{story} counts {counted} in phases"


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
