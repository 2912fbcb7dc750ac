"""``outrider audit ...``: who did what, and whether the record of it is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from outrider.cli import output
from outrider.cli.help import Commands, epilog
from outrider.cli.options import EXIT_FAILED, JsonFlag, session_of

app = Commands(
    help="The audit log: who did what, with which verdict.",
    epilog=epilog(["outrider audit show --refused", "outrider audit verify /var/lib/outrider-coordinator/audit.log"]),
)


@app.command(examples=["outrider audit show", "outrider audit show --who ann", "outrider audit show --refused --json"])
def show(
    context: typer.Context,
    who: Annotated[str, typer.Option(metavar="NAME", help="Only calls of this user or agent.")] = "",
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
    first: Annotated[int, typer.Option("--from", metavar="NUMBER", help="Only lines from this number on.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Changes that were allowed, and everything that was refused, oldest first."""
    from outrider.v1 import access_service_pb2

    session = session_of(context)
    request = access_service_pb2.ReadAuditRequest(first_number=first, who=who, refused=refused)
    rows = []
    for reply in session.stream(session.access.ReadAudit, request):
        for text in reply.lines:
            if as_json:
                output.line(text)
            else:
                rows.append(_row(json.loads(text)))
    if not as_json:
        output.table(("NUMBER", "TIME", "WHO", "FROM", "WHAT", "ON", "VERDICT"), rows)


@app.command(examples=["outrider audit verify", "outrider audit verify copy-of-audit.log"])
def verify(
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The log, or a copy; by default this user's coordinator's.")
    ] = None,
) -> None:
    """Check that no line of a log was changed, left out or put in. Works on the file, without a coordinator."""
    from outrider_coordinator.access import audit
    from outrider_coordinator.settings import default_state_directory

    path = path or Path(default_state_directory()) / "audit.log"
    if not path.exists():
        output.say(f"error: there is no {path}; name the file")
        raise typer.Exit(EXIT_FAILED)
    count, flaw = audit.verify(path)
    if flaw is None:
        output.line(f"{path}: all {count} lines are as they were written")
        return
    output.line(f"{path}: line {flaw.line} {flaw.problem}; the {count} lines before it are as they were written")
    raise typer.Exit(EXIT_FAILED)


def _row(line: dict[str, str]) -> list[str | Text]:
    what = line["what"].rpartition(".")[2]
    verdict = line["verdict"] if line["verdict"] in ("ok", "allowed") else output.styled(line["verdict"].lower())
    return [str(line["number"]), line["time"], line["who"] or "-", line["peer"], what, line["target"], verdict]
