"""How long an `exclusive` attempt may run without hearing from us, and when another one may start (I13).

The agent kills an exclusive attempt when its lease ends: a lease is an answer to a heartbeat, counted from the boot
time that the heartbeat carried. So all that an agent can hold has ended one lease, and a tenth of it for clocks that
run apart, after the last one was sent, or after our own start for those that an earlier start sent. It must not know
why an attempt is lost.
"""

from __future__ import annotations

from outrider_coordinator.core.agents.liveness import heartbeat_us
from outrider_coordinator.core.events import SessionOpened
from outrider_coordinator.core.model import Agent, Attempt, Task
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.state import State

LEASE_MIN_US = 15 * SECOND_US
HEARTBEATS, SLACK_US = 3, 5 * SECOND_US


def duration_us(heartbeat_us: int) -> int:
    """How long a lease is for an agent with this heartbeat interval."""
    return max(LEASE_MIN_US, HEARTBEATS * heartbeat_us + SLACK_US)


def sent(state: State, agent: Agent) -> None:
    """A lease was sent to the agent, by now at the latest."""
    agent.lease_us = state.now_us


def is_due(state: State, agent_id: str, epoch: int) -> bool:
    """Whether a heartbeat of this session is answered with a lease.

    Once a session is over in memory it gets none, though its stream may go on until that is committed: `over_us` has
    been told already.
    """
    agent = state.agents.get(agent_id)
    return agent is not None and agent.epoch == epoch


def over_us(state: State, agent: Agent) -> int:
    """When every lease that any process of the agent can hold is over."""
    return max(agent.lease_us, state.started_us) + _longest_us(state, agent)


def over_since_start_us(state: State) -> int:
    """When every lease that an earlier start sent is over, by our own clock: the wall clock may have been set since."""
    longest_us = duration_us(heartbeat_us(state))
    return state.started_us + longest_us + longest_us // 10


def keeps(state: State, agent: Agent, task: Task) -> bool:
    """Whether an attempt of the task that is out of contact may still run and must not be doubled."""
    return task.spec.exclusive and over_us(state, agent) > state.now_us


def taken_over(state: State, agent: Agent, event: SessionOpened) -> None:
    """An agent says hello, to be called before it gets its lease: does this process know what the last one had?

    It does when it is the same, or came after it in the same folder and swept what was left. Another one under the same
    name (a clone, a lost disk) cannot say that an attempt of the other does not run: only the lease can. A clone of
    the whole disk says that it came after the last one; but it was booted for itself, as a machine is that came back.
    """
    is_other_boot = agent.boot_id != event.boot_id
    if is_other_boot or agent.instance_id not in (event.instance_id, event.previous_instance_id):
        agent.first_fence = state.fence_next
        agent.unlisted_over_us = over_us(state, agent)


def knows(agent: Agent, attempt: Attempt) -> bool:
    """Whether the agent's process can say that it has not got the attempt."""
    return attempt.fence >= agent.first_fence


def unlisted_over_us(state: State, agent: Agent, attempt: Attempt) -> int:
    """When it is certain that an attempt does not run which the agent, being here, does not list; 0 for now."""
    if knows(agent, attempt):
        return 0
    return max(agent.unlisted_over_us, state.started_us + _longest_us(state, agent))


def _longest_us(state: State, agent: Agent) -> int:
    longest_us = duration_us(max(agent.heartbeat_us, heartbeat_us(state)))
    return longest_us + longest_us // 10
