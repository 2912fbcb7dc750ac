"""What a policy bounds of an attempt that it lets pass: running time, output, and where a function may come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from outrider.worker import messages
from outrider.worker.output import AGENT
from outrider_agent.assignment import Dossier
from outrider_agent.policy.rules import program_of


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is put on every attempt; 0 is no bound.

    ``must_be_own`` says of which functions that is asked. ``by_path``: programs are those that the rules looked up,
    whatever PATH a command has.
    """

    time_max_us: int
    output_max_bytes: int
    must_be_own: Callable[[str], bool]
    by_path: bool

    def put_on(self, dossier: Dossier) -> None:
        """Bound a new attempt."""
        if self.time_max_us:
            dossier.timeout_max_us = self.time_max_us
            dossier.timeout_us = min(dossier.timeout_us or self.time_max_us, self.time_max_us)
        dossier.output_max_bytes = self.output_max_bytes
        work = dossier.run.work
        if isinstance(work, messages.FunctionWork):
            bound: messages.FunctionWork | messages.CommandWork = msgspec.structs.replace(
                work, must_be_own=self.must_be_own(work.function)
            )
        else:
            bound = msgspec.structs.replace(work, program=program_of(work.argv[0]) if self.by_path else "")
        dossier.run = msgspec.structs.replace(dossier.run, work=bound)


def cut(dossier: Dossier, output: messages.LogOutput) -> messages.LogOutput | None:
    """What of some output is kept; the first piece that is cut says so instead, later ones are dropped."""
    before, dossier.output_bytes = dossier.output_bytes, dossier.output_bytes + len(output.data)
    limit = dossier.output_max_bytes
    if not limit or dossier.output_bytes <= limit:
        return output
    if before > limit:
        return None
    note = f"output truncated: this agent's own policy keeps {limit} bytes of an attempt (policy.output_bytes_max)\n"
    return msgspec.structs.replace(output, stream=AGENT, data=note.encode())
