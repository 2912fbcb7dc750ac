"""``outrider coordinator ...``: the coordinator's own state, and the daemon itself."""

from __future__ import annotations

import typer

from outrider.cli import output
from outrider.cli.agent import PASS_ON
from outrider.cli.help import Commands, epilog
from outrider.cli.options import EXIT_FAILED, JsonFlag, session_of

app = Commands(
    help="Look at the coordinator; run one.",
    epilog=epilog(["outrider coordinator status", "outrider coordinator run --listen 127.0.0.1:7420"]),
)


@app.command(examples=["outrider coordinator status"])
def status(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Where the coordinator is, how much it has to do, and how fast it commits."""
    from outrider.v1 import fleet_service_pb2

    session = session_of(context)
    reply = session.call(session.fleet.GetCoordinator, fleet_service_pb2.GetCoordinatorRequest())
    if as_json:
        output.emit(reply)
        return
    output.facts(
        [
            ("address", session.address),
            ("version", reply.version),
            ("up for", output.age(reply.start_time)),
            ("state", "draining" if reply.draining else "serving"),
            ("store", f"{output.short(reply.store_id)}, start {reply.coordinator_epoch}"),
            ("commit", f"{reply.commit_duration.ToMicroseconds() / 1000:.1f} ms"),
            ("agents", f"{reply.agents_online} online of {reply.agents_known}"),
            ("alarm", "much of the fleet is silent; nothing is given away for a while" if reply.fleet_alarm else ""),
            ("slots", f"{reply.slots_used} of {reply.slots_total} in use"),
            (
                "tasks",
                f"{reply.pending_count} pending, {reply.queued_count} queued, {reply.running_count} running, "
                f"{reply.blocked_count} blocked, {reply.ended_count} ended since the start",
            ),
            ("queue limit", str(reply.queue_depth_max)),
        ]
    )


@app.command(
    "run",
    examples=["outrider coordinator run --listen 127.0.0.1:7420"],
    context_settings=PASS_ON,
    add_help_option=False,
)
def run_coordinator(context: typer.Context) -> None:
    """Run a coordinator on this machine, in the foreground (--help shows its flags)."""
    try:
        import apsw  # noqa: F401 - only to see whether the extra is there
        import grpc_health  # noqa: F401 - likewise
    except ImportError as error:
        output.say(
            f"error: {error.name} is missing; install the coordinator's parts: pip install 'outrider[coordinator]'"
        )
        raise typer.Exit(EXIT_FAILED) from None
    from outrider_coordinator.__main__ import main

    raise typer.Exit(main(context.args, prog="outrider coordinator run"))
