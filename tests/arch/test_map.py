"""tests/README.md maps every requirement to the tests that prove it; this checks that the map is complete and true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from support.source_tree import ROOT, sources

MAP = ROOT / "tests/README.md"
REFERENCE = re.compile(r"`([a-z_/0-9]+/test_[a-z_0-9]+\.py)::(test_[a-z_0-9]+)`")

#: Every part of the build, with what must be mapped of it.
BUILD = {
    "1 repository": 6,
    "2 protos": 5,
    "3 coordinator": 21,
    "4 agent": 10,
    "5 inside a task": 7,
    "6 SDK": 10,
    "7 command line": 17,
    "8 traces": 6,
    "9 systemd": 5,
    "10 census": 5,
    "11 figures": 1,
    "limits": 13,
}
BAD_INPUT = (
    "unknown function",
    "function that raises",
    "result that is not JSON",
    "argv not found",
    "bad priority",
    "empty batch",
    "10 MiB payload",
    "wrong coordinator address",
    "a taken agent name from another machine",
    "unparsable config",
    "plaintext to a remote address",
    "a second `up`",
)
DONE_WHEN = (
    "the map is complete and true",
    "the census equals a sequential count",
    "an agent killed half-way still gives the same report",
    "the coordinator killed with 500 tasks queued and 4 commands running: each started once",
    "the link killed with work running: nothing re-run, no message lost",
    "a client on the stubs alone",
    "a foreign client",
    "a trace shows client, coordinator, agent and worker",
    "import contracts, no function over 70 lines",
)


def rows() -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Section, first cell and references of every row of every table in the map."""
    section = ""
    for line in MAP.read_text().splitlines():
        if line.startswith("#"):
            section = line.strip("# ")
        elif line.startswith("| ") and not line.startswith(("| what", "| input")):
            yield section, line.split("|")[1].strip(), REFERENCE.findall(line)


@cache
def existing() -> frozenset[tuple[str, str]]:
    """Every test there is, as (file under tests/, function)."""
    return frozenset(
        (str(Path(source.path).relative_to("tests")), function.name)
        for source in sources("tests")
        for function in source.functions()
        if Path(source.path).name.startswith("test_")
    )


def test_every_test_in_the_map_exists() -> None:
    """No row names a test that is gone."""
    wrong = [
        f"{what}: {file}::{test}" for _, what, tests in rows() for file, test in tests if (file, test) not in existing()
    ]
    assert not wrong, "\n".join(wrong)


def test_every_row_names_a_test() -> None:
    """No row is only a promise."""
    wrong = [f"{section}: {what}" for section, what, tests in rows() if not tests]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", BUILD)
def test_every_part_of_the_build_is_mapped(part: str) -> None:
    """Each part has a section with at least as many claims as it has things to build."""
    claims = [what for section, what, _ in rows() if section == part]
    assert len(claims) >= BUILD[part], f"{part}: {len(claims)} of {BUILD[part]} claims"


@pytest.mark.parametrize(("section", "expected"), [("Bad input", BAD_INPUT), ("Done when", DONE_WHEN)])
def test_every_bad_input_and_every_goal_is_mapped(section: str, expected: tuple[str, ...]) -> None:
    """Each has its row, under the words used here."""
    mapped = {what for found, what, _ in rows() if found == section}
    assert mapped == set(expected)
