"""Numbers that are never given twice: fences and sessions of one start of the coordinator stand above those before.

A coordinator whose store was restored from a backup has forgotten starts that its agents have seen. Each Hello says the
highest one; whoever has seen more than we know raises us above it, durably, before anything is promised under a number.
"""

from __future__ import annotations

from outrider_coordinator.core.effects import Effects
from outrider_coordinator.core.events import SessionOpened
from outrider_coordinator.core.model import Agent
from outrider_coordinator.core.state import State

_NUMBERS_PER_EPOCH = 1 << 40
#: No store is started so often: an agent that says more is out of its mind, and nothing is believed.
EPOCH_MAX = 1 << 22


def first_number(epoch: int) -> int:
    """The first fence and session of a start."""
    return epoch * _NUMBERS_PER_EPOCH + 1


def has_seen_more(state: State, agent: Agent, event: SessionOpened) -> bool:
    """Whether an agent that says hello knows a start of this store that the store does not know.

    Before its first Hello in this start it cannot know this start either: then it is another one of the same number.
    """
    if event.store_id != state.store_id or not event.store_id or event.coordinator_epoch >= EPOCH_MAX:
        return False
    known = state.epoch + (agent.session_start_us >= state.started_us)
    return event.coordinator_epoch >= known


def is_unsure(state: State, agent: Agent, event: SessionOpened) -> bool:
    """Whether what an agent that says hello has reported may be forgotten: the store may have been restored.

    It was when the agent comes from a start that the store forgot. A process that the store does not know, at its first
    Hello in this start, can not say that it was not: what the one before it reported may have been acknowledged, and
    nothing of that is left on either side. To be asked after `rise_above`, and before its session begins.
    """
    if agent.session_start_us >= state.started_us:
        return False
    is_forgotten = event.store_id == state.store_id and state.first_epoch <= event.coordinator_epoch < state.epoch
    return is_forgotten or agent.instance_id != event.instance_id


def rise_above(state: State, effects: Effects, seen: int) -> None:
    """Go on above everything that the fleet has seen."""
    state.epoch = effects.epoch = seen + 1
    state.fence_next = state.session_next = first_number(state.epoch)
