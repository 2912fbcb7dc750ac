"""The daemons under what their units allow: the real system call filters, loaded the way systemd loads them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.source_tree import ROOT

READY_TIMEOUT_S = 30.0


@contextmanager
def daemon_under_unit(unit: str, folder: Path, module: str, *arguments: str) -> Iterator[list[str]]:
    """Run a daemon under its unit's settings until it says READY=1; yields what it told systemd so far."""
    path = folder / f"{module}.notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(path))
        told.settimeout(READY_TIMEOUT_S)
        launcher = [sys.executable, str(ROOT / "tests/support/under_unit.py"), str(ROOT / "systemd" / unit), "--"]
        environment = os.environ | {"NOTIFY_SOCKET": str(path)}
        process = subprocess.Popen([*launcher, sys.executable, "-m", module, *arguments], env=environment)
        try:
            heard = [told.recv(4096).decode()]
            while "READY=1" not in heard[-1]:
                heard.append(told.recv(4096).decode())
            yield heard
            process.send_signal(signal.SIGTERM)
            assert process.wait(READY_TIMEOUT_S) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.needs("systemd-analyze")
def test_the_coordinator_lives_under_its_unit(tmp_path: Path) -> None:
    """Under its unit's filter, without writable executable memory, the coordinator gets ready and stops cleanly."""
    arguments = ("--listen", "127.0.0.1:0", "--state-directory", str(tmp_path / "state"))
    with daemon_under_unit("outrider-coordinator.service", tmp_path, "outrider_coordinator", *arguments):
        assert (tmp_path / "state" / "addresses.json").exists()
