"""What `outrider doctor` finds, and that it says how to mend each."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from outrider import signing
from outrider.cli import checkup
from outrider.cli.checkup import Finding, Mark, findings
from outrider_agent.identity import Cluster, IdentityFolder
from outrider_coordinator.access.audit import Audit
from outrider_coordinator.access.authority import Authority

HOUR_US = 3_600_000_000


class Machine:
    """A settings file and the two state directories it names."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "outrider.toml"
        self.coordinator, self.agent = folder / "coordinator", folder / "agent"
        for state in (self.coordinator, self.agent):
            state.mkdir(mode=0o700)
        Authority.make(self.coordinator / "authority", "test", ["build.example"])
        self.write(host="build.example")
        self.join(HOUR_US)

    def write(self, **coordinator: str) -> None:
        """The settings."""
        listen = coordinator.pop("listen", f"unix:{self.coordinator}/s")
        more = "".join(f'{name} = "{value}"\n' for name, value in coordinator.items())
        self.config.write_text(
            f'[coordinator]\nstate_directory = "{self.coordinator}"\nlisten = ["{listen}"]\n{more}'
            f'[agent]\nname = "a"\nstate_directory = "{self.agent}"\n'
        )
        self.config.chmod(0o644)

    def join(self, left_us: int, name: str = "a") -> None:
        """An identity with so much of its life left."""
        end_us = time.time_ns() // 1000 + left_us
        cluster = Cluster(name, "h:1", ("h:2",), end_us - 24 * HOUR_US, end_us)
        IdentityFolder(self.agent).write(cluster, b"certificate", b"trust")

    def found(self, *, security: bool = False) -> list[Finding]:
        """What is not fine."""
        return [one for one in findings(self.config, with_security=security) if one.mark is not Mark.FINE]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One on which nothing is wrong."""
    return Machine(tmp_path)


def only(found: list[Finding]) -> Finding:
    """The one finding, which says what to do."""
    assert len(found) == 1, found
    assert found[0].remedy
    return found[0]


def test_nothing_is_wrong_where_nothing_is_wrong(machine: Machine, tmp_path: Path) -> None:
    """No warnings on a machine that was set up as the docs say, nor on one that has nothing."""
    assert machine.found() == []
    assert findings(None, with_security=True)[0].mark is Mark.FINE


def test_files_that_others_can_read_or_write_are_found(machine: Machine) -> None:
    """A key, a state directory, the settings themselves: each with the command that mends it."""
    key = machine.coordinator / "authority" / "issuer.pem"
    for path, mode in ((key, 0o640), (machine.agent, 0o755), (machine.config, 0o666)):
        before = path.stat().st_mode
        path.chmod(mode)
        finding = only(machine.found())
        assert finding.mark is Mark.WRONG
        assert "chmod " in finding.remedy
        assert str(path) in finding.remedy
        path.chmod(before)


def test_addresses_and_names_that_cannot_work_are_found(machine: Machine) -> None:
    """Beyond this machine without TLS; a host name that the certificate is not for; an agent under another name."""
    machine.write(host="other.example")
    assert "not for that name" in only(machine.found()).text
    machine.write(host="build.example")
    machine.join(HOUR_US, "b")
    assert 'agent.name = "b"' in only(machine.found()).remedy
    machine.join(HOUR_US)
    (machine.coordinator / "authority").rename(machine.coordinator / "away")
    machine.write(listen="0.0.0.0:7420")
    assert "coordinator init" in only(machine.found()).remedy


def test_what_has_ended_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent's certificate; two authorities in the middle of a rotation."""
    machine.join(-HOUR_US)
    assert "renews by itself" in only(machine.found()).remedy
    machine.join(HOUR_US)
    Authority(machine.coordinator / "authority").rotate()
    assert "authority retire" in only(machine.found()).remedy


def test_disks_that_lose_what_was_flushed_are_found(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state directory on a network file system, and one that is nearly full."""
    monkeypatch.setattr(checkup, "_file_system", lambda folder: "nfs4" if folder == machine.agent else "ext4")
    assert "local disk" in only(machine.found()).remedy
    monkeypatch.undo()
    monkeypatch.setattr(checkup, "DISK_LOW_BYTES", 1 << 60)
    assert {one.mark for one in machine.found()} == {Mark.WARNING}


def test_security_looks_further(machine: Machine) -> None:
    """A port on loopback that every user of the machine can use, and an audit log that was changed."""
    (machine.coordinator / "authority").rename(machine.coordinator / "away")
    machine.write(listen="127.0.0.1:7420")
    log = machine.coordinator / "audit.log"
    Audit(log).close()
    log.write_bytes(log.read_bytes().replace(b"start", b"begin"))
    assert machine.found() == []
    texts = [one.text for one in machine.found(security=True) if one.about != "agent"]
    assert len(texts) == 2
    assert "every user of this machine" in texts[0]
    assert "line 1 does not fit its seal" in texts[1]


def policy_findings(machine: Machine, text: str) -> list[Finding]:
    """What doctor says of the agent with this policy."""
    machine.write(host="build.example")
    machine.config.write_text(machine.config.read_text() + text)
    found = findings(machine.config, with_security=True)
    return [
        one for one in found if one.about == "agent" and "state in" not in one.text and "certificate" not in one.text
    ]


def test_an_agent_that_obeys_a_coordinator_elsewhere_in_everything_is_found(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told what could bound that; with signatures it is fine, and with commands of its own."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    finding = only(policy_findings(machine, ""))
    assert finding.mark is Mark.WARNING
    assert "the coordinator at h:2 can run anything here" in finding.text
    assert "require_signature" in finding.remedy
    key = signing.public_text(signing.public_bytes(Ed25519PrivateKey.generate()))
    signed = policy_findings(machine, f'[policy]\nrequire_signature = true\ntrusted_keys = ["ann {key}"]\n')
    assert [one.mark for one in signed] == [Mark.FINE]
    assert policy_findings(machine, '[policy]\ncommands = ["/usr/bin/make"]\n') == []


def test_a_policy_that_means_nothing_is_found(machine: Machine) -> None:
    """Before the agent refuses to start with it."""
    for text in ('commands = ["make"]', "require_signature = true", "no_such_rule = 1"):
        found = policy_findings(machine, f"[policy]\n{text}\n")
        assert [one.mark for one in found] == [Mark.WRONG], found
        assert "policy." in found[0].text


def test_an_agent_that_gives_up_root_for_its_tasks_is_fine(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder may be passed through by that user, and no more; without a user, root runs every task."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    commands = 'commands = ["/usr/bin/make"]\n'
    assert "runs every task as root" in only(policy_findings(machine, f"[policy]\n{commands}")).text
    machine.agent.chmod(0o711)
    assert policy_findings(machine, f'[policy]\nuser = "nobody"\n{commands}') == []
    machine.agent.chmod(0o755)
    assert "chmod 711" in only(policy_findings(machine, f'[policy]\nuser = "nobody"\n{commands}')).remedy


@pytest.mark.parametrize("text", ["[", "[coordinator]\nno_such = 1\n", "[agent]\nslots = -1\n", "[other]\nx = 1\n"])
def test_settings_that_are_wrong_are_found(tmp_path: Path, text: str) -> None:
    """No TOML, an unknown setting, a bad value, a table that nobody reads: said, and the rest is looked at."""
    config = tmp_path / "outrider.toml"
    config.write_text(text)
    found = [one for one in findings(config, with_security=False) if one.mark is not Mark.FINE]
    assert len(found) == 1, found
