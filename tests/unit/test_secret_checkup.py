"""What `outrider doctor` finds about secrets, and how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from outrider.cli.checkup import findings
from outrider.cli.findings import Finding, Mark
from outrider.cli.secret_checkup import secret_findings
from outrider_agent.secret_settings import SecretSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a secret and a program in it that are as they should be."""
    tmp_path.chmod(0o700)
    (tmp_path / "secret").write_text("value")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "program").write_text("#!/bin/sh\n")
    (tmp_path / "program").chmod(0o755)
    return tmp_path


def found(there: dict[str, str] | None = None, **table: Any) -> list[Finding]:
    """What is said of one secret, with this environment."""
    return list(secret_findings({"s": SecretSettings(**table)}, there or {}))


def test_what_can_be_found_by_its_agent_alone_is_fine(folder: Path) -> None:
    """All in one line."""
    tables = {
        "a": SecretSettings(file=str(folder / "secret")),
        "b": SecretSettings(command=[str(folder / "program")]),
        "c": SecretSettings(environment="V"),
        "d": SecretSettings(credential="secret"),
    }
    (one,) = secret_findings(tables, {"V": "x", "CREDENTIALS_DIRECTORY": str(folder)})
    assert (one.mark, one.text) == (Mark.FINE, "a, b, c, d: can be found, and only by this user")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604])
def test_a_file_that_others_can_read_is_wrong(folder: Path, mode: int) -> None:
    """With the command that mends it."""
    (folder / "secret").chmod(mode)
    (one,) = found(file=str(folder / "secret"))
    assert (one.mark, one.about) == (Mark.WRONG, "secret s")
    assert "is open to others" in one.text
    assert one.remedy.startswith(f"chmod 600 {folder / 'secret'}")


def test_references_that_lead_nowhere_are_wrong(folder: Path) -> None:
    """Files, programs and credentials that are not there; a variable may be there for the agent alone."""
    assert "No such file" in found(file=str(folder / "none"))[0].text
    assert "no regular file" in found(file=str(folder))[0].text
    assert "no program" in found(command=[str(folder / "none")])[0].text
    assert "no program" in found(command=[str(folder / "secret")])[0].text
    assert "no credential" in found({"CREDENTIALS_DIRECTORY": str(folder)}, credential="none")[0].text
    for one in (found(environment="V")[0], found(credential="c")[0]):
        assert one.mark is Mark.WARNING
        assert one.remedy


def test_what_others_could_put_in_its_place_is_wrong(folder: Path) -> None:
    """A program that others can write, and a folder in which they can put another file."""
    (folder / "program").chmod(0o777)
    (one,) = found(command=[str(folder / "program")])
    assert one.remedy == f"chmod go-w {folder / 'program'}"
    folder.chmod(0o770)
    (one,) = found(file=str(folder / "secret"))
    assert one.remedy == f"chmod go-w {folder}"
    folder.chmod(0o1777)
    assert found(file=str(folder / "secret"))[0].mark is Mark.FINE


def test_a_secret_that_is_not_kept_out_of_output_is_said(folder: Path) -> None:
    """Somebody wanted it so, and should know."""
    (one,) = found(file=str(folder / "secret"), redact=False)
    assert one.mark is Mark.WARNING
    assert "redact = false" in one.text


def test_doctor_looks_at_the_secrets_of_the_settings_file(folder: Path) -> None:
    """And a table that makes no sense is a finding, too."""
    config = folder / "outrider.toml"
    state = folder / "state"
    state.mkdir(mode=0o700)
    head = f'[agent]\nname = "a"\nstate_directory = "{state}"\n'
    config.write_text(f'{head}[agent.secrets.s]\nfile = "{folder}/none"\n')
    assert [one.about for one in findings(config, with_security=False) if one.mark is Mark.WRONG] == ["secret s"]
    config.write_text(f'{head}[agent.secrets.s]\nfile = "none"\n')
    wrong = [one.text for one in findings(config, with_security=True) if one.mark is Mark.WRONG]
    assert wrong == ["agent.secrets.s: file must be an absolute path"]
