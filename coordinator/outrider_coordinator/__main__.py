"""``outrider-coordinator``: read the settings and run the daemon."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from outrider import settings_file
from outrider.errors import OutriderError
from outrider.presets import PRESETS, preset
from outrider.settings import load
from outrider_coordinator.settings import CoordinatorSettings


def main(arguments: list[str] | None = None, prog: str = "outrider-coordinator") -> int:
    """Run the coordinator until it is told to stop; returns the exit code."""
    flags = vars(_parser(prog).parse_args(arguments))
    config, named = flags.pop("config") or settings_file.found(), flags.pop("preset")
    try:
        settings = load(
            CoordinatorSettings, "coordinator", path=config, preset=preset(named, "coordinator"), flags=flags
        )
    except OutriderError as error:
        print(f"outrider-coordinator: {error}", file=sys.stderr)
        return 1
    from outrider_coordinator.daemon import run

    return run(settings)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Accepts tasks, hands them to agents, and keeps what became of them.",
        epilog="Every setting can also stand in the [coordinator] table of the settings file, or in the environment "
        "as OUTRIDER_COORDINATOR_<NAME>. Flags win over the environment, which wins over the file.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings file (TOML); default: ~/.config/outrider/outrider.toml, then /etc/outrider/outrider.toml",
    )
    parser.add_argument("--preset", metavar="NAME", help=f"settings that go together: {', '.join(PRESETS)}")
    parser.add_argument(
        "--listen",
        action="append",
        metavar="ADDRESS",
        help="HOST:PORT or unix:/PATH; may be repeated; beyond this machine only with TLS (default 127.0.0.1:7420)",
    )
    parser.add_argument(
        "--listen-join",
        action="append",
        metavar="ADDRESS",
        help="HOST:PORT where machines join and programs show tokens; needs TLS; may be repeated",
    )
    parser.add_argument("--host", metavar="NAME", help="how other machines reach this one, for the lines it prints")
    parser.add_argument("--state-directory", metavar="DIR", help="folder of the database")
    parser.add_argument("--tls-certificate", metavar="FILE", help="certificate chain of the server (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key (PEM)")
    parser.add_argument("--tls-client-ca", metavar="FILE", help="authority every caller's certificate must come from")
    parser.add_argument("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
