"""``outrider agent token ...``, ``agent join`` and ``agent revoke``: letting machines in and out."""

from __future__ import annotations

import os
import shutil
import subprocess
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.cli import output
from outrider.cli.help import Commands, epilog
from outrider.cli.options import EXIT_FAILED, AgentName, JsonFlag, session_of
from outrider.cli.values import duration_s, pairs
from outrider.errors import InvalidRequest

tokens = Commands(
    help="Join tokens: what a machine shows once to become an agent.",
    epilog=epilog(["outrider agent token create", "outrider agent token create --name gpu-1 --label gpu=yes"]),
)

JOIN_EXAMPLES = (
    "outrider agent join build.example:7421 orjoin_...",
    "outrider agent join build.example:7421 orjoin_... --name gpu-1 --slots 2 --systemd",
)
JOIN_NOTES = (
    """`outrider agent token create` prints the whole line, for pasting. The token holds the public key of the cluster's
    authority, so this machine knows whom it talks to from the first byte; its own private key never leaves it.""",
    """Writes the agent's identity into its state directory and its settings into ~/.config/outrider/outrider.toml
    (as root: /etc/outrider/outrider.toml), where `outrider agent run` finds them.""",
)
REVOKE_EXAMPLES = ("outrider agent revoke gpu-1",)


class Unit(StrEnum):
    """Which service manager runs the agent."""

    USER = "user"
    SYSTEM = "system"


@tokens.command(
    examples=[
        "outrider agent token create",
        "outrider agent token create --name gpu-1 --label gpu=yes --cidr 10.0.0.0/8",
        "outrider agent token create --uses 20 --ttl 1h",
    ]
)
def create(
    context: typer.Context,
    name: Annotated[str, typer.Option(metavar="NAME", help="Only for an agent of this name.")] = "",
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="What its tasks can ask for; the machine cannot change it."),
    ] = None,
    cidrs: Annotated[
        list[str] | None, typer.Option("--cidr", metavar="RANGE", help="Only from these addresses; may be repeated.")
    ] = None,
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="How long it is good for; 15m by default.")] = "",
    uses: Annotated[int, typer.Option(min=1, metavar="N", help="How many machines may use it.")] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Print the one line to paste on a new machine. The token is shown once."""
    from outrider.v1 import fleet_service_pb2

    session = session_of(context)
    request = fleet_service_pb2.CreateJoinTokenRequest(
        agent_id=name, labels=pairs(labels or (), "--label"), cidrs=cidrs or (), uses=uses
    )
    if ttl:
        request.life_duration.FromMilliseconds(int(duration_s(ttl) * 1000))
    reply = session.call(session.fleet.CreateJoinToken, request)
    if as_json:
        output.emit(reply)
        return
    output.line(f"outrider agent join {reply.address} {reply.token}" + (f" --name {name}" if name else ""))
    many = f"{uses} machines" if uses > 1 else "one machine"
    output.say(
        f"for {many}, until {output.when(reply.facts.expire_time)}; paste it there, and add --systemd to run the agent "
        "as a service"
    )


@tokens.command("list", examples=["outrider agent token list"])
def list_tokens(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List join tokens that are still good for something."""
    from outrider.v1 import fleet_service_pb2

    session = session_of(context)
    found = session.call(session.fleet.ListJoinTokens, fleet_service_pb2.ListJoinTokensRequest()).tokens
    if as_json:
        for one in found:
            output.emit(one)
        return
    if not found:
        output.say("no join token is open; make one with `outrider agent token create`")
        return
    output.table(("ID", "FOR", "LABELS", "FROM", "USES LEFT", "EXPIRES", "MADE BY"), [_row(one) for one in found])


@tokens.command("revoke", examples=["outrider agent token revoke 3k9x0a1b"])
def revoke_token(
    context: typer.Context,
    token: Annotated[str, typer.Argument(metavar="ID", help="As `outrider agent token list` shows it.")],
) -> None:
    """A join token is good for nothing any more; machines that have joined stay."""
    from outrider.v1 import fleet_service_pb2

    session = session_of(context)
    session.call(session.fleet.RevokeJoinToken, fleet_service_pb2.RevokeJoinTokenRequest(token_id=token))
    output.line(f"{token} is revoked")


def revoke(context: typer.Context, name: AgentName) -> None:
    """Shut an agent out: its certificates are good for nothing any more, and its session ends within a second."""
    from outrider.v1 import fleet_service_pb2

    session = session_of(context)
    session.call(session.fleet.RevokeAgent, fleet_service_pb2.RevokeAgentRequest(agent_id=name))
    output.line(
        f"{name} is shut out; its work goes elsewhere when its grace ends, at once with `outrider agent remove`"
    )


def join(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The coordinator's join port.")],
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="As `agent token create` printed it.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name in the fleet (default: the host's name).")] = "",
    slots: Annotated[int, typer.Option(min=0, metavar="N", help="Attempts that run at once (default: CPUs).")] = 0,
    labels: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="What tasks can ask for; repeatable.")
    ] = None,
    state_directory: Annotated[str, typer.Option(metavar="DIR", help="Where the identity goes.")] = "",
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the settings go.")] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The coordinator's authority, where the token names none.")
    ] = None,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Install the agent as a service and start it (as root: for the system).")
    ] = False,
) -> None:
    """Make this machine an agent of a cluster."""
    from outrider.channel import read_pem
    from outrider.credentials import JoinToken
    from outrider.settings_file import default_path, set_table
    from outrider_agent.joining import join as join_cluster
    from outrider_agent.settings import AgentSettings, resolved

    parsed = JoinToken.parse(token)
    file = config or default_path(is_root=os.geteuid() == 0)
    settings = resolved(
        AgentSettings(name=name, state_directory=state_directory or _service_state(systemd)), os.environ
    )
    cluster, given = join_cluster(
        Path(settings.state_directory), address, parsed, settings.name, read_pem(str(ca)) if ca is not None else b""
    )
    table: dict[str, Any] = {"name": cluster.agent_id, "state_directory": settings.state_directory}
    if slots:
        table["slots"] = slots
    if labels:
        table["labels"] = pairs(labels, "--label")
    set_table(file, "agent", table)
    output.line(f"this machine is the agent {cluster.agent_id!r} of the cluster at {', '.join(cluster.addresses)}")
    if given:
        output.say("labels: " + " ".join(f"{key}={value}" for key, value in sorted(given.items())))
    if systemd:
        _as_service(file, Path(settings.state_directory))
    else:
        start = "outrider agent run" + (f" --config {file}" if config is not None else "")
        output.say(f"settings are in {file}; start it with:  {start}")


def _row(one: Any) -> list[str]:
    labels = " ".join(f"{key}={value}" for key, value in sorted(one.labels.items()))
    return [
        one.id,
        one.agent_id or "any name",
        labels,
        " ".join(one.cidrs) or "anywhere",
        str(one.uses_left),
        output.when(one.expire_time),
        one.created_by,
    ]


def _service_state(systemd: bool) -> str:
    """The system service keeps its state where systemd puts it."""
    return "/var/lib/outrider-agent" if systemd and os.geteuid() == 0 else ""


def _as_service(config: Path, state_directory: Path) -> None:
    """Install the unit that fits who asks, and start it."""
    from outrider.units import install

    if shutil.which("systemctl") is None:
        output.say("error: there is no systemctl on this machine; start the agent with `outrider agent run`")
        raise typer.Exit(EXIT_FAILED)
    unit = Unit.SYSTEM if os.geteuid() == 0 else Unit.USER
    try:
        commands = install("outrider-agent", unit.value, config, state_directory)
        for command in commands:
            subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InvalidRequest(f"the service could not be started: {error}") from None
    look = "systemctl status" if unit is Unit.SYSTEM else "systemctl --user status"
    output.line(f"the service outrider-agent runs; look at it with `{look} outrider-agent`")
