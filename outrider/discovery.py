"""Where the coordinator is: an address given, one in the environment, or the local cluster that announced itself."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from outrider.errors import Unreachable

ADDRESS_ENVIRONMENT = "OUTRIDER_COORDINATOR"
_CLUSTER_FILE = "cluster.json"


def runtime_directory() -> Path:
    """This user's folder for sockets and announcements: below ``$XDG_RUNTIME_DIR``, or a private one in /tmp.

    Raises `Unreachable` when somebody else owns it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = Path(base) / "outrider" if base else Path(tempfile.gettempdir()) / f"outrider-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise Unreachable(f"{folder} belongs to another user; set XDG_RUNTIME_DIR to a folder of your own")
    return folder


def announce(address: str, pid: int) -> Path:
    """Say that a local cluster serves at ``address`` while process ``pid`` lives; returns the file that says so."""
    path = runtime_directory() / _CLUSTER_FILE
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps({"address": address, "pid": pid}))
    partial.replace(path)
    return path


def find() -> str:
    """Address of the announced cluster whose process lives; empty when there is none."""
    try:
        cluster = json.loads((runtime_directory() / _CLUSTER_FILE).read_text())
        address, pid = str(cluster["address"]), int(cluster["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
    return address


def coordinator_address(explicit: str = "") -> str:
    """The address to use: the one given, ``$OUTRIDER_COORDINATOR``, that of a cluster which runs on this machine, or
    the one where this user is logged in. Raises `Unreachable`.
    """
    address = explicit or os.environ.get(ADDRESS_ENVIRONMENT, "") or find() or _logged_in()
    if not address:
        raise Unreachable(
            "no coordinator is known: start one here with `outrider up`, log in to one with `outrider login`, or give "
            "its address with --coordinator or OUTRIDER_COORDINATOR"
        )
    return address


def _logged_in() -> str:
    from outrider import profiles  # only here, so that `--help` does not pay for it

    return profiles.current_address()
