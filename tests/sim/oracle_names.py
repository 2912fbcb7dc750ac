"""Judges whom a name stands for: one machine, of its processes the newest, and nobody who cannot leave it alone.

Written from the protocol: two daemons with one identity: the newer one wins, once; flapping is quarantined; a different
machine that asks for a taken name is refused. It is told of every Hello with the core's answer, never the state.
"""

from __future__ import annotations

from typing import Any

from outrider_coordinator.core import events as heard
from sim.oracle_records import QUARANTINED_EVENT, RecordJudge
from sim.verdicts import Marks

#: Another process takes a name over while its holder has a session, so often within so long: neither gives way.
FLAPS, WITHIN_US = 3, 600_000_000


class NameJudge:
    """Who has each agent's name, as the Hellos that were believed say."""

    def __init__(self, marks: Marks, records: RecordJudge) -> None:
        self._marks = marks
        self._records = records
        self._machines: dict[str, str] = {}
        #: The process that spoke last, and when it was started by the clock of its machine.
        self._processes: dict[str, tuple[str, int]] = {}
        self._flaps: dict[str, list[int]] = {}

    def restarted(self) -> None:
        """A coordinator begins with what is committed; how often names changed hands is not."""
        self._machines = {agent_id: row.machine_id for agent_id, row in self._records.agents.items()}
        self._processes.clear()
        self._flaps.clear()

    def removed(self, agent_id: str) -> None:
        """An operator has freed the name."""
        self._machines.pop(agent_id, None)
        self._processes.pop(agent_id, None)
        self._flaps.pop(agent_id, None)

    def resumed(self, agent_id: str) -> None:
        """An operator says that the name is good again."""
        self._flaps.pop(agent_id, None)

    def opened(self, event: heard.SessionOpened, answer: Any, *, was_live: bool, effects: Any, now_us: int) -> None:
        """A Hello was answered; ``was_live`` when the name had a session then."""
        agent_id, demand = event.agent_id, self._marks.demand
        machine_id = self._machines.get(agent_id, event.machine_id)
        if machine_id != event.machine_id:
            refused = getattr(answer, "reason", "") == "AGENT_NAME_TAKEN"
            demand("names", refused, "{} of {} is taken over by {}", agent_id, machine_id, event.machine_id)
            self._marks.saw("saw:impostor refused")
        if getattr(answer, "reason", ""):
            return
        instance_id, start_ms = self._processes.get(agent_id, ("", 0))
        if was_live and instance_id != event.instance_id:
            good = event.instance_start_ms >= start_ms
            demand("names", good, "{} takes {} from {}, which is newer", event.instance_id, agent_id, instance_id)
            self._flapped(agent_id, effects, now_us)
        self._machines[agent_id] = machine_id
        self._processes[agent_id] = event.instance_id, event.instance_start_ms

    def _flapped(self, agent_id: str, effects: Any, now_us: int) -> None:
        flaps = self._flaps[agent_id] = [us for us in self._flaps.get(agent_id, ()) if us > now_us - WITHIN_US]
        flaps.append(now_us)
        row = self._records.agents.get(agent_id)
        if len(flaps) == FLAPS and not (row is not None and row.is_quarantined):
            told = any(one.type == QUARANTINED_EVENT and one.agent_id == agent_id for one in effects.events)
            self._marks.demand("names", told, "{} changed hands {} times and is not quarantined", agent_id, FLAPS)
