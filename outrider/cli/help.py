"""How ``--help`` and usage errors look: no types where they say nothing, examples line by line.

Owns what typer leaves open about presentation; it must not know any command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

#: What typer raises for wrong usage; it exports only leaves of that tree.
USAGE_ERROR: type[Exception] = typer.BadParameter.mro()[1]
_NOTES = ("Exit codes: see outrider --help.",)
#: The options of a command whose remaining words are another program's.
LITERAL = {"allow_interspersed_args": False}


def epilog(examples: Sequence[str], *paragraphs: str) -> str:
    """The end of a help text: examples one a line, then paragraphs; by default where the exit codes are."""
    lines = [("Example:" if len(examples) == 1 else "Examples:"), *(f"  {example}" for example in examples)]
    return "\n\n".join(["\n".join(lines), *(" ".join(text.split()) for text in paragraphs or _NOTES)])


def _plain(params: list[Any]) -> list[Any]:
    """Take ``<bool>`` from flags and ``<str>`` from arguments, whose names say enough."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
        elif param.param_type_name == "argument":
            vars(param)["display_type_rich"] = _no_type
    return params


def _no_type(ctx: object) -> None:
    return None


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _plain(super().get_params(ctx))


class Commands(typer.Typer):
    """A group of commands; shows its help when called without one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=_Group, no_args_is_help=True, pretty_exceptions_enable=False, **options)

    def command(  # type: ignore[override]  # typer's, with our class and what stands at the end of the help
        self, name: str | None = None, *, examples: Sequence[str], notes: Sequence[str] = (), **options: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """As typer's; ``examples`` are command lines, ``notes`` paragraphs below them."""
        return super().command(name, cls=_Command, epilog=epilog(examples, *notes), **options)


def usage_lines(error: Exception) -> list[str]:
    """What to say about a usage error: what is wrong, and where the help is. Empty when the help was shown."""
    message = str(error.format_message() if hasattr(error, "format_message") else error)
    if not message.strip():
        return []
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "outrider"
    return [f"error: {message.strip()}", f"hint: {path} --help"]
