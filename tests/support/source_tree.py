"""The repository's own sources as syntax trees, for the tests that hold its style."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("outrider", "coordinator/outrider_coordinator", "agent/outrider_agent")
ALL_CODE = (*PRODUCT, "tests", "benchmarks", "examples", "docs", "protos")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file: its path under the repository's root, its text and its tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def line_count(self) -> int:
        """Lines in the file."""
        return self.text.count("\n")

    def functions(self) -> Iterator[FunctionNode]:
        """Every function, methods and nested ones included."""
        return (part for part in ast.walk(self.tree) if isinstance(part, FunctionNode))


def sources(*folders: str) -> list[Source]:
    """All hand-written Python files under these folders, by path; generated stubs are left out."""
    return [source for folder in folders for source in _folder(folder)]


@cache
def _folder(folder: str) -> tuple[Source, ...]:
    paths = sorted(path for path in (ROOT / folder).rglob("*.py") if _is_ours(path))
    return tuple(_read(path) for path in paths)


def _is_ours(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return parts[:2] != ("outrider", "v1") and not {"node_modules", "__pycache__"} & set(parts)


def _read(path: Path) -> Source:
    text = path.read_text()
    return Source(str(path.relative_to(ROOT)), text, ast.parse(text))


def imported_modules(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Absolute names of everything imported, with the line; `from a import b` gives `a`."""
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            yield from ((alias.name, part.lineno) for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            yield "." * part.level + (part.module or ""), part.lineno


def line_count(function: FunctionNode) -> int:
    """Lines of a function from `def` to its end, docstring included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def body_line_count(function: FunctionNode) -> int:
    """Lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def tracked_files() -> list[Path]:
    """Files that git knows, deleted ones left out."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
