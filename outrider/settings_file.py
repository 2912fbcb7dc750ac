"""The settings file that daemons find by themselves, and commands that join or set up write.

A user's is ``$XDG_CONFIG_HOME/outrider/outrider.toml``, the machine's ``/etc/outrider/outrider.toml``. What somebody
wrote into one is never changed: a table that is there already must agree.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outrider.errors import InvalidRequest
from outrider.folders import config_home

__all__ = ["CONFIG_ENVIRONMENT", "default_path", "found", "set_table"]

CONFIG_ENVIRONMENT = "OUTRIDER_CONFIG"
MACHINE_PATH = Path("/etc/outrider/outrider.toml")


def default_path(*, is_root: bool) -> Path:
    """Where settings are written when no option says where: ``$OUTRIDER_CONFIG``, the machine's or the user's file."""
    if given := os.environ.get(CONFIG_ENVIRONMENT):
        return Path(given)
    return MACHINE_PATH if is_root else config_home() / "outrider" / "outrider.toml"


def found() -> Path | None:
    """The file a daemon reads when none is named: ``$OUTRIDER_CONFIG``, the user's, the machine's; None for no file."""
    if given := os.environ.get(CONFIG_ENVIRONMENT):
        return Path(given)  # also when it is not there: who names a file wants to hear of it
    return next((path for path in (default_path(is_root=False), MACHINE_PATH) if path.is_file()), None)


def set_table(path: Path, table: str, values: Mapping[str, Any]) -> None:
    """Write a table into a settings file, which is made when it is not there.

    Raises `InvalidRequest` when the file cannot be read or written, or has the table with other values: those are
    somebody's, and the message says what to write instead.
    """
    text = path.read_text() if path.exists() else ""
    try:
        present = tomllib.loads(text).get(table)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{path} is not valid TOML: {error}") from None
    if present is not None:
        _check_agrees(path, table, present, values)
        return
    lines = "".join(f"{name} = {_value(value)}\n" for name, value in values.items())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(("\n" if text else "") + f"[{table}]\n{lines}")
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror}; choose another with --config") from None


def _check_agrees(path: Path, table: str, present: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    wrong = [f"{name} = {_value(value)}" for name, value in values.items() if present.get(name) != value]
    if wrong:
        raise InvalidRequest(
            f"{path} has a table [{table}] already, which is left as it is; set there: {'; '.join(wrong)}"
        )


def _value(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_text(key)} = {_value(part)}" for key, part in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    return _text(str(value))


def _text(text: str) -> str:
    """A basic string: quotes, backslashes and control characters escaped."""
    escaped = "".join(
        f"\\u{ord(character):04x}" if ord(character) < 32 or character in '"\\\x7f' else character for character in text
    )
    return f'"{escaped}"'
