"""How a client finds its coordinator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outrider import discovery
from outrider.errors import Unreachable


@pytest.fixture(autouse=True)
def _own_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("OUTRIDER_COORDINATOR", raising=False)


def test_an_address_given_wins_over_the_environment_and_an_announcement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Explicit first, then OUTRIDER_COORDINATOR, then the announced cluster."""
    discovery.announce("unix:/announced", os.getpid())
    assert discovery.coordinator_address() == "unix:/announced"
    monkeypatch.setenv("OUTRIDER_COORDINATOR", "there:1")
    assert discovery.coordinator_address() == "there:1"
    assert discovery.coordinator_address("here:2") == "here:2"


def test_a_dead_cluster_is_not_found() -> None:
    """An announcement whose process is gone counts for nothing, and the error says what to do."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    discovery.announce("unix:/gone", gone.pid)
    with pytest.raises(Unreachable, match="OUTRIDER_COORDINATOR"):
        discovery.coordinator_address()


def test_the_runtime_directory_is_private() -> None:
    """Nobody else can read or write where clusters announce themselves."""
    assert discovery.runtime_directory().stat().st_mode & 0o077 == 0
