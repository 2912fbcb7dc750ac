"""Installing a daemon as a systemd service: the units that come with the product, made to fit this installation.

It writes files and returns the commands that make systemd take notice; whoever calls runs them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from outrider.errors import InvalidRequest
from outrider.folders import config_home

__all__ = ["install"]

SYSTEM_UNITS, SYSTEM_USERS = Path("/etc/systemd/system"), Path("/etc/sysusers.d")


def install(service: str, kind: str, config: Path, state_directory: Path) -> list[list[str]]:
    """Put the unit of ``service`` (``outrider-agent``) where ``kind`` (``user``, ``system``) has them.

    Returns the commands to run, in order. Raises `InvalidRequest` when the installation has no units, `OSError` when a
    file cannot be written.
    """
    unit = _fitted((_units() / ("user" if kind == "user" else "") / f"{service}.service").read_text(), service, config)
    if kind == "user":
        _write(config_home() / "systemd" / "user" / f"{service}.service", unit)
        systemctl = ["systemctl", "--user"]
        return [[*systemctl, "daemon-reload"], [*systemctl, "enable", "--now", service]]
    _write(SYSTEM_UNITS / f"{service}.service", unit)
    _write(SYSTEM_USERS / "outrider.conf", (_units() / "sysusers.d" / "outrider.conf").read_text())
    owner = ["chown", "--recursive", f"{service}:{service}", str(state_directory)]
    return [["systemd-sysusers"], owner, ["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", service]]


def _units() -> Path:
    """Where the units are: in the package, or beside it in a source tree."""
    here = Path(__file__).resolve().parent
    for folder in (here / "systemd", here.parent / "systemd"):
        if (folder / "outrider-agent.service").is_file():
            return folder
    raise InvalidRequest("this installation has no systemd units; docs/operations.md shows them")


def _fitted(unit: str, service: str, config: Path) -> str:
    """The unit with this installation's program and settings file."""
    program = shutil.which(service, path=str(Path(sys.executable).parent)) or shutil.which(service)
    if program is None:
        raise InvalidRequest(f"there is no program {service} beside {sys.executable}; install outrider there")
    lines = [
        f"ExecStart={program} --config {config}" if line.startswith("ExecStart=") else line
        for line in unit.splitlines()
    ]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
