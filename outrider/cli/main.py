"""``outrider``: the commands put together, and every error as one line that says what to do."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

import outrider
from outrider import errors
from outrider.cli import (
    agent,
    answer,
    audit,
    authority,
    coordinator,
    doctor,
    inbox,
    joining,
    key,
    limit,
    login,
    map_lines,
    options,
    output,
    run,
    schedule,
    submit,
    system,
    task,
    up,
    user,
)
from outrider.cli.help import LITERAL, USAGE_ERROR, Commands, epilog, usage_lines
from outrider.cli.session import Session

EPILOG = epilog(
    [
        "outrider up                            (in one terminal)",
        "outrider submit --wait -- echo hello",
        "seq 10 | outrider map -- sh -c 'echo $(({} * {}))'",
        "outrider task list",
    ],
    options.EXIT_CODES,
)

app = Commands(name="outrider", context_settings={"help_option_names": ["-h", "--help"]})
_WORK, _LOOK, _SERVE, _ACCESS = "Submit work", "Look and answer", "Run the daemons", "Who may call"

app.command("up", rich_help_panel=_SERVE, examples=up.EXAMPLES, notes=up.NOTES)(up.up)
_ARGV: dict[str, Any] = {"rich_help_panel": _WORK, "options_metavar": "[OPTIONS] --", "context_settings": LITERAL}
app.command("submit", examples=submit.EXAMPLES, notes=submit.NOTES, **_ARGV)(submit.submit)
app.command("map", examples=map_lines.EXAMPLES, notes=map_lines.NOTES, **_ARGV)(map_lines.map_lines)
app.add_typer(task.app, name="task", rich_help_panel=_LOOK)
app.command("inbox", rich_help_panel=_LOOK, examples=inbox.EXAMPLES, notes=inbox.NOTES)(inbox.inbox)
app.command("answer", rich_help_panel=_LOOK, examples=answer.EXAMPLES, notes=answer.NOTES)(answer.answer)
app.add_typer(run.app, name="run", rich_help_panel=_LOOK)
app.add_typer(schedule.app, name="schedule", rich_help_panel=_WORK)
app.add_typer(limit.app, name="limit", rich_help_panel=_LOOK)
agent.app.add_typer(joining.tokens, name="token")
agent.app.command("join", examples=joining.JOIN_EXAMPLES, notes=joining.JOIN_NOTES)(joining.join)
agent.app.command("revoke", examples=joining.REVOKE_EXAMPLES)(joining.revoke)
app.add_typer(agent.app, name="agent", rich_help_panel=_SERVE)
app.add_typer(system.app, name="system", rich_help_panel=_SERVE)
coordinator.app.command("init", examples=authority.INIT_EXAMPLES, notes=authority.INIT_NOTES)(authority.init)
coordinator.app.add_typer(authority.app, name="authority")
app.add_typer(coordinator.app, name="coordinator", rich_help_panel=_SERVE)
app.command("doctor", rich_help_panel=_SERVE, examples=doctor.EXAMPLES, notes=doctor.NOTES)(doctor.doctor)
app.add_typer(user.app, name="user", rich_help_panel=_ACCESS)
app.command("login", rich_help_panel=_ACCESS, examples=login.LOGIN_EXAMPLES, notes=login.LOGIN_NOTES)(login.login)
app.command("logout", rich_help_panel=_ACCESS, examples=login.LOGOUT_EXAMPLES)(login.logout)
app.command("whoami", rich_help_panel=_ACCESS, examples=login.WHOAMI_EXAMPLES)(login.whoami)
app.add_typer(key.app, name="key", rich_help_panel=_ACCESS)
app.add_typer(audit.app, name="audit", rich_help_panel=_ACCESS)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"outrider {outrider.__version__}")
        raise typer.Exit


@app.callback(epilog=EPILOG)
def connect(
    context: typer.Context,
    address: Annotated[
        str,
        typer.Option(
            "--coordinator", envvar="OUTRIDER_COORDINATOR", metavar="ADDRESS", help="HOST:PORT or unix:/PATH."
        ),
    ] = "",
    namespace: Annotated[
        str, typer.Option(envvar="OUTRIDER_NAMESPACE", metavar="NAME", help="Whose tasks these are.")
    ] = "default",
    tls_ca: Annotated[str, typer.Option(metavar="FILE", help="The coordinator's authority (PEM); turns TLS on.")] = "",
    tls_certificate: Annotated[str, typer.Option(metavar="FILE", help="Our certificate (PEM).")] = "",
    tls_key: Annotated[str, typer.Option(metavar="FILE", help="Its key (PEM).")] = "",
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Runs long work on many machines and keeps it honest."""
    context.obj = Session(address, namespace, (tls_ca, tls_certificate, tls_key))


def main() -> None:
    """Entry of the command; does not return."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        sys.exit(app(prog_name="outrider", standalone_mode=False))
    except USAGE_ERROR as error:
        for line in usage_lines(error):
            output.say(line)
        sys.exit(options.EXIT_USAGE)
    except errors.OutriderError as error:
        if os.environ.get("OUTRIDER_DEBUG"):
            raise
        output.say(f"error: {error}")
        sys.exit(_exit_code(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(options.EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read us has had enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(options.EXIT_FAILED)
    except OSError as error:
        if os.environ.get("OUTRIDER_DEBUG"):
            raise
        output.say(f"error: {error}")
        sys.exit(options.EXIT_FAILED)


def _exit_code(error: errors.OutriderError) -> int:
    codes: list[tuple[type[errors.OutriderError], int]] = [
        (errors.InvalidRequest, options.EXIT_USAGE),
        (errors.NotFound, options.EXIT_NOT_FOUND),
        (errors.Unreachable, options.EXIT_UNREACHABLE),
    ]
    return next((code for kind, code in codes if isinstance(error, kind)), options.EXIT_FAILED)
