"""The mutants of a module: one small change to one function each, by the operators of mutmut.

Owns what is changed and which lines of the file that touches. Knows nothing of tests. What is left as it is: type
annotations, decorators, docstrings, and what an assertion says when it fails.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

#: Functions with these decorators can be replaced from outside; others are left alone.
REPLACEABLE = {"property", "staticmethod", "classmethod", "lru_cache"}


class Mutant(NamedTuple):
    """One change. ``function`` is its name in the module (``Owner.name`` for a method).

    ``lines`` are those of the file, counted from 1, of which a test must run one to notice anything; empty means any of
    the function. ``before`` and ``after`` are the changed lines, ``source`` the whole changed function, undecorated.
    """

    module: str
    function: str
    lines: frozenset[int]
    before: str
    after: str
    source: str


def of_module(path: Path, module: str) -> list[Mutant]:
    """All mutants of a file, in its order, each different from the others."""
    wrapper = MetadataWrapper(cst.parse_module(path.read_text()))
    ranges = wrapper.resolve(PositionProvider)
    found: dict[tuple[str, str], Mutant] = {}
    for owner, function in _functions(wrapper.module):
        name = f"{owner}.{function.name.value}" if owner else function.name.value
        plain = function.with_changes(decorators=[], leading_lines=[])
        original = wrapper.module.code_for_node(plain)
        search = _Search(ranges)
        function.params.visit(search)
        search.statement = None
        function.body.visit(search)
        for lines, node, changed in search.changes:
            mutated = plain.visit(_Swap(node, changed))
            source = wrapper.module.code_for_node(mutated)  # type: ignore[arg-type]  # a function stays one
            if (name, source) not in found:
                before, after = _difference(original, source)
                alike = sum(
                    key[0] == name and one.before == before and one.after.startswith(after)
                    for key, one in found.items()
                )
                after += f"  # the same again, {alike + 1}" if alike else ""
                found[name, source] = Mutant(module, name, lines, before, after, source)
    return list(found.values())


def _functions(module: cst.Module) -> Iterator[tuple[str, cst.FunctionDef]]:
    for part in module.body:
        if isinstance(part, cst.FunctionDef) and _is_replaceable(part):
            yield "", part
        elif isinstance(part, cst.ClassDef) and isinstance(part.body, cst.IndentedBlock):
            for inner in part.body.body:
                if isinstance(inner, cst.FunctionDef) and _is_replaceable(inner):
                    yield part.name.value, inner


def _is_replaceable(function: cst.FunctionDef) -> bool:
    names = []
    for decorator in function.decorators:
        called = decorator.decorator.func if isinstance(decorator.decorator, cst.Call) else decorator.decorator
        names.append(called.value if isinstance(called, cst.Name) else "")
    return REPLACEABLE.issuperset(names)


def _difference(before: str, after: str) -> tuple[str, str]:
    """The lines that differ, stripped and joined."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    gone, come = ([line[2:].strip() for line in lines if line.startswith(sign)] for sign in ("- ", "+ "))
    return " ".join(gone), " ".join(come)


class _Search(cst.CSTVisitor):
    """Collects (lines, node, replacement) below what it visits."""

    def __init__(self, ranges: object) -> None:
        self.ranges = ranges
        self.statement: frozenset[int] | None = frozenset()
        self.changes: list[tuple[frozenset[int], cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator):
            return False
        if isinstance(node, cst.SimpleStatementLine):
            self.statement = self._lines(node)
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                self.changes += [(self._touched(node), node, changed) for changed in operator(node)]
        if isinstance(node, cst.Assert):
            node.test.visit(self)
            return False
        return True

    def on_leave(self, node: cst.CSTNode) -> None:
        if isinstance(node, cst.SimpleStatementLine):
            self.statement = None

    def _touched(self, node: cst.CSTNode) -> frozenset[int]:
        return self._lines(node) if self.statement is None else self.statement

    def _lines(self, node: cst.CSTNode) -> frozenset[int]:
        where: CodeRange = self.ranges[node]  # type: ignore[index]  # a mapping from nodes, which libcst does not name
        return frozenset(range(where.start.line, where.end.line + 1))


class _Swap(cst.CSTTransformer):
    """Puts one node in the place of another, once."""

    def __init__(self, old: cst.CSTNode, new: cst.CSTNode) -> None:
        self.old, self.new = old, new
        self.is_done = False

    def on_visit(self, node: cst.CSTNode) -> bool:
        return not self.is_done and node is not self.old

    def on_leave(self, original_node: cst.CSTNode, updated_node: cst.CSTNode) -> cst.CSTNode:  # type: ignore[override]  # any node
        if original_node is not self.old:
            return updated_node
        self.is_done = True
        return self.new
