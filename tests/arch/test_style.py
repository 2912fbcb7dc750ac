"""House style as tests: sizes, words, state. A rule that only people remember is a rule that is forgotten.

This file names what it forbids, so the searches through tracked files leave it out.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.source_tree import (
    ALL_CODE,
    PRODUCT,
    ROOT,
    Source,
    body_line_count,
    line_count,
    sources,
    tracked_files,
)

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 450
BODY_LINES_MEDIAN_MAX = 8
BODY_LINES_95TH_MAX = 40

#: What not to call a module or a class, and what to do instead.
VAGUE = dict.fromkeys(("util", "utils", "common", "helper", "helpers", "manager", "misc"), "name it after what it owns")
#: What not to call a variable, an argument, a function or a class, and the word to use.
FOREIGN = {
    "job": "task",
    "jobs": "tasks",
    "node": "agent",
    "nodes": "agents",
    "slave": "worker",
    "master": "coordinator",
}
UNFINISHED = ("TODO", "FIXME", "XXX", "HACK")
MUTABLE_MAKERS = {"list", "dict", "set", "defaultdict", "deque", "OrderedDict", "Counter", "bytearray"}
MUTATORS = {"append", "add", "update", "pop", "clear", "extend", "insert", "remove", "discard", "setdefault", "popitem"}


def test_no_function_is_too_long() -> None:
    """No function, test or benchmark has more than 70 lines."""
    wrong = [
        f"{source.path}:{function.lineno}: {function.name} has {line_count(function)} lines"
        for source in sources(*ALL_CODE)
        for function in source.functions()
        if line_count(function) > FUNCTION_LINES_MAX
    ]
    assert not wrong, "\n".join(wrong)


def test_functions_are_short_as_a_rule() -> None:
    """Half of all function bodies have at most 8 lines, and 95 of 100 at most 40."""
    sizes = sorted(body_line_count(function) for source in sources(*PRODUCT) for function in source.functions())
    assert statistics.median(sizes) <= BODY_LINES_MEDIAN_MAX
    assert sizes[int(len(sizes) * 0.95)] <= BODY_LINES_95TH_MAX


def test_no_file_is_too_long() -> None:
    """No Python file has more than 450 lines."""
    wrong = [
        f"{source.path}: {source.line_count}" for source in sources(*ALL_CODE) if source.line_count > FILE_LINES_MAX
    ]
    assert not wrong, "split by what changes together:\n" + "\n".join(wrong)


def test_every_module_says_what_it_owns() -> None:
    """Every module with code has a docstring, and annotations are never evaluated at import."""
    for source in sources(*ALL_CODE):
        if not source.tree.body:
            continue
        assert ast.get_docstring(source.tree), f"{source.path}: no module docstring"
        imports = [
            part for part in source.tree.body if isinstance(part, ast.ImportFrom) and part.module == "__future__"
        ]
        only_docstring = len(source.tree.body) == 1
        assert imports or only_docstring, f"{source.path}: add `from __future__ import annotations`"


def test_no_vague_names() -> None:
    """No module and no class is called after nothing in particular."""
    wrong = []
    for source in sources(*ALL_CODE):
        stem = source.path.rpartition("/")[2].removesuffix(".py")
        names = [stem, *(part.name for part in ast.walk(source.tree) if isinstance(part, ast.ClassDef))]
        wrong += [f"{source.path}: {name}: {VAGUE[word]}" for name in names for word in _words(name) if word in VAGUE]
    assert not wrong, "\n".join(wrong)


def test_one_word_for_one_thing() -> None:
    """Nothing in the product is called by another project's word for it."""
    wrong = [
        f"{source.path}:{line}: {name}: say {FOREIGN[word]}"
        for source in sources(*PRODUCT)
        for name, line in _names_defined(source.tree)
        for word in _words(name)
        if word in FOREIGN
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_unfinished() -> None:
    """No tracked Python or proto file carries a note to do something later."""
    pattern = re.compile(r"\b(" + "|".join(UNFINISHED) + r")\b")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked_files()
        if path.suffix in {".py", ".proto", ".sql", ".sh", ".service"} and path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "pattern",
    [
        r"/work/",
        r"index-url",
        r"https?://[^\s]*/simple",
        r"registry\.npmjs\.org",
        r"files\.pythonhosted",
    ],
)
def test_no_machine_and_no_package_index_is_named(pattern: str) -> None:
    """No tracked file names a folder of somebody's machine or the address of a package index."""
    expression = re.compile(pattern)
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_files()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if expression.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_hold_no_state() -> None:
    """What a module binds at its top level never changes: no `global`, and constants are not written to."""
    wrong = [f"{source.path}:{line}: {what}" for source in sources(*PRODUCT) for what, line in _module_state(source)]
    assert not wrong, "\n".join(wrong)


def test_every_ignore_has_its_reason() -> None:
    """A `noqa` or `type: ignore` names its rule and is followed by the reason."""
    bare = re.compile(r"#\s*(noqa|type:\s*ignore)(?!\S*[:\[]\s*[A-Za-z0-9, -]+\]?\s*(-|#|--|:)\s*\S)")
    wrong = [
        f"{source.path}:{number}: {line.strip()}"
        for source in sources(*ALL_CODE)
        for number, line in enumerate(source.text.splitlines(), 1)
        if bare.search(line) and not source.path.endswith("test_style.py")
    ]
    assert not wrong, "\n".join(wrong)


def _words(name: str) -> list[str]:
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return separated.lower().split("_")


def _names_defined(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for part in ast.walk(tree):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield part.name, part.lineno
        elif isinstance(part, ast.arg):
            yield part.arg, part.lineno
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id, part.lineno
        elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            yield part.attr, part.lineno


def _module_state(source: Source) -> Iterator[tuple[str, int]]:
    mutable = {name for statement in source.tree.body for name in _mutable_names(statement)} - {"__all__"}
    for name in sorted(mutable):
        if name.upper() != name:
            yield f"{name} is mutable; make it a constant in capitals or a member of an object", 1
    for part in ast.walk(source.tree):
        if isinstance(part, ast.Global):
            yield "global statement", part.lineno
        elif (name := _written(part)) in mutable:
            yield f"{name} is written to", getattr(part, "lineno", 1)


def _mutable_names(statement: ast.stmt) -> Iterator[str]:
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return
    value = statement.value
    made = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in MUTABLE_MAKERS
    if made or isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _written(part: ast.AST) -> str:
    """Name of the variable this changes in place; empty when it changes none."""
    if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Store | ast.Del):
        changed: ast.AST = part.value
    elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in MUTATORS:
        changed = part.func.value
    else:
        return ""
    return changed.id if isinstance(changed, ast.Name) else ""
