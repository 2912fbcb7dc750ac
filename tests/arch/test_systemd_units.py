"""The systemd units: known keys only, as hardened as they say, and livable for the programs that tasks run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.source_tree import ROOT
from support.under_unit import settings

SYSTEM = ("outrider-coordinator.service", "outrider-agent.service")
ALL = (*SYSTEM, *(f"user/{name}" for name in SYSTEM))
#: Exposure as systemd-analyze counts it, times ten: 0 is closed, 100 is wide open.
EXPOSURE_MAX = {"outrider-coordinator.service": 20, "outrider-agent.service": 40}
NODE_PROGRAM = "let n = 0; for (let i = 0; i < 1e7; i++) n += i % 7; console.log(n > 0 ? 'alive' : 'dead')"


def run(*command: str | Path, **environment: str | Path) -> subprocess.CompletedProcess[str]:
    """Run to the end, with both outputs kept."""
    added = {name: str(value) for name, value in environment.items()}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=os.environ | added)


def installed(unit: str, folder: Path) -> Path:
    """A copy of the unit whose program exists on this machine."""
    text = (ROOT / "systemd" / unit).read_text()
    assert "/opt/outrider/bin/" in text
    target = folder / Path(unit).name
    target.write_text(text.replace("/opt/outrider/bin", str(Path(sys.executable).parent)))
    return target


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", ALL)
def test_a_unit_is_valid(unit: str, tmp_path: Path) -> None:
    """systemd accepts every line: it says nothing on stderr, where it names unknown keys without failing."""
    scope = "--user" if unit.startswith("user/") else "--system"
    done = run("systemd-analyze", scope, "verify", "--man=no", installed(unit, tmp_path), XDG_RUNTIME_DIR=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.needs("systemd-analyze")
def test_an_unknown_key_is_noticed(tmp_path: Path) -> None:
    """The check above sees what systemd-analyze's exit code hides."""
    unit = installed(SYSTEM[0], tmp_path)
    unit.write_text(unit.read_text().replace("[Service]", "[Service]\nProtectEverything=yes"))
    assert "ProtectEverything" in run("systemd-analyze", "verify", "--man=no", unit).stderr


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("unit", SYSTEM)
def test_a_unit_is_hardened(unit: str, tmp_path: Path) -> None:
    """The exposure of a system unit stays under its bound."""
    threshold = f"--threshold={EXPOSURE_MAX[unit]}"
    done = run("systemd-analyze", "security", "--offline=yes", threshold, "--no-pager", installed(unit, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", ALL)
def test_a_unit_tells_systemd_how_it_is(unit: str) -> None:
    """Every form is told when it is ready, is watched, and keeps its state where systemd puts it."""
    values = dict(settings(ROOT / "systemd" / unit))
    assert values["Type"] == "notify"
    assert int(values["WatchdogSec"]) > 0
    assert values["StateDirectory"] == Path(unit).stem
    assert values["Restart"] == "on-failure"


@pytest.mark.parametrize("unit", [name for name in ALL if "agent" in name])
def test_an_agent_unit_leaves_room_for_programs(unit: str) -> None:
    """An agent gets control groups of its own, is stopped keeper first, and lets tasks compile code at run time."""
    values = dict(settings(ROOT / "systemd" / unit))
    assert (values["Delegate"], values["KillMode"], values["OOMPolicy"]) == ("yes", "mixed", "continue")
    assert "MemoryDenyWriteExecute" not in values
    assert values["NoNewPrivileges"] == "yes"


@pytest.mark.needs("systemd-analyze", "node")
def test_node_lives_under_the_agents_settings(tmp_path: Path) -> None:
    """A Node program compiles and runs under the agent's system call filter, and would not under the coordinator's."""
    launcher = ROOT / "tests/support/under_unit.py"
    node = str(shutil.which("node"))
    under_agent = run(sys.executable, launcher, ROOT / "systemd" / SYSTEM[1], "--", node, "-e", NODE_PROGRAM)
    assert (under_agent.returncode, under_agent.stdout) == (0, "alive\n"), under_agent.stderr
    under_coordinator = run(sys.executable, launcher, ROOT / "systemd" / SYSTEM[0], "--", node, "-e", NODE_PROGRAM)
    assert under_coordinator.returncode != 0


@pytest.mark.needs("systemd-sysusers", "systemd-tmpfiles")
def test_users_and_folders_can_be_made(tmp_path: Path) -> None:
    """systemd-sysusers and systemd-tmpfiles take their files and make what the units name."""
    (tmp_path / "etc").mkdir()
    users = run("systemd-sysusers", f"--root={tmp_path}", ROOT / "systemd/sysusers.d/outrider.conf")
    assert (users.returncode, users.stderr.count("Failed")) == (0, 0), users.stderr
    made = (tmp_path / "etc/passwd").read_text()
    assert "outrider-coordinator:" in made
    assert "outrider-agent:" in made
    folders = run("systemd-tmpfiles", "--create", f"--root={tmp_path}", ROOT / "systemd/tmpfiles.d/outrider.conf")
    assert folders.returncode == 0, folders.stderr
    assert (tmp_path / "etc/outrider/outrider.toml").read_text() == "# Settings: docs/settings.md"
