"""The main job on a real tree: a census of the standard library, by real agents, also when one of them is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import census
import census_work
import outrider
from support.cluster import Cluster, cluster
from support.waiting import eventually

EXAMPLES = Path(census.__file__).parent
STDLIB = Path(sysconfig.get_paths()["stdlib"]).resolve()


def every_sixth_file() -> list[str]:
    """Of the standard library, from all over it: what cannot be parsed and what is huge is among them."""
    return census.python_files(STDLIB)[::6]


@pytest.fixture(scope="module")
def sequential() -> census_work.Part:
    """The count of these files, made by nobody but us."""
    return census_work.count_files(str(STDLIB), every_sixth_file())


@pytest.fixture
def two_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A coordinator and two agents that can import the census."""
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))
    with cluster(tmp_path, agents=2, slots=1) as running:
        yield running


def test_the_census_of_the_standard_library_equals_a_sequential_one(
    two_agents: Cluster, sequential: census_work.Part
) -> None:
    """Same files, lines, functions, complexity, most complex functions and unparsable files; both agents took part."""
    work = census.batches(STDLIB, every_sixth_file())
    with two_agents.connect() as client:
        taken = census.take_census(client, STDLIB, work)
    assert taken.total == sequential
    assert {part["agent"] for part in taken.parts} == {"a1", "a2"}


def test_an_agent_killed_half_way_changes_nothing_in_the_report(
    two_agents: Cluster, sequential: census_work.Part
) -> None:
    """Keeper and link of one agent die by kill -9 with half of the parts counted; the total is the same."""
    work = census.batches(STDLIB, every_sixth_file())
    with two_agents.connect() as client:
        handle = census.graph(client, STDLIB, work).submit()
        parts = [handle.tasks[key] for key in handle.tasks if key != "merge"]
        for count, _ in enumerate(outrider.as_completed(parts, timeout=120), 1):
            if count == len(parts) // 2:
                break
        victim = two_agents.agents["a2"]
        link = victim.link()
        eventually(lambda: runs_something(two_agents, "a2"), 30, "the victim is at work")
        victim.kill()
        link.kill()
        assert handle.result("merge", timeout=120) == sequential


def runs_something(running: Cluster, agent: str) -> bool:
    """Whether an agent has a slot in use."""
    from outrider.v1 import fleet_service_pb2

    request = fleet_service_pb2.GetAgentRequest(agent_id=agent)
    return running.coordinator.fleet.GetAgent(request).agent.slots_used > 0


def test_the_program_prints_a_report_and_leaves_nothing_running(tmp_path: Path) -> None:
    """examples/census.py on a tree of its own: counts, agents' shares, what could not be parsed; exit code 0."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "good.py").write_text("def f(x):\n    return 1 if x else 2\n")
    (tree / "bad.py").write_text("def f(:\n")
    command = [sys.executable, str(EXAMPLES / "census.py"), str(tree)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 files, 2 lines, 1 functions" in done.stdout
    assert "2  f  good.py:1" in done.stdout
    assert "bad.py: line 1: " in done.stdout
    assert "TASK_SUCCEEDED agent-" in done.stdout
    assert "tasks done after" in done.stderr
    assert [process.pid for process in psutil.process_iter() if names(process, str(tmp_path))] == []


def names(process: psutil.Process, text: str) -> bool:
    """Whether a process has a text in its command line."""
    try:
        return any(text in word for word in process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.parametrize(("tree", "problem"), [("missing", "is no folder"), (".", "there is no Python file")])
def test_a_wrong_tree_is_refused_at_once(tmp_path: Path, tree: str, problem: str) -> None:
    """A folder that is missing or holds no Python gives one line and exit code 2, and starts nothing."""
    command = [sys.executable, str(EXAMPLES / "census.py"), str(tmp_path / tree)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert problem in done.stderr.splitlines()[-1]
