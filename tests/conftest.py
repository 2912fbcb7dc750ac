"""What all tests share: a clean environment, and tests that need something the machine may not have.

A test marked ``@pytest.mark.needs("node")`` runs where that command is found, one that needs "root" as that user.
Elsewhere it is left out and the summary says ``not run: needs node``; continuous integration installs everything and
runs as root, so there nothing is left out.
"""

from __future__ import annotations

import os

# Before anything imports grpc: see docs/adr/0001-foundations.md.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from support.memory_folders import MemoryFolders

if hypothesis.settings.get_current_profile_name() == "default":  # mutation tests have a profile of their own
    # How long an example takes is a matter of what else the machine does.
    hypothesis.settings.register_profile("outrider", deadline=None)
    hypothesis.settings.load_profile("outrider")

LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite` writes transcripts anew, for whoever reads the difference."""
    parser.addoption("--rewrite", action="store_true", help="write tests/transcripts/*.txt as they are told now")


def pytest_configure(config: pytest.Config) -> None:
    """Forget what the caller's shell says about Outrider and telemetry: tests say it themselves."""
    config.addinivalue_line("markers", "needs(command): runs only where this command is installed, or as root")
    config.stash[LEFT_OUT] = Counter()
    for name in [name for name in os.environ if name.startswith(("OUTRIDER_", "OTEL_")) or name == "TRACEPARENT"]:
        del os.environ[name]
    # Nor what its owner has configured or logged in to: no daemon and no command of a test finds that.
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="outrider-tests-")
    config.add_cleanup(lambda: shutil.rmtree(os.environ["XDG_CONFIG_HOME"], ignore_errors=True))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests whose needs are not met, and count them."""
    missing = {item: _missing(item) for item in items}
    left_out = [item for item in items if missing[item]]
    config.stash[LEFT_OUT].update(", ".join(missing[item]) for item in left_out)
    items[:] = [item for item in items if not missing[item]]
    config.hook.pytest_deselected(items=left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a test process of xdist: send the counts to the one that prints the summary."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(session.config.stash[LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """In the process that prints: every test process collected the same tests, so one count is the count."""
    node.config.stash[LEFT_OUT] |= Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was not run and why."""
    for command, count in sorted(config.stash[LEFT_OUT].items()):
        terminalreporter.write_line(f"not run: needs {command}: {count} test{'s' if count > 1 else ''}", yellow=True)


def _missing(item: pytest.Item) -> list[str]:
    needed = {str(command) for marker in item.iter_markers("needs") for command in marker.args}
    return sorted(need for need in needed if not (os.geteuid() == 0 if need == "root" else shutil.which(need)))


@pytest.fixture(scope="session")
def memory_folders() -> Iterator[MemoryFolders]:
    """Folders that need no disk."""
    with MemoryFolders() as folders:
        yield folders
