"""Mutation test of the decision core: small faults put into it one by one, and whether any test notices.

    python tests/mutation/mutate_core.py [MODULE ...] [--children N] [--again]

Works on a copy under build/mutation, laid out as mutmut wants it, with the pure tests of the core. Prints the score of
each module, and every survivor as a diff in build/mutation/survivors.txt. Needs requirements/mutation.txt.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "mutation"
CORE = "outrider_coordinator/core"
COPIED = ("outrider", "agent", "protos", "tests", "examples", "benchmarks")
TESTS = ("tests/unit", "tests/property", "tests/transcripts", "tests/sim")
SURVIVED = ("survived", "no tests")

SETTINGS = """\
[tool.pytest.ini_options]
pythonpath = ["tests", "examples", "benchmarks"]
asyncio_mode = "auto"

[tool.mutmut]
source_paths = ["src/"]
only_mutate = {modules}
also_copy = {copied}
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-p", "no:xdist", "-p", "no:cacheprovider", "-x"]
"""


def prepare(modules: list[str]) -> None:
    """Copy what the tests need and say what to mutate."""
    shutil.rmtree(PLACE, ignore_errors=True)
    skip = shutil.ignore_patterns("__pycache__", "node_modules")
    shutil.copytree(ROOT / "coordinator" / "outrider_coordinator", PLACE / "src" / "outrider_coordinator", ignore=skip)
    for name in COPIED:
        shutil.copytree(ROOT / name, PLACE / name, ignore=skip)
    tests = [test for name in TESTS for test in _tests_of_core(PLACE / name)]
    mutated = [f"src/{CORE}/{name}.py" for name in modules]
    settings = SETTINGS.format(modules=_listed(mutated), copied=_listed(COPIED), tests=_listed(tests))
    (PLACE / "pyproject.toml").write_text(settings)
    for folder in ("src", "agent"):  # the import system remembers folders that were not there
        (PLACE / "mutants" / folder).mkdir(parents=True)


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def _tests_of_core(folder: Path) -> list[str]:
    """Test files that use the core, and nothing with processes or sockets in it."""
    files = sorted(folder.glob("test_*.py"))
    return [str(file.relative_to(PLACE)) for file in files if "outrider_coordinator.core" in _reach(file)]


def _reach(file: Path) -> str:
    text = file.read_text()
    through_world = "support.core_world" in text or file.parent.name in ("sim", "transcripts")
    return text + ("outrider_coordinator.core" if through_world else "")


def mutmut(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run mutmut on the copy."""
    mutants = PLACE / "mutants"
    path = os.pathsep.join(map(str, (mutants / "src", mutants, mutants / "agent")))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "mutmut", *arguments]
    is_quiet = arguments[0] != "run"
    return subprocess.run(command, cwd=PLACE, env=environment, text=True, capture_output=is_quiet, check=False)


def verdicts() -> dict[str, str]:
    """Mutant to verdict: killed, survived, no tests, timeout, suspicious."""
    lines = mutmut("results", "--all", "true").stdout.splitlines()
    return {name.strip(): verdict.strip() for name, _, verdict in (line.partition(": ") for line in lines) if verdict}


def report(found: dict[str, str]) -> int:
    """Print the score by module, write the survivors; returns how many there are."""
    by_module: dict[str, Counter[str]] = defaultdict(Counter)
    for name, verdict in found.items():
        by_module[name.split(".x", 1)[0].removeprefix("outrider_coordinator.core.")][verdict] += 1
    print(f"{'module':<24} {'mutants':>8} {'noticed':>8} {'survived':>9} {'no test':>8} {'score':>7}")
    for module, counts in [*sorted(by_module.items()), ("all", sum(by_module.values(), Counter()))]:
        total, left = sum(counts.values()), sum(counts[verdict] for verdict in SURVIVED)
        score = 100 * (total - left) / max(1, total)
        print(
            f"{module:<24} {total:>8} {total - left:>8} {counts['survived']:>9} {counts['no tests']:>8} {score:>6.1f}%"
        )
    survivors = [name for name, verdict in sorted(found.items()) if verdict in SURVIVED]
    (PLACE / "survivors.txt").write_text("\n".join(mutmut("show", name).stdout for name in survivors))
    print(f"survivors: {PLACE / 'survivors.txt'}")
    return len(survivors)


def modules_of(core: Path, names: list[str]) -> list[str]:
    """Paths below the core, without suffix, of modules or folders with these names; all when none is given."""
    files = sorted(file.relative_to(core).with_suffix("") for file in core.rglob("*.py") if file.stem != "__init__")
    if unknown := [name for name in names if not any(name in (*file.parts, str(file)) for file in files)]:
        sys.exit(f"no such module of the core: {', '.join(unknown)}")
    return [str(file) for file in files if not names or any(name in (*file.parts, str(file)) for name in names)]


def main() -> None:
    """Mutate, test, report."""
    parser = argparse.ArgumentParser(description="mutation test of the decision core")
    parser.add_argument(
        "modules",
        nargs="*",
        help="modules or folders of the core; all when none is named",
    )
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1, help="how many mutants at once")
    parser.add_argument("--again", action="store_true", help="go on with the copy of last time")
    arguments = parser.parse_args()
    modules = modules_of(ROOT / "coordinator" / CORE, arguments.modules)
    if not arguments.again:
        prepare(modules)
    mutmut("run", "--max-children", str(arguments.children))
    report(verdicts())


if __name__ == "__main__":
    main()
