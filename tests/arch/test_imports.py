"""Who may import whom. The contracts stand in pyproject.toml; what they cannot say is said here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.source_tree import PRODUCT, ROOT, imported_modules, sources

PURE = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "collections.abc",
    "dataclasses",
    "enum",
    "fnmatch",
    "functools",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "types",
    "typing",
}
CORES = {
    "coordinator/outrider_coordinator/core": "outrider_coordinator.core",
    "agent/outrider_agent/core": "outrider_agent.core",
}
IMPURE_BUILTINS = ("open(", "print(", "input(", "id(", "hash(")
# Both import OpenTelemetry inside functions only, once somebody has asked for traces.
MAY_USE_OPENTELEMETRY = ("outrider/telemetry.py", "outrider/worker/user_spans.py")


def test_import_contracts_hold() -> None:
    """Layers, pure cores, independent daemons and gRPC-free workers are as pyproject.toml says."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", sorted(CORES))
def test_a_core_imports_only_pure_modules(folder: str) -> None:
    """A core imports itself and modules of the standard library that read no clock, disk, network or randomness."""
    wrong = [
        f"{source.path}:{line}: {name}"
        for source in sources(folder)
        for name, line in imported_modules(source.tree)
        if name not in PURE and not (name == CORES[folder] or name.startswith(CORES[folder] + "."))
    ]
    assert not wrong, "a core is pure; hand the value in as an argument:\n" + "\n".join(wrong)


@pytest.mark.parametrize("folder", sorted(CORES))
def test_a_core_calls_no_impure_builtin(folder: str) -> None:
    """A core neither reads nor prints, and never lets an object's address or hash decide."""
    wrong = [
        f"{source.path}:{number}: {line.strip()}"
        for source in sources(folder)
        for number, line in enumerate(source.text.splitlines(), 1)
        for call in IMPURE_BUILTINS
        if line.lstrip().startswith(call) or f" {call}" in line or f"({call}" in line
    ]
    assert not wrong, "\n".join(wrong)


def test_only_telemetry_imports_opentelemetry() -> None:
    """Every other module asks `outrider.telemetry`, so that nothing is imported until traces are wanted."""
    wrong = [
        f"{source.path}:{line}: {name}"
        for source in sources(*PRODUCT)
        for name, line in imported_modules(source.tree)
        if name.partition(".")[0] == "opentelemetry" and source.path not in MAY_USE_OPENTELEMETRY
    ]
    assert not wrong, "\n".join(wrong)


def test_stubs_import_only_each_other() -> None:
    """The generated stubs need gRPC and protobuf and nothing of ours but themselves."""
    allowed = {"grpc", "google", "outrider.v1", "warnings", "builtins", "sys", "typing", "collections", "abc"}
    for path in sorted((ROOT / "outrider/v1").glob("*_pb2*.py")):
        text = path.read_text()
        names = {line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))}
        wrong = {name for name in names if name != "outrider.v1" and name.partition(".")[0] not in allowed}
        assert not wrong, f"{path.name} imports {wrong}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("outrider", ("grpc", "google", "opentelemetry", "typer", "asyncio")),
        ("outrider.worker", ("grpc", "google", "opentelemetry", "asyncio")),
        ("outrider.telemetry", ("grpc", "google", "opentelemetry")),
        ("outrider_agent.keeper", ("grpc", "opentelemetry")),
        ("outrider_agent.daemon", ("grpc", "opentelemetry")),
        ("outrider_coordinator.core", ("grpc", "google", "asyncio", "apsw")),
    ],
)
def test_importing_a_module_loads_no_more_than_it_needs(module: str, absent: tuple[str, ...]) -> None:
    """A process that only needs this module does not pay for the packages named."""
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split()) & set(absent)
    assert not loaded, f"import {module} loads {', '.join(sorted(loaded))}"
