"""``outrider-agent``: the agent daemon from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from outrider import settings_file
from outrider.errors import OutriderError
from outrider.presets import PRESETS, preset
from outrider_agent.daemon import EXIT_CANNOT_START, run
from outrider_agent.policy import settings as policy
from outrider_agent.settings import load

#: Flags that are no settings of that name.
_OTHER = ("config", "preset", "label", "resource", "drain_timeout")
_EPILOG = """\
Every flag is also a setting: a key of [agent] in the --config file, or OUTRIDER_AGENT_<NAME> in the environment; flags
win over the environment, which wins over the file. [policy] in the same file says what may run here at all. Without
--coordinator the agent looks at OUTRIDER_COORDINATOR and then for a cluster started by `outrider up`.

SIGTERM or Ctrl-C: running attempts may finish (agent.drain_timeout_s), everything else is handed back. A second one
stops them at once. Exit codes: 0 drained, 1 cannot start or refused by the coordinator, 70 the disk failed.

examples:
  outrider-agent --coordinator 127.0.0.1:7420 --slots 4
  outrider-agent --coordinator coordinator.example:7420 --tls-ca ca.pem --label zone=b --resource gpu=2
"""


def parser(prog: str = "outrider-agent") -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Run an Outrider agent: takes work from a coordinator and runs it in local worker processes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings file (TOML), section [agent]; default: ~/.config/outrider/outrider.toml, then /etc/outrider/",
    )
    made.add_argument("--preset", metavar="NAME", help=f"settings that go together: {', '.join(PRESETS)}")
    made.add_argument("--coordinator", metavar="ADDRESS", help="HOST:PORT or unix:/path; several separated by commas")
    made.add_argument("--name", help="name in the fleet (default: the host's name)")
    made.add_argument("--slots", type=int, metavar="N", help="attempts that run at once (default: CPUs)")
    made.add_argument(
        "--label", action="append", default=[], metavar="KEY=VALUE", help="what tasks can ask for; repeatable"
    )
    made.add_argument(
        "--resource", action="append", default=[], metavar="NAME=AMOUNT", help="what tasks can take; repeatable"
    )
    made.add_argument(
        "--runner", action="append", dest="runners", metavar="NAME", help="a runner tasks can ask for; repeatable"
    )
    made.add_argument(
        "--task-type", action="append", dest="task_types", metavar="TYPE", help="a type tasks can ask for; repeatable"
    )
    made.add_argument("--state-directory", metavar="DIR", help="outbox and scratch space")
    made.add_argument("--working-directory", metavar="DIR", help="where workers run and import from (default: here)")
    made.add_argument("--drain-timeout", type=float, metavar="SECONDS", help="how long SIGTERM lets attempts finish")
    made.add_argument("--tls-ca", metavar="FILE", help="the coordinator's authority (PEM); turns TLS on")
    made.add_argument("--tls-certificate", metavar="FILE", help="this agent's certificate (PEM), for mutual TLS")
    made.add_argument("--tls-key", metavar="FILE", help="its key (PEM)")
    made.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    made.add_argument("--log-format", choices=("plain", "json"))
    return made


def flags_of(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """The flags by the names of their settings; raises `ValueError` for a label without a value."""
    flags = {name: value for name, value in vars(arguments).items() if name not in _OTHER}
    flags["drain_timeout_s"] = arguments.drain_timeout
    flags["labels"] = parse_labels(arguments.label) or None
    flags["resources"] = parse_resources(arguments.resource) or None
    return flags


def parse_resources(texts: Sequence[str]) -> dict[str, float]:
    """``NAME=AMOUNT`` texts as amounts; raises `ValueError` naming the one that is not."""
    amounts = {}
    for text in texts:
        name, _, amount = text.partition("=")
        try:
            amounts[name] = float(amount)
        except ValueError:
            raise ValueError(f"--resource {text!r} must be NAME=AMOUNT, like gpu=1") from None
    return amounts


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` texts as labels; raises `ValueError` naming the one that is not."""
    labels = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ValueError(f"--label {text!r} must be KEY=VALUE")
        labels[key] = value
    return labels


def main(argv: Sequence[str] | None = None, prog: str = "outrider-agent") -> int:
    """Parse, load the settings, serve; returns the exit code."""
    arguments = parser(prog).parse_args(argv)
    try:
        named = preset(arguments.preset, "agent")
        path = arguments.config or settings_file.found()
        settings = load(path=path, preset=named, flags=flags_of(arguments))
        own_policy = policy.load(path=path)
    except (OutriderError, ValueError) as error:
        print(f"outrider-agent: {error}", file=sys.stderr)
        return EXIT_CANNOT_START
    return run(settings, own_policy)


if __name__ == "__main__":
    sys.exit(main())
