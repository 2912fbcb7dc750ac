"""``outrider key ...``: the key with which a submitter signs tasks; and --sign, for every command that submits."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outrider.cli import output
from outrider.cli.help import Commands, epilog
from outrider.cli.options import JsonFlag
from outrider.cli.values import duration_s
from outrider.folders import config_home
from outrider.identity import SIGNING_KEY_ENVIRONMENT

if TYPE_CHECKING:
    from outrider.signing import Signer

app = Commands(
    help="Your key to sign tasks with, for agents that run signed tasks only.",
    epilog=epilog(
        [
            "outrider key create",
            "outrider submit --sign ~/.config/outrider/signing.pem --wait -- make test",
            "outrider key show",
        ],
        """An agent whose settings have [policy] require_signature = true runs only what one of its trusted_keys has
        signed: not even its coordinator can make it run anything else.""",
    ),
)

Sign = Annotated[
    str,
    typer.Option("--sign", envvar=SIGNING_KEY_ENVIRONMENT, metavar="KEY", help="Sign with the key in this file."),
]
SignFor = Annotated[
    str, typer.Option("--sign-for", metavar="DURATION", help="How long the signature is good for; a day by default.")
]
Out = Annotated[str, typer.Option("--out", metavar="FILE", help="Where; default: ~/.config/outrider/signing.pem.")]
KeyFile = Annotated[str, typer.Argument(metavar="[FILE]", help="The key's file; default as for create.")]


def signer(sign: str, sign_for: str) -> Signer | None:
    """Who signs, as --sign and --sign-for say. Raises `InvalidRequest`."""
    if not sign:
        return None
    from outrider.signing import Signer, load_key

    return Signer(load_key(Path(sign).expanduser()), valid_s=duration_s(sign_for) if sign_for else None)


@app.command(examples=["outrider key create", "outrider key create --out ./ci-key.pem"])
def create(out: Out = "", as_json: JsonFlag = False) -> None:
    """Make a key, readable by you only, and print what agents are to be told."""
    from outrider import signing

    path = _path(out)
    key = signing.create_key(path)
    _tell(path, signing.public_bytes(key), as_json)


@app.command(examples=["outrider key show", "outrider key show ./ci-key.pem --json"])
def show(file: KeyFile = "", as_json: JsonFlag = False) -> None:
    """Print the public half of a key."""
    from outrider import signing

    path = _path(file or os.environ.get(SIGNING_KEY_ENVIRONMENT, ""))
    _tell(path, signing.public_bytes(signing.load_key(path)), as_json)


def _tell(path: Path, public: bytes, as_json: bool) -> None:
    from outrider import identity, signing

    text, key_id, owner = signing.public_text(public), signing.key_id(public), identity.submitter()
    if as_json:
        print(json.dumps({"file": str(path), "key_id": key_id, "public_key": text}))
        return
    output.line(f"key {key_id} in {path}")
    output.line("on agents, in [policy] of the settings file:")
    output.line(f'  trusted_keys = ["{owner or "NAME"} {text}"]')
    output.line(f"here: --sign {path}, or {SIGNING_KEY_ENVIRONMENT}={path}")


def _path(given: str) -> Path:
    return Path(given).expanduser() if given else config_home() / "outrider" / "signing.pem"
