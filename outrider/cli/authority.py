"""``outrider coordinator init`` and ``coordinator authority ...``: making a cluster reachable, and its certificates."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.cli import output
from outrider.cli.help import Commands, epilog
from outrider.cli.options import session_of
from outrider.errors import InvalidRequest

INIT_EXAMPLES = (
    "outrider coordinator init --host build.example",
    "outrider coordinator init --host build.example --host 10.0.0.7 --listen 10.0.0.7:7420",
)
INIT_NOTES = (
    """Makes the cluster's own certificate authority and a server certificate in the coordinator's state directory, and
    writes the settings to serve other machines: with certificates on port 7420, for joining and for API tokens on port
    7421, and for this machine's own user on a Unix socket. Running it again changes nothing that is there.""",
    "Then: `outrider coordinator run`, and `outrider agent token create` for the line to paste on another machine.",
)

app = Commands(
    help="The authority that signs the certificates of this cluster.",
    epilog=epilog(["outrider coordinator authority rotate", "outrider coordinator authority retire"]),
)


def init(
    hosts: Annotated[
        list[str], typer.Option("--host", metavar="NAME", help="How other machines reach this one; repeatable.")
    ],
    listen: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to serve with certificates.")] = "0.0.0.0:7420",
    join: Annotated[str, typer.Option(metavar="ADDRESS", help="Where machines join.")] = "0.0.0.0:7421",
    state_directory: Annotated[str, typer.Option(metavar="DIR", help="The coordinator's state directory.")] = "",
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the settings go.")] = None,
) -> None:
    """Make this coordinator reachable from other machines, safely."""
    from outrider.endpoint import Endpoint
    from outrider.settings_file import default_path, set_table
    from outrider_coordinator.settings import default_state_directory

    folder = Path(state_directory or default_state_directory()).absolute()
    file = config or default_path(is_root=os.geteuid() == 0)
    made = make_authority(folder, hosts)
    values: dict[str, Any] = {
        "state_directory": str(folder),
        "listen": [Endpoint.parse(listen).target, _socket(folder)],
        "listen_join": [Endpoint.parse(join).target],
        "host": hosts[0],
        "announce": True,
    }
    set_table(file, "coordinator", values)
    output.line(f"{'made' if made else 'kept'} the authority in {folder / 'authority'}, for {', '.join(hosts)}")
    output.say(
        f"settings are in {file}; start it with:  outrider coordinator run" + (f" --config {file}" if config else "")
    )
    output.say("then, for the line to paste on another machine:  outrider agent token create")


def _socket(folder: Path) -> str:
    """In the state directory, where that is not too long a path for a socket; among this user's sockets otherwise."""
    from outrider.discovery import runtime_directory
    from outrider.endpoint import Endpoint

    try:
        return Endpoint.parse(f"unix:{folder}/coordinator.sock").target
    except InvalidRequest:
        return Endpoint.parse(f"unix:{runtime_directory()}/coordinator.sock").target


def make_authority(folder: Path, hosts: list[str]) -> bool:
    """Make an authority in a coordinator's state directory where there is none; True when it was made."""
    from outrider_coordinator.access.access import AUTHORITY
    from outrider_coordinator.access.authority import Authority

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / AUTHORITY / "issuer.pem").exists():
            Authority(folder / AUTHORITY).renew_server(hosts)
            return False
        Authority.make(folder / AUTHORITY, secrets.token_hex(8), hosts)
        _give_to_owner(folder)
    except OSError as error:
        raise InvalidRequest(
            f"cannot write below {folder}: {error.strerror}; choose another --state-directory"
        ) from None
    return True


def _give_to_owner(folder: Path) -> None:
    """What root makes in another user's state directory is that user's."""
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        for path in ((folder / "authority"), *(folder / "authority").iterdir()):
            os.chown(path, owner.st_uid, owner.st_gid)


@app.command(examples=["outrider coordinator authority rotate"])
def rotate(context: typer.Context) -> None:
    """Make a new authority and sign with it from now on; the old one is believed too, until it is retired.

    Agents that are connected get new certificates at once, others when they are back; nothing that runs is disturbed.
    """
    from outrider.v1 import access_service_pb2

    session = session_of(context)
    reply = session.call(session.access.RotateAuthority, access_service_pb2.RotateAuthorityRequest())
    _show(reply.roots)
    output.say("when all agents have renewed:  outrider coordinator authority retire    (it says who has not)")


@app.command(examples=["outrider coordinator authority retire"])
def retire(
    context: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="Also when agents have not renewed; they join again.")] = False,
) -> None:
    """Believe only the authority that signs now; certificates of the old one are good for nothing any more."""
    from outrider.v1 import access_service_pb2

    session = session_of(context)
    reply = session.call(session.access.RetireAuthority, access_service_pb2.RetireAuthorityRequest(force=force))
    _show(reply.roots)
    output.say("users who logged in before the rotation log in again")


def _show(roots: Any) -> None:
    rows = [[root.key_id, "signs" if root.signs else "believed", output.when(root.expire_time)] for root in roots]
    output.table(("KEY", "IT", "EXPIRES"), rows)
