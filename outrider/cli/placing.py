"""Options of commands that submit: where a task may run, with which secrets, and who may take its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import typer

from outrider.cli.values import pairs
from outrider.errors import InvalidRequest

_WHERE_HELP = "Label condition: zone=a,b (one of), zone!=a, gpu (present), !gpu (absent); repeatable."
_STRATEGY_HELP = "least-loaded, round-robin, random, performance or two-choices; the coordinator's by default."
_AFFINITY_HELP = "Rather there, -100 to 100; repeatable. A wish, like all below."

Where: TypeAlias = Annotated[list[str], typer.Option("--where", metavar="CONDITION", help=_WHERE_HELP)]
Resource: TypeAlias = Annotated[
    list[str], typer.Option("--resource", metavar="NAME=AMOUNT", help="Take cpu=2, memory=4GiB, gpu=1; repeatable.")
]
Runner: TypeAlias = Annotated[str, typer.Option("--runner", metavar="NAME", help="The agent must offer this runner.")]
OnType: TypeAlias = Annotated[str, typer.Option("--on-type", metavar="TYPE", help="The agent must offer this type.")]
Strategy: TypeAlias = Annotated[str, typer.Option("--strategy", metavar="NAME", help=_STRATEGY_HELP)]
Affinity: TypeAlias = Annotated[list[str], typer.Option("--affinity", metavar="AGENT=WEIGHT", help=_AFFINITY_HELP)]
AvoidTag: TypeAlias = Annotated[
    list[str], typer.Option("--avoid-tag", metavar="TAG", help="Rather not beside tasks with this tag; repeatable.")
]
Spread: TypeAlias = Annotated[bool, typer.Option("--spread", help="Rather apart from tasks of its run or type.")]
Sticky: TypeAlias = Annotated[bool, typer.Option("--sticky", help="Rather where its first --after task ran.")]
Tag: TypeAlias = Annotated[list[str], typer.Option("--tag", metavar="TAG", help="A word to know it by; repeatable.")]
Secret: TypeAlias = Annotated[
    list[str], typer.Option("--secret", metavar="VARIABLE=NAME", help="Its agent puts this secret there; repeatable.")
]
SecretFd: TypeAlias = Annotated[
    list[str],
    typer.Option("--secret-fd", metavar="VARIABLE=NAME", help="There the path to read it from; repeatable."),
]
Preemptible: TypeAlias = Annotated[
    bool, typer.Option("--preemptible", help="A critical task may take its slot; it is queued again.")
]


def placing(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The `Options` that these command-line parameters stand for. Raises `InvalidRequest`."""
    return {
        "where": parameters["where"],
        "resources": pairs(parameters["resource"], "--resource"),
        "runner": parameters["runner"],
        "on_type": parameters["on_type"],
        "strategy": parameters["strategy"],
        "affinity": {name: _weight(name, text) for name, text in pairs(parameters["affinity"], "--affinity").items()},
        "avoid_tags": parameters["avoid_tag"],
        "spread": parameters["spread"],
        "sticky": parameters["sticky"],
        "tags": parameters["tag"],
        "preemptible": parameters["preemptible"],
        "secrets": pairs(parameters["secret"], "--secret"),
        "secret_fds": pairs(parameters["secret_fd"], "--secret-fd"),
    }


def _weight(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidRequest(f"--affinity {name}={text}: the weight is a whole number, -100 to 100") from None
