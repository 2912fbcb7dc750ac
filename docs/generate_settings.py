"""Write docs/settings.md from the settings classes, so that the page and the code cannot disagree.

    python docs/generate_settings.py docs/settings.md

Reads the annotations made with `outrider.settings.setting`. `make docs` runs it, `make verify` compares its output with
what is committed; so it writes nothing that depends on the machine.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import msgspec

from outrider_agent.policy.settings import PolicySettings
from outrider_agent.secret_settings import SecretSettings
from outrider_agent.settings import AgentSettings
from outrider_coordinator.settings import CoordinatorSettings

SECTIONS: tuple[tuple[str, type[msgspec.Struct], str], ...] = (
    ("coordinator", CoordinatorSettings, "`outrider-coordinator`, `outrider coordinator run`"),
    ("agent", AgentSettings, "`outrider-agent`, `outrider agent run`"),
    ("agent.secrets.NAME", SecretSettings, "the agent: one table for each secret ([security.md](security.md#secrets))"),
    ("policy", PolicySettings, "agents: what of their coordinator's orders they obey ([security](security.md))"),
)

INTRODUCTION = """# Settings

Generated from the code by `make docs`; do not edit.

One TOML file holds a table per daemon, and one for the policy of agents. Later sources win: defaults, preset, file
(`--config`, or the path in `OUTRIDER_CONFIG`), environment (`OUTRIDER_<SECTION>_<NAME>`), flags. A list or a table in
the environment is written as in TOML: `OUTRIDER_AGENT_LABELS='{gpu = "yes"}'`. An unknown key, a wrong type or a value
out of bounds stops the daemon with one line that names the source and the setting.
"""


def page() -> str:
    """The whole document."""
    return INTRODUCTION + "".join("\n" + "".join(_section(*section)) for section in SECTIONS)


def _section(name: str, settings_class: type[msgspec.Struct], read_by: str) -> Iterator[str]:
    yield f"## `[{name}]`\n\nRead by {read_by}.\n\n"
    yield "| setting | type | default | unit | bounds | what it is for, and why this default |\n"
    yield "|---|---|---|---|---|---|\n"
    for field in msgspec.structs.fields(settings_class):
        yield _row(field)


def _row(field: msgspec.structs.FieldInfo) -> str:
    kind, meta = _split(field.type)
    if meta is None or not meta.description:
        raise SystemExit(f"{field.name}: say what it is for with outrider.settings.setting(...)")
    unit = (meta.extra or {}).get("unit", "")
    cells = (f"`{field.name}`", _type_name(kind), _default(field), unit, _bounds(meta), meta.description)
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |\n"


def _split(annotation: Any) -> tuple[Any, msgspec.Meta | None]:
    """The bare type and the documentation of an ``Annotated`` field."""
    metas = [extra for extra in getattr(annotation, "__metadata__", ()) if isinstance(extra, msgspec.Meta)]
    return getattr(annotation, "__origin__", annotation) if metas else annotation, metas[0] if metas else None


def _type_name(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(argument) for argument in arguments if argument is not type(None))
    if hasattr(kind, "__metadata__"):
        return _type_name(kind.__origin__)
    if getattr(origin, "__name__", "") == "Literal":
        return " or ".join(f'`"{argument}"`' for argument in arguments)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    if origin in (list, tuple, frozenset):
        return f"list of {_type_name(arguments[0])}"
    return "table" if origin is dict or kind is dict else names.get(kind, getattr(kind, "__name__", str(kind)))


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return (
            _shown(field.default_factory()) if field.default_factory in (list, dict, frozenset, tuple) else "computed"
        )
    return "required" if field.default is msgspec.NODEFAULT else _shown(field.default)


def _shown(value: Any) -> str:
    if value is None:
        return "left out"
    if value == "":
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str | Path):
        return f'`"{value}"`'
    if isinstance(value, dict):
        return "`{" + ", ".join(f"{key} = {item!r}" for key, item in value.items()) + "}`"
    if isinstance(value, list | tuple | frozenset):
        return "`[" + ", ".join(f'"{item}"' if isinstance(item, str) else str(item) for item in value) + "]`"
    return f"`{value:,}`".replace(",", "_") if isinstance(value, int) else f"`{value}`"


def _bounds(meta: msgspec.Meta) -> str:
    parts = [f"{sign} {_number(bound)}" for sign, bound in (("≥", meta.ge), ("≤", meta.le)) if bound is not None]
    return ", ".join(parts)


def _number(value: float) -> str:
    return f"{int(value):_}" if value == int(value) else f"{value:g}"


def main() -> None:
    """Write the page to the file named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", type=Path, help="file to write")
    parser.parse_args().target.write_text(page())


if __name__ == "__main__":
    main()
