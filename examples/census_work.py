"""The work of the census: what one task does with a batch of Python files, and how the parts become one.

`count_files` and `merge` are plain functions, so a sequential census needs nothing else. `count_batch` is what runs on
an agent: the same, with progress. A function's cyclomatic complexity is 1, and 1 more for every `if`, `elif`,
conditional expression, loop, `except`, `case`, comprehension `for` and `if`, and every `and` or `or` between two
operands. A nested function counts by itself and not towards the one around it.
"""

from __future__ import annotations

import ast
import heapq
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: How many of the most complex functions are kept, in each part and in all.
MOST_COMPLEX = 10

Part = dict[str, Any]

_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def count_batch(root: str, paths: list[str]) -> Part:
    """Count files (relative to ``root``) as a task; adds who did it and how long it took; reports progress."""
    from outrider.worker import current  # here, so that a sequential census needs no Outrider at all

    started = time.perf_counter()
    part = count_files(root, paths, current.progress)
    return part | {"agent": current.agent, "seconds": time.perf_counter() - started}


def count_files(root: str, paths: list[str], progress: Callable[[int, int, str], None] | None = None) -> Part:
    """Totals of these files, their most complex functions, and which could not be parsed and why."""
    part = merge([])
    for number, path in enumerate(paths, 1):
        part = _joined(part, _count_file(root, path))
        if progress is not None:
            progress(number, len(paths), path)
    return part


def merge_inputs(inputs: dict[str, Part]) -> Part:
    """The last task of the graph: its inputs are the parts, by key."""
    return merge(list(inputs.values()))


def merge(parts: list[Part]) -> Part:
    """One part out of many; the order of the parts does not matter."""
    total: Part = {"files": 0, "lines": 0, "functions": 0, "complexity": 0, "most_complex": [], "unparsable": []}
    for part in parts:
        total = _joined(total, part)
    return total


def _joined(one: Part, other: Part) -> Part:
    sums = {name: one[name] + other[name] for name in ("files", "lines", "functions", "complexity")}
    # Complexity first, highest first; then place and name, so that equals have one order wherever they were counted.
    found = [tuple(entry) for entry in one["most_complex"] + other["most_complex"]]
    most = heapq.nsmallest(MOST_COMPLEX, found, key=lambda entry: (-entry[0], *entry[1:]))
    unparsable = sorted([list(entry) for entry in one["unparsable"] + other["unparsable"]])
    return {**sums, "most_complex": [list(entry) for entry in most], "unparsable": unparsable}


def _count_file(root: str, path: str) -> Part:
    part = merge([])
    try:
        data = Path(root, path).read_bytes()
        found = list(_functions(_parsed(data), ""))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return part | {"unparsable": [[path, _reason(error)]]}
    functions = [[complexity, path, line, name] for name, line, complexity in found]
    return part | {
        "files": 1,
        "lines": len(data.splitlines()),
        "functions": len(functions),
        "complexity": sum(complexity for _, _, complexity in found),
        "most_complex": functions,
    }


def _parsed(data: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in other people's files
        return ast.parse(data)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    if isinstance(error, SyntaxError) and error.lineno:
        return f"line {error.lineno}: {error.msg}"
    return str(error) or type(error).__name__


def _functions(scope: ast.AST, prefix: str) -> Iterator[tuple[str, int, int]]:
    """Name with the classes and functions around it, line and complexity of every function below ``scope``."""
    for part in ast.iter_child_nodes(scope):
        if isinstance(part, _FUNCTIONS):
            yield prefix + part.name, part.lineno, _complexity(part)
        named = isinstance(part, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _functions(part, f"{prefix}{part.name}." if named else prefix)  # type: ignore[attr-defined] # named


def _complexity(function: ast.AST) -> int:
    points, waiting = 1, list(ast.iter_child_nodes(function))
    while waiting:
        part = waiting.pop()
        if isinstance(part, _FUNCTIONS):
            continue
        points += isinstance(part, _BRANCHES)
        if isinstance(part, ast.comprehension):
            points += 1 + len(part.ifs)
        elif isinstance(part, ast.BoolOp):
            points += len(part.values) - 1
        waiting.extend(ast.iter_child_nodes(part))
    return points
