"""Options and arguments that several commands share, and the exit codes of all."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from outrider.cli.session import Session

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_UNREACHABLE, EXIT_STOPPED = 0, 1, 2, 3, 4, 5
EXIT_TIMEOUT, EXIT_INTERRUPTED = 124, 130

EXIT_CODES = (
    "Exit codes: 0 done; 1 the task failed, or the answer is no; 2 wrong usage; 3 no such task, run or agent; "
    "4 no coordinator answers; 5 the task was cancelled, expired or skipped; 124 --wait-timeout ran out; "
    "130 interrupted."
)

JsonFlag: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object per line, for programs.")]
LastFlag: TypeAlias = Annotated[bool, typer.Option("--last", "-l", help="The newest one.")]
TaskId: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="Task id, or the beginning of it.")]
RunId: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="Run id, or the beginning of it.")]
AgentName: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="Name of the agent.")]


def session_of(context: typer.Context) -> Session:
    """The session that the global options describe."""
    session: Session = context.find_object(Session) or Session()
    return session
