"""Settings from a TOML file, the environment and flags, decoded strictly into one frozen object.

A settings class is a frozen `msgspec.Struct` whose fields are annotated with `setting(...)`: every default has its
unit and its reason beside it, and the settings page of the docs is generated from there. Later sources win: defaults,
preset, file, environment (``OUTRIDER_AGENT_SLOTS`` for ``slots`` of section ``agent``), flags.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from outrider.errors import InvalidRequest
from outrider.settings_file import CONFIG_ENVIRONMENT

Settings = TypeVar("Settings", bound=msgspec.Struct)


def setting(why: str, *, unit: str = "", ge: float | None = None, le: float | None = None) -> msgspec.Meta:
    """Document a settings field: what it is for and why its default is what it is, its unit and its bounds."""
    return msgspec.Meta(description=why, extra={"unit": unit}, ge=ge, le=le)


def load(
    settings_class: type[Settings],
    section: str,
    *,
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    preset: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Build ``settings_class`` from all sources; a flag of None counts as not given.

    Raises `InvalidRequest` with the source and the field's path for an unreadable or unparsable file, an unknown key
    or a value of the wrong type or out of bounds.
    """
    environment = os.environ if environment is None else environment
    path = path or (Path(environment[CONFIG_ENVIRONMENT]) if environment.get(CONFIG_ENVIRONMENT) else None)
    values: dict[str, Any] = dict(preset or {})
    if path is not None:
        values |= _checked(settings_class, section, _section(path, section), str(path))
    prefix = f"OUTRIDER_{section}_".upper()
    names = {prefix + name.upper(): name for name in settings_class.__struct_fields__}
    from_environment = {names[key]: _parsed(value) for key, value in environment.items() if key in names}
    values |= _checked(settings_class, section, from_environment, "the environment")
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    values |= _checked(settings_class, section, given, "the command line")
    return msgspec.convert(values, settings_class, strict=False)


def _section(path: Path, section: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidRequest(f"cannot read the settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not valid TOML: {error}") from None
    table = document.get(section, {})
    if not isinstance(table, dict):
        raise InvalidRequest(f"{path}: [{section}] must be a table")
    return table


def _parsed(value: str) -> Any:
    """An environment value as TOML where it is one (numbers, booleans, tables), as plain text otherwise."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _checked(settings_class: type[Settings], section: str, values: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    known = settings_class.__struct_fields__
    for name in values:
        if name not in known:
            raise InvalidRequest(f"{source}: unknown setting {section}.{name}; known are {', '.join(sorted(known))}")
    try:
        msgspec.convert(values, settings_class, strict=False)
    except msgspec.ValidationError as error:
        field = str(error).rpartition("`$.")[2].rstrip("`") if "`$." in str(error) else ""
        name = f"{section}.{field}" if field else section
        raise InvalidRequest(f"{source}: {name}: {str(error).partition(' - at')[0]}") from None
    return values
