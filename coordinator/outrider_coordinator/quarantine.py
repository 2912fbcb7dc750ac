"""Events that have stopped the coordinator: looked at with care after a restart, and kept away from the core for good
once they have done it twice.

A fault of ours ends the process, and the supervisor starts it again; an agent then replays the very report that met
the fault, and a client its submit. Whoever crashed with others in one step is a suspect: after a restart suspects are
stepped one by one, so that the second crash names the culprit. A report that is condemned is stored raw and
acknowledged, a submit is refused. Known by names that a replay keeps. It must not know what a step does.

Invariant: what is counted is on disk before the process ends, wherever the disk takes it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from outrider_coordinator.core.effects import Refused
from outrider_coordinator.core.events import ReportKind, ReportsReceived, TasksSubmitted
from outrider_coordinator.core.step import Event

CRASHES_MAX = 2

logger = logging.getLogger(__name__)


class Quarantine:
    """Remembers crashes in the file ``path``; without one nothing is suspected."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._crashes: dict[str, int] = json.loads(path.read_text())
        except (OSError, ValueError):
            self._crashes = {}

    def batches(self, events: list[Event]) -> list[list[Event]]:
        """What to step, one batch after the other: everything at once while nothing is suspected."""
        if not self._crashes:
            return [events]
        return [[part] for event in events for part in self._parts(event)]

    def crashed(self, events: Sequence[Event]) -> None:
        """A step over these failed: count it, durably."""
        for name in (name for event in events for name in _names(event)):
            self._crashes[name] = self._crashes.get(name, 0) + 1
            if self._crashes[name] == CRASHES_MAX:
                logger.error("%s has stopped this coordinator twice; it will not be applied any more", name)
        self._write()

    def passed(self, events: Sequence[Event]) -> None:
        """A step over these went well: they were not to blame."""
        if not self._crashes:
            return
        innocent = [name for event in events for name in _names(event) if 0 < self._crashes.get(name, 0) < CRASHES_MAX]
        for name in innocent:
            del self._crashes[name]
        if innocent:
            self._write()

    def _parts(self, event: Event) -> Iterator[Event]:
        if isinstance(event, ReportsReceived):
            for position, report in enumerate(event.reports):
                seq = event.first_seq + position
                one = ReportsReceived(event.agent_id, event.epoch, event.outbox_id, seq, [report])
                if self._is_condemned(one):
                    one.reports = [report._replace(kind=ReportKind.QUARANTINED)]
                yield one
        elif isinstance(event, TasksSubmitted) and self._is_condemned(event):
            message = "this request has stopped the coordinator twice and is not taken; the coordinator's log says why"
            event.reply([Refused("INVALID_REQUEST", message) for _ in event.submissions])
        else:
            yield event

    def _is_condemned(self, event: Event) -> bool:
        return any(self._crashes.get(name, 0) >= CRASHES_MAX for name in _names(event))

    def _write(self) -> None:
        """Keep the counts; a disk that takes nothing must not keep the process from ending."""
        partial = self._path.with_suffix(".tmp")
        try:
            with partial.open("w") as file:
                json.dump(self._crashes, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
        except OSError as error:
            logger.error(
                "cannot write %s: %s; the next crash over the same event is counted as the first", partial, error
            )


def _names(event: Event) -> list[str]:
    """What an event is called now and when it comes again; nothing for those that do not."""
    if isinstance(event, ReportsReceived):
        last_seq = event.first_seq + len(event.reports)
        seqs = zip(range(event.first_seq, last_seq), event.reports, strict=True)
        known = [seq for seq, report in seqs if report.kind != ReportKind.QUARANTINED]
        return [f"report {seq} of outbox {event.outbox_id} of agent {event.agent_id}" for seq in known]
    if isinstance(event, TasksSubmitted):
        known_ids = [(one.namespace, one.request_id) for one in event.submissions if one.request_id]
        return [f"submit {request_id!r} in namespace {namespace!r}" for namespace, request_id in known_ids]
    return []
