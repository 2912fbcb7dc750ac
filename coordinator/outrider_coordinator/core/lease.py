"""How long an `exclusive` attempt may run without hearing from us, and when another one may start (I13).

The agent kills an exclusive attempt when its lease ends: a lease is an answer to a heartbeat, counted from the boot
time that the heartbeat carried. So all that an agent can hold has ended one lease, and a tenth of it for clocks that
run apart, after the last one was sent, or after our own start for those that an earlier start sent. It must not know
why an attempt is lost.
"""

from __future__ import annotations

from outrider_coordinator.core.liveness import heartbeat_us
from outrider_coordinator.core.model import Agent, Task
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


def over_us(state: State, agent: Agent) -> int:
    """When every lease that any instance of the agent can hold is over."""
    longest_us = duration_us(max(agent.heartbeat_us, heartbeat_us(state)))
    return max(agent.lease_us, state.started_us) + longest_us + longest_us // 10


def keeps(state: State, agent: Agent, task: Task) -> bool:
    """Whether an attempt of the task that is out of contact may still run and must not be doubled."""
    return task.spec.exclusive and over_us(state, agent) > state.now_us


def taken_over(state: State, agent: Agent, instance_id: str) -> None:
    """An agent says hello, to be called before it gets its lease: who held its work until now?

    The same process that does not list an attempt has not got it. Another one under the same name, or one that an
    earlier start of ours spoke to, may not speak for the process that has it: only the lease does.
    """
    if not agent.attempts:
        agent.unlisted_over_us = 0
    elif agent.instance_id != instance_id or agent.session_start_us < state.started_us:
        agent.unlisted_over_us = over_us(state, agent)
