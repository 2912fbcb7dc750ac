"""A `World` that writes down everything that comes out of the core: rows, events, sends and replies, field by field.

What is told is compared with what was kept, so a story proves all of it at once, also what nobody thought of asserting.
Fields that have their default are left out, serialized messages are shown as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from outrider_coordinator.core.effects import Effects, Reply
from outrider_coordinator.core.events import Ref
from outrider_coordinator.core.explain.explain_agent import explain_agent
from outrider_coordinator.core.explain.reasons import explain_task, explained, no_work_reason, status_word
from outrider_coordinator.core.limits.survey import survey
from outrider_coordinator.core.model import NO_TRACE
from outrider_coordinator.core.records import InsertEvent
from outrider_coordinator.core.settings import CoreSettings
from outrider_coordinator.core.spec import SECOND_US
from outrider_coordinator.core.states import AttemptState, EventType
from support.core_world import ModelAgent, World

#: Rows of which the first two fields say which they are.
PAIRS = ("PutAttempt", "PutWait", "PutOutbox", "PutBreaker", "PutLimit", "PutSchedule", "PutRunPart", "PutLog")
KEPT = Path(__file__).parents[1] / "transcripts" / "kept"
#: Fences and sessions count from the start's epoch times this.
NUMBERS = 1 << 40


class TellingWorld(World):
    """A world with the story of what it did so far in ``lines``."""

    def __init__(self, settings: CoreSettings | None = None) -> None:
        self.lines: list[str] = []
        self._rows: dict[tuple[str, Any, Any], Any] = {}
        super().__init__(settings)

    def say(self, text: str) -> None:
        """A heading, for readers."""
        self.lines.append(f"# {text}")

    def take(self, effects: Effects) -> None:
        """Carry out what a step wants, and write it down."""
        super().take(effects)
        shown = [f"row {self._row(row)}" for row in self.written if not isinstance(row, InsertEvent)]
        shown += [f"event {_event(event)}" for event in effects.events]
        shown += [f"send {_shown(send)}" for send in effects.sends if not isinstance(send, Reply)]
        shown += [f"reply {_shown(send.value)}" for send in effects.sends if isinstance(send, Reply)]
        if shown:
            self.lines.append(f"at {(self.now_us - SECOND_US) / SECOND_US:.3f} s")
            self.lines += [f"  {line}" for line in shown]

    def _row(self, row: Any) -> str:
        """A row as far as it differs from the one that was written of the same thing before."""
        name = type(row).__name__.replace("Insert", "Put").replace("Update", "Put")
        key = (name, row[0], row[1] if name in PAIRS and len(row) > 1 else None)
        before, self._rows[key] = self._rows.get(key), row
        if before is None or not name.startswith("Put"):
            return _shown(row)
        known = before._asdict()
        news = [f"{field}={_shown(one)}" for field, one in row._asdict().items() if known.get(field) != one]
        return " ".join([type(row).__name__, *map(repr, key[1:2]), *(repr(one) for one in key[2:] if one), *news])

    def tell(self, value: Any) -> None:
        """Write down something that was asked for."""
        self.lines.append(f"  told {_shown(value)}")


def _event(event: InsertEvent) -> str:
    return f"{EventType(event.type).name} " + _fields(event._replace(type=0, time_us=0, cursor=0))


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        return value.name
    if type(value) is int and value > NUMBERS:
        return f"#{value % NUMBERS}"
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        inner = ", ".join(_shown(one) for one in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_shown(key)}: {_shown(one)}" for key, one in value.items()) + "}"
    if hasattr(value, "_fields") or dataclasses.is_dataclass(value):
        return f"{type(value).__name__} {_fields(value)}".strip()
    return repr(value)


def _fields(value: Any) -> str:
    """The fields that say something: not empty, 0, False or None."""
    named = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else value._fields
    found = ((name, getattr(value, name)) for name in named)
    return " ".join(f"{name}={_shown(one)}" for name, one in found if _says_something(one))


def _says_something(value: Any) -> bool:
    return not callable(value) and bool(value) and value != NO_TRACE


def tell_all(world: TellingWorld) -> None:
    """What people are told now of every agent, every open task and every limit."""
    state = world.state
    for name, agent in sorted(state.agents.items()):
        world.lines.append(f"  {name} is {status_word(agent)}; {no_work_reason(agent) or 'open to work'}")
        world.tell(explained(explain_agent(state, name)))
    for task_id in sorted(state.tasks):
        world.tell(explained(explain_task(state, task_id, world.now_us)))
    for limit in survey(state, "default"):
        world.tell(limit)


def begin(world: World, agent: ModelAgent) -> list[Ref]:
    """Everything that the agent was offered starts."""
    refs = [ref for ref, state in agent.held.items() if state is AttemptState.OFFERED]
    for ref in refs:
        world.start(agent, ref)
    return refs


def obey(world: World) -> None:
    """Agents stop what they were told to stop."""
    for agent in world.agents.values():
        for ref in [ref for ref in agent.cancelled if ref in agent.held]:
            world.fail(agent, ref, agent.reasons[ref])
        agent.cancelled.clear()


Story = Callable[[TellingWorld], None]


def check(story: Story, config: pytest.Config, settings: CoreSettings | None = None) -> None:
    """Compare a story with what was kept of it in tests/transcripts/kept; ``--rewrite`` keeps what is told now."""
    world = TellingWorld(settings)
    world.say((story.__doc__ or "").splitlines()[0])
    story(world)
    path = KEPT / f"{story.__name__.removeprefix('_')}.txt"
    now = "\n".join(world.lines) + "\n"
    if config.getoption("--rewrite"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(now)
    assert path.read_text() == now
