"""``outrider doctor``: what is wrong or insecure on this machine, on either daemon's, and how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outrider.cli import output
from outrider.cli.options import EXIT_FAILED, session_of

if TYPE_CHECKING:
    from outrider.cli.checkup import Finding

EXAMPLES = ("outrider doctor", "outrider doctor --security", "outrider doctor --config /etc/outrider/outrider.toml")
NOTES = (
    """Looks at the settings file, the state directories of the coordinator and of the agent that it names, their
    certificates and the machine. With --security also at what works but lets more people in than it must.""",
    "Exit codes: 0 nothing is wrong; 1 something is.",
)


def doctor(
    context: typer.Context,
    security: Annotated[
        bool, typer.Option("--security", help="Also what is insecure, not only what is broken.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The settings file (default: the one the daemons find).")
    ] = None,
) -> None:
    """Look for what is wrong on this machine, and say how to mend it."""
    from outrider.cli.checkup import Mark, findings
    from outrider.settings_file import found

    shown = findings(config or found(), with_security=security)
    shown += _connection(context)
    for finding in shown:
        word = {Mark.FINE: "fine", Mark.WARNING: "warning", Mark.WRONG: "wrong"}[finding.mark]
        output.line(f"{word:8} {finding.about}: {finding.text}")
        if finding.remedy:
            output.line(f"{'':8} {finding.remedy}")
    wrong = sum(finding.mark is Mark.WRONG for finding in shown)
    warnings = sum(finding.mark is Mark.WARNING for finding in shown)
    output.say(f"{wrong} wrong, {warnings} warnings, {len(shown) - wrong - warnings} fine")
    if wrong:
        raise typer.Exit(EXIT_FAILED)


def _connection(context: typer.Context) -> list[Finding]:
    """Whether the coordinator that the commands would use answers."""
    from outrider.cli.checkup import Finding, Mark
    from outrider.errors import OutriderError
    from outrider.v1 import access_service_pb2

    session = session_of(context)
    try:
        reply = session.call(session.access.WhoAmI, access_service_pb2.WhoAmIRequest())
    except OutriderError as error:
        return [Finding(Mark.WARNING, "coordinator", str(error))]
    return [Finding(Mark.FINE, "coordinator", f"{session.address} answers; we are {reply.name!r} there")]
