"""``outrider login``, ``logout`` and ``whoami``: which coordinator the other commands talk to, and as whom."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from outrider.cli import output
from outrider.cli.options import JsonFlag, session_of
from outrider.cli.session import CALL_TIMEOUT_S
from outrider.cli.user import role_word
from outrider.errors import InvalidRequest

LOGIN_EXAMPLES = ("outrider login build.example:7421", "outrider login build.example:7421 < token.txt")
LOGIN_NOTES = (
    """Asks for an API token, which an administrator makes with `outrider user token NAME`, and keeps it for the CLI and
    the SDK in ~/.config/outrider/profiles.json. The address is the coordinator's join port. The token says whom to
    trust, so nobody in between can answer instead.""",
    "Programs can do without: set OUTRIDER_COORDINATOR, OUTRIDER_TLS_CA and OUTRIDER_TOKEN.",
)
LOGOUT_EXAMPLES = ("outrider logout",)
WHOAMI_EXAMPLES = ("outrider whoami",)


def login(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The coordinator's join port.")],
    ca: Annotated[
        str, typer.Option(metavar="FILE", help="Its authority (PEM), where the token does not name one.")
    ] = "",
) -> None:
    """Keep a coordinator's address and a token for it; the other commands use them."""
    from outrider import certificates, profiles
    from outrider.channel import profile_channel, read_pem
    from outrider.credentials import ApiToken
    from outrider.endpoint import Endpoint
    from outrider.v1 import access_service_pb2
    from outrider.v1.access_service_pb2_grpc import AccessServiceStub

    endpoint = Endpoint.parse(address)
    token = ApiToken.parse(_asked())
    if not (token.authority_key or ca):
        raise InvalidRequest("this token does not say whom to trust; give the coordinator's authority with --ca FILE")
    roots = certificates.anchor(token.authority_key) if token.authority_key else read_pem(ca)
    profile = profiles.Profile(roots.decode(), token.text)
    with profile_channel(endpoint, profile) as channel:
        reply = _call(AccessServiceStub(channel).WhoAmI, access_service_pb2.WhoAmIRequest(), endpoint.target)
    kept = profiles.Profile((reply.trust or roots).decode(), token.text, reply.name)
    path = profiles.remember(endpoint.target, kept)
    output.line(f"logged in to {endpoint.target} as {reply.name} ({role_word(reply.role)})")
    output.say(f"kept in {path}, good until {output.when(reply.expire_time)}")
    _warn_of_local(endpoint.target)


def logout(
    address: Annotated[str, typer.Argument(metavar="[HOST:PORT]", help="Where; the current one by default.")] = "",
) -> None:
    """Forget a coordinator and the token for it. The token itself stays good: revoke it if somebody may have it."""
    from outrider import profiles

    output.line(f"logged out of {profiles.forget(address)}")


def whoami(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Which coordinator the commands talk to, and as whom. A login learns here of an authority that was replaced."""
    from outrider import profiles
    from outrider.v1 import access_service_pb2

    session = session_of(context)
    reply = session.call(session.access.WhoAmI, access_service_pb2.WhoAmIRequest())
    if profiles.renew(session.address, reply.trust.decode()):
        output.say(f"{session.address} has replaced its authority: the login trusts the new one from now on")
    if as_json:
        output.emit(reply)
        return
    output.facts(
        [
            ("coordinator", session.address),
            ("name", reply.name),
            ("role", role_word(reply.role)),
            ("namespaces", " ".join(reply.namespaces) or "all"),
            ("credential", reply.credential_id),
            ("good until", output.when(reply.expire_time) if reply.HasField("expire_time") else ""),
        ]
    )


def _asked() -> str:
    if sys.stdin.isatty():
        text: str = typer.prompt("API token", hide_input=True)
        return text
    return sys.stdin.read()


def _call(method: Any, request: object, address: str) -> Any:
    import grpc

    from outrider.status import from_rpc_error

    try:
        return method(request, timeout=CALL_TIMEOUT_S)
    except grpc.RpcError as error:
        raise from_rpc_error(error, address) from None


def _warn_of_local(address: str) -> None:
    from outrider import discovery

    local = discovery.find()
    if local:
        output.say(
            f"a cluster of your own runs here ({local}) and is used first; --coordinator {address} says otherwise"
        )
