"""What several files of end-to-end tests start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command_line import CommandLine, cluster_up, command_line
from support.witness import Gate


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Where tasks wait until the test lets them on; those that still wait at its end go on then."""
    made = Gate(tmp_path)
    yield made
    made.open(100)
    made.close()


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A command line beside a cluster of two agents, for all tests of a file."""
    with cluster_up(tmp_path_factory.mktemp("up"), "--agents", "2", "--slots", "2") as line:
        yield line


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[CommandLine]:
    """A command line without a cluster."""
    with command_line(tmp_path) as line:
        yield line
