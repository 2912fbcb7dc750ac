"""Which mutants the type checker refuses: `make type` notices those, so tests need not.

Every mutant becomes a function of its own beside the one that it changes, in a copy of the package, and mypy looks at
all of them in one run. Knows nothing of tests.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mutation.mutants import Mutant

#: What mypy says of a copy that is no fault of it.
HARMLESS = ("[unused-ignore]", "[unreachable]", "[no-redef]")
#: Decorators without which a copy would be refused whatever was changed in it.
KEPT = ("classmethod", "staticmethod")


def refused(found: Sequence[Mutant], root: Path, place: Path) -> set[int]:
    """Places in ``found`` of the mutants that mypy refuses; ``place`` is a folder for the copy."""
    shutil.rmtree(place / "coordinator", ignore_errors=True)
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "coordinator", place / "coordinator", ignore=skip)
    if not (place / "outrider").exists():
        (place / "outrider").symlink_to(root / "outrider")
    by_file: dict[str, dict[int, Mutant]] = defaultdict(dict)
    for number, mutant in enumerate(found):
        by_file["coordinator/" + mutant.module.replace(".", "/") + ".py"][number] = mutant
    spans = {file: _grow(place / file, mutants) for file, mutants in by_file.items()}
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml"), "--no-error-summary"]
    command += ["--cache-dir", str(place / "cache"), "--show-error-codes", *by_file]
    environment = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    said = subprocess.run(command, cwd=place, env=environment, text=True, capture_output=True, check=False).stdout
    wrong = set()
    for line in said.splitlines():
        match = re.match(r"([^:]+):(\d+): error: ", line)
        if match and not line.endswith(HARMLESS):
            wrong |= {number for first, last, number in spans.get(match[1], ()) if first <= int(match[2]) <= last}
    return wrong


def _grow(file: Path, mutants: dict[int, Mutant]) -> list[tuple[int, int, int]]:
    """Write mutants into a file after their functions; the lines that each takes."""
    lines = file.read_text().splitlines()
    functions = _functions(lines)
    after: dict[int, list[tuple[int, list[str]]]] = defaultdict(list)
    for number, mutant in mutants.items():
        name, indent = mutant.function.rpartition(".")[2], "    " if "." in mutant.function else ""
        source = mutant.source.strip("\n").replace(f"def {name}(", f"def {name}__mutant_{number}(", 1)
        function = functions[mutant.function]
        kept = [f"@{ast.unparse(one)}" for one in function.decorator_list if ast.unparse(one) in KEPT]
        copy = [indent + line if line else line for line in (*kept, *source.splitlines())]
        after[function.end_lineno or 0].append((number, ["", *copy]))
    grown: list[str] = []
    spans = []
    for line_number, line in enumerate(lines, 1):
        grown.append(line)
        for number, copy in after.get(line_number, ()):
            spans.append((len(grown) + 1, len(grown) + len(copy), number))
            grown += copy
    file.write_text("\n".join(grown) + "\n")
    return spans


def _functions(lines: list[str]) -> dict[str, ast.FunctionDef]:
    """Every function and method, as `Mutant.function` names it."""
    found = {}
    for part in ast.parse("\n".join(lines)).body:
        if isinstance(part, ast.FunctionDef):
            found[part.name] = part
        elif isinstance(part, ast.ClassDef):
            for inner in part.body:
                if isinstance(inner, ast.FunctionDef):
                    found[f"{part.name}.{inner.name}"] = inner
    return found
