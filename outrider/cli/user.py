"""``outrider user ...``: who may call the coordinator, what they may do, and how they show who they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.cli import output
from outrider.cli.help import Commands, epilog
from outrider.cli.options import JsonFlag, session_of
from outrider.cli.values import duration_s
from outrider.errors import InvalidRequest

ROLES = ("viewer", "submitter", "operator", "admin", "agent")

app = Commands(
    help="People and programs: their roles, tokens and certificates.",
    epilog=epilog(
        [
            "outrider user put ann --role submitter --in research",
            "outrider user token ann --ttl 30d",
            "outrider user list",
        ],
        """Roles, each with all before it: viewer looks; submitter submits, cancels, answers and schedules; operator
        orders agents about, defines limits and lets machines join; admin gives roles and reads the audit log. With
        --in a user reaches those namespaces only.""",
    ),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the user.")]


@app.command(examples=["outrider user put ann --role submitter --in research", "outrider user put ci --role submitter"])
def put(
    context: typer.Context,
    name: Name,
    role: Annotated[str, typer.Option(metavar="ROLE", help=f"One of {', '.join(ROLES)}.")],
    namespaces: Annotated[
        list[str] | None, typer.Option("--in", metavar="NAMESPACE", help="Only there; may be repeated.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a user, or change what it may do; takes effect at once."""
    from outrider.v1 import access_service_pb2

    session = session_of(context)
    request = access_service_pb2.PutUserRequest(name=name, role=_role(role), namespaces=namespaces or ())
    user = session.call(session.access.PutUser, request).user
    if as_json:
        output.emit(user)
    else:
        output.line(f"{name} is {_standing(user)}; give it a token with `outrider user token {name}`")


@app.command("list", examples=["outrider user list"])
def list_users(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List users, what they may do, and their credentials."""
    from outrider.v1 import access_service_pb2

    session = session_of(context)
    users = session.call(session.access.ListUsers, access_service_pb2.ListUsersRequest()).users
    if as_json:
        for user in users:
            output.emit(user)
        return
    if not users:
        output.say("nobody but this machine's own user may call; make a user with `outrider user put NAME --role ROLE`")
        return
    rows = []
    for user in users:
        good = [one for one in user.credentials if not one.revoked] or [None]
        rows += [_row(user, one, is_first=one is good[0]) for one in good]
    output.table(("NAME", "ROLE", "NAMESPACES", "CREDENTIAL", "EXPIRES"), rows)


@app.command(examples=["outrider user remove ann"])
def remove(context: typer.Context, name: Name) -> None:
    """Forget a user; its tokens and certificates are good for nothing any more, at once."""
    from outrider.v1 import access_service_pb2

    session = session_of(context)
    session.call(session.access.RemoveUser, access_service_pb2.RemoveUserRequest(name=name))
    output.line(f"{name} may not call any more")


@app.command(examples=["outrider user token ann", "outrider user token ci --ttl 365d"])
def token(
    context: typer.Context,
    name: Name,
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="How long it is good for; 90d by default.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Make an API token. It is shown once."""
    from outrider.v1 import access_service_pb2, fleet_service_pb2

    session = session_of(context)
    request = access_service_pb2.CreateApiTokenRequest(user=name)
    if ttl:
        request.life_duration.FromMilliseconds(int(duration_s(ttl) * 1000))
    reply = session.call(session.access.CreateApiToken, request)
    if as_json:
        output.emit(reply)
        return
    facts = session.call(session.fleet.GetCoordinator, fleet_service_pb2.GetCoordinatorRequest())
    output.line(reply.token)
    output.say(f"{name} may use it until {output.when(reply.credential.expire_time)}; it is not shown again")
    if facts.join_address:
        output.say(f"to log in:  outrider login {facts.join_address}    (it asks for the token)")


@app.command(examples=["outrider user certificate ann --out ann.pem"])
def certificate(
    context: typer.Context,
    name: Name,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where certificate and key go, PEM; the roots beside it.")],
    ttl: Annotated[str, typer.Option(metavar="DURATION", help="How long it is good for; 90d by default.")] = "",
) -> None:
    """Make a client certificate and its key."""
    from outrider import certificates
    from outrider.v1 import access_service_pb2

    session = session_of(context)
    key = certificates.new_key()
    request = access_service_pb2.IssueCertificateRequest(user=name, certificate_request=certificates.request(key, name))
    if ttl:
        request.life_duration.FromMilliseconds(int(duration_s(ttl) * 1000))
    reply = session.call(session.access.IssueCertificate, request)
    roots = out.with_name(f"{out.stem}-ca.pem")
    _write(out, reply.certificate_chain + certificates.key_pem(key))
    _write(roots, reply.trust)
    output.line(f"--tls-ca {roots} --tls-certificate {out} --tls-key {out}")
    output.say(
        f"good until {output.when(reply.credential.expire_time)}; revoke it with `outrider user revoke "
        f"{reply.credential.id}`"
    )


@app.command(examples=["outrider user revoke token:3k9x0a1b"])
def revoke(
    context: typer.Context,
    credential: Annotated[str, typer.Argument(metavar="CREDENTIAL", help="As `outrider user list` shows it.")],
) -> None:
    """A token or certificate is good for nothing any more; open streams of it end within a second."""
    from outrider.v1 import access_service_pb2

    session = session_of(context)
    session.call(session.access.RevokeCredential, access_service_pb2.RevokeCredentialRequest(credential_id=credential))
    output.line(f"{credential} is revoked")


def _role(text: str) -> Any:
    from outrider.v1 import access_service_pb2

    if text.lower() not in ROLES:
        raise InvalidRequest(f"--role {text!r} is none of {', '.join(ROLES)}")
    return access_service_pb2.Role.Value(f"ROLE_{text.upper()}")


def role_word(number: int) -> str:
    """A role in lower case."""
    from outrider.v1 import access_service_pb2

    return access_service_pb2.Role.Name(access_service_pb2.Role.ValueType(number)).removeprefix("ROLE_").lower()


def _standing(user: Any) -> str:
    return role_word(user.role) + (f" in {', '.join(user.namespaces)}" if user.namespaces else " everywhere")


def _row(user: Any, credential: Any, *, is_first: bool) -> list[Any]:
    who = [user.name, role_word(user.role), " ".join(user.namespaces) or "all"] if is_first else ["", "", ""]
    return [*who, *([credential.id, output.when(credential.expire_time)] if credential is not None else ["none", ""])]


def _write(path: Path, data: bytes) -> None:
    import os

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise InvalidRequest(f"{path} exists; move it away or choose another --out") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
