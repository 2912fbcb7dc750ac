"""Settings files that commands write, and logins: nothing of somebody else's is changed, nothing leaks."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest

from outrider import profiles
from outrider.errors import InvalidRequest, NotFound
from outrider.profiles import Profile
from outrider.settings_file import set_table

VALUES = {
    "name": 'a "b" \\ \n',
    "slots": 3,
    "share": 0.5,
    "announce": True,
    "listen": ["x", "y"],
    "labels": {"zone": "b", "odd key": "ü"},
}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Every kind of value, in a new file and at the end of one that is there, whose text stays."""
    path = tmp_path / "new" / "outrider.toml"
    set_table(path, "agent", VALUES)
    assert tomllib.loads(path.read_text()) == {"agent": VALUES}
    other = tmp_path / "other.toml"
    other.write_text("# mine\n[coordinator]\nhost = 'x'\n")
    set_table(other, "agent", VALUES)
    assert other.read_text().startswith("# mine\n[coordinator]\nhost = 'x'\n")
    assert tomllib.loads(other.read_text())["agent"] == VALUES


def test_what_somebody_wrote_is_left_alone(tmp_path: Path) -> None:
    """A table that is there must agree; the message says what to set in it."""
    path = tmp_path / "outrider.toml"
    set_table(path, "agent", {"name": "a", "slots": 2})
    text = path.read_text()
    set_table(path, "agent", {"name": "a"})
    with pytest.raises(InvalidRequest, match='set there: name = "b"'):
        set_table(path, "agent", {"name": "b"})
    assert path.read_text() == text
    path.write_text("[")
    with pytest.raises(InvalidRequest, match="not valid TOML"):
        set_table(path, "agent", {})


def test_a_login_is_its_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0600, the last one is the current one, and a token is found for its own address only."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert profiles.current_address() == ""
    with pytest.raises(NotFound, match="not logged in anywhere"):
        profiles.forget()
    for address in ("a:1", "b:1"):
        kept = profiles.remember(address, Profile("roots", f"token-{address}"))
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert profiles.current_address() == "b:1"
    found = profiles.of("a:1")
    assert found is not None
    assert found.token == "token-a:1"
    assert profiles.of("a:2") is None
    assert profiles.forget() == "b:1"
    assert profiles.current_address() == ""
    assert profiles.forget("a:1") == "a:1"
    kept.write_text("{")
    with pytest.raises(InvalidRequest, match="log in again"):
        profiles.current_address()
