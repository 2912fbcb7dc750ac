"""A login on another machine, and what becomes of it when the coordinator's authority is replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from outrider.v1 import access_service_pb2
from support.secured import TIMEOUT_S, SecuredCoordinator


def outrider(home: Path, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """The command line as a user with this home."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("outrider")), *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "HOME": str(home)},
        input=text,
        capture_output=True,
        text=True,
        timeout=3 * TIMEOUT_S,
        check=False,
    )


def test_a_login_outlives_the_authority_that_it_was_made_under(tmp_path: Path) -> None:
    """Who asks `whoami` between rotate and retire goes on; who did not is told to log in again."""
    with SecuredCoordinator(tmp_path / "coordinator") as coordinator:
        token, homes = coordinator.token("ann"), [tmp_path / "asked", tmp_path / "silent"]
        for home in homes:
            home.mkdir()
            done = outrider(home, "login", coordinator.join_address, text=token)
            assert done.returncode == 0, done.stderr
            assert "logged in to" in done.stdout
        coordinator.access.RotateAuthority(access_service_pb2.RotateAuthorityRequest(), timeout=TIMEOUT_S)
        first, again = outrider(homes[0], "whoami"), outrider(homes[0], "whoami")
        assert "has replaced its authority" in first.stderr
        assert "ann" in first.stdout
        assert not again.stderr
        coordinator.access.RetireAuthority(access_service_pb2.RetireAuthorityRequest(), timeout=TIMEOUT_S)
        asked, silent = (outrider(home, "task", "list") for home in homes)
        assert asked.returncode == 0, asked.stderr
        assert silent.returncode == 4
        assert "log in again with `outrider login`" in silent.stderr
