"""``outrider system ...``: outside systems that tasks declare, and which of them are held to be down."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

from outrider.cli import breakers, output
from outrider.cli.help import Commands, epilog
from outrider.cli.options import JsonFlag, session_of

app = Commands(
    help="See which outside systems are down for everybody, and say when one is back.",
    epilog=epilog(["outrider system list", "outrider system reset api:anthropic"]),
)
SystemName: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="As tasks declare it.")]


@app.command("list", examples=["outrider system list"])
def list_systems(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List systems that tasks complain of: what is held back by each, and who sees whether it is back."""
    from outrider.v1 import fleet_service_pb2

    session = session_of(context)
    systems = session.call(session.fleet.ListSystems, fleet_service_pb2.ListSystemsRequest()).systems
    if as_json:
        for system in systems:
            output.emit(system)
        return
    if not systems:
        output.say("no task complains of an outside system")
        return
    output.table(("SYSTEM", "BREAKER", "TRIES AGAIN IN", "HELD BACK", "CANARY"), [_row(system) for system in systems])


def _row(system: Any) -> list[str]:
    held = str(system.held_count or "")
    canary = output.short(system.canary_task_id) if system.canary_task_id else ""
    return [system.system, breakers.word(system.state), breakers.until(system.reset_time), held, canary]


@app.command(examples=["outrider system reset github"])
def reset(context: typer.Context, name: SystemName) -> None:
    """Start what needs a system again at once, and wake what waits for it: it is back."""
    from outrider.v1 import fleet_service_pb2

    session = session_of(context)
    session.call(session.fleet.ResetBreaker, fleet_service_pb2.ResetBreakerRequest(system=name))
    output.line(f"{name} is trusted again")
