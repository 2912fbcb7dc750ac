"""The help of every command: it works, teaches, is fast, and the reference says the same."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import typer

from outrider.cli import options
from outrider.cli.main import app
from support.source_tree import ROOT

REFERENCE = ROOT / "docs" / "cli.md"


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its path, groups too."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


ALL = dict(commands())
#: Those that do something.
LEAVES = {path: command for path, command in ALL.items() if not hasattr(command, "commands")}
#: Those whose words are taken by the daemons.
DAEMONS = {("agent", "run"), ("coordinator", "run")}


def help_of(*path: str) -> str:
    """What --help prints."""
    out = io.StringIO()
    with redirect_stdout(out):
        app([*path, "--help"], prog_name="outrider", standalone_mode=False)
    return out.getvalue()


@pytest.mark.parametrize("path", [path for path in ALL if path not in DAEMONS], ids=" ".join)
def test_help_has_an_example(path: tuple[str, ...]) -> None:
    """Every command's help says what it does, gives an example that starts with it, and names no bare types."""
    text = help_of(*path)
    assert f"Usage: outrider {' '.join(path)}" in text
    assert re.search(rf"Examples?:\s[^╭]*outrider {' '.join(path)}", text), text
    assert not re.search(r"<\w+(\[\w+\])?>", text)


def test_the_first_help_is_a_start() -> None:
    """`outrider --help` groups the commands, shows the first steps and explains every exit code."""
    text = " ".join(help_of().split())
    for words in ("Submit work", "Look and answer", "Run the daemons", "outrider up", "outrider submit --wait -- echo"):
        assert words in text
    for code in exit_codes().values():
        assert re.search(rf"\b{code}\b", options.EXIT_CODES)


@pytest.mark.parametrize(
    "words", [["--help"], ["submit", "--help"], ["task", "--help"], ["up", "--help"]], ids=" ".join
)
def test_help_needs_no_grpc(words: list[str]) -> None:
    """Help is fast because nothing that speaks is imported for it."""
    script = (
        "import sys\nfrom outrider.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "slow = {'grpc', 'google.protobuf', 'opentelemetry', 'msgspec', 'asyncio', 'psutil'} & set(sys.modules)\n"
        "print(sorted(slow), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert ended.stderr.strip() == "[]"
    assert "Usage: outrider" in ended.stdout


@pytest.mark.parametrize(("typed", "offered"), [("outrider ta", "task"), ("outrider task ", "explain")])
def test_completion(typed: str, offered: str) -> None:
    """The shell completes commands."""
    script = "from outrider.cli.main import main; main()"
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" ")), "_OUTRIDER_COMPLETE": "complete_bash"}
    ended = subprocess.run([sys.executable, "-c", script], env=words, capture_output=True, text=True, check=False)
    assert offered in ended.stdout.split()


def exit_codes() -> dict[str, int]:
    """The exit codes by name."""
    return {
        name: value
        for name, value in vars(options).items()
        if re.fullmatch("EXIT_[A-Z_]+", name) and value != options.EXIT_CODES
    }


def test_the_reference_has_every_command_and_no_other() -> None:
    """docs/cli.md names each command in a table of its own words, and none that does not exist."""
    named = {tuple(row.split()) for row in re.findall(r"^\| `outrider ([a-z -]+?)`", REFERENCE.read_text(), re.M)}
    assert named == set(LEAVES)


def test_the_reference_has_every_option() -> None:
    """Every option of docs/cli.md exists at its command, and no option is missing."""
    for path, command in LEAVES.items():
        if path in DAEMONS:
            continue
        (row,) = re.findall(rf"^\| `outrider {' '.join(path)}` \|.*$", REFERENCE.read_text(), re.M)
        named = set(re.findall(r"`(--[a-z-]+)", row))
        existing = {opt for param in command.params for opt in param.opts if opt.startswith("--")}
        assert named == existing - {"--help", "--json", "--last"}, path


def test_the_reference_has_every_exit_code() -> None:
    """The table of exit codes is the one in the code."""
    rows = {int(code) for code in re.findall(r"^\| (\d+) \|", REFERENCE.read_text(), re.M)}
    assert rows == set(exit_codes().values())


def test_the_reference_has_every_preset_value() -> None:
    """The table of presets says what the presets say."""
    from outrider.presets import PRESETS

    rows = {
        (preset, f"{section}.{name}", value.replace("_", ""))
        for preset, section, name, value in re.findall(
            r"^\| (\w+) \| `(\w+)\.(\w+)` \| `([^`]+)` \|", REFERENCE.read_text(), re.M
        )
    }
    assert rows == {
        (preset, f"{section}.{name}", str(value))
        for preset, sections in PRESETS.items()
        for section, values in sections.items()
        for name, value in values.items()
    }


def test_the_reference_stands_where_people_look() -> None:
    """The file exists and is short."""
    assert len(Path(REFERENCE).read_text().splitlines()) < 200
