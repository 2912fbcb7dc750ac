"""Transcripts: commands to a tiny system, each with its whole visible reaction.

A line that begins with ``> `` is a command: ``submit COUNT``, ``cancel TASK`` or an action of `tiny.Tiny`, such as
``start a t1 1``, ``complete a t1 1``, ``cut a``, ``restart`` or ``wait``. What follows, indented, is what came out:
events of the log and what was sent. Lines that begin with ``#`` are for readers.
"""

from __future__ import annotations

from typing import Any

from outrider_coordinator.core.effects import Reply
from outrider_coordinator.core.records import InsertEvent
from outrider_coordinator.core.states import EventType, Reason
from sim.tiny import Tiny, spec_fields

FAULTS = 100


def told(text: str) -> str:
    """The same commands and comments with the reactions of now."""
    world, lines = Tiny(FAULTS), []
    for line in text.splitlines():
        if line.startswith("#") or not line:
            lines.append(line)
        elif line.startswith("> "):
            lines.append(line)
            lines += [f"  {shown}" for shown in _reaction(world, line[2:].split())]
    return "\n".join(lines) + "\n"


def _reaction(world: Tiny, words: list[str]) -> list[str]:
    world.visible.clear()
    if words[0] == "submit":
        world.submit(int(words[1]), **spec_fields())
    else:
        world.act(tuple(words))
    return [shown for one in world.visible if (shown := _shown(one))]


def _shown(one: Any) -> str:
    if isinstance(one, InsertEvent):
        parts = [EventType(one.type).name, one.task_id and f"{one.task_id}/{one.attempt}", one.agent_id]
        parts += [Reason(one.reason).name if one.reason else "", one.text and repr(one.text)]
        return "event " + " ".join(part for part in parts if part)
    if isinstance(one, Reply):
        return ""
    fields = one._asdict()
    attempt = f"{fields['task_id']}/{fields['attempt']}" if "attempt" in fields else ""
    more = [f"{name}={fields[name]!r}" for name in ("message", "fenced", "applied_seq", "refused") if name in fields]
    return " ".join(part for part in ("send", type(one).__name__, one.agent_id, attempt, *more) if part)
