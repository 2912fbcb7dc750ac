"""What every test must be: a claim, with a name of its own, that neither sleeps nor is skipped."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from support.source_tree import ROOT, FunctionNode, Source, sources

SLEEPS = {"time.sleep", "asyncio.sleep", "sleep", "anyio.sleep", "trio.sleep"}
SKIPS = {"skip", "skipif", "skipIf", "xfail", "importorskip", "skipUnless", "SkipTest", "skipTest"}


def test_every_test_states_a_claim() -> None:
    """Every test function has a docstring that says what it claims."""
    wrong = [
        f"{source.path}:{function.lineno}: {function.name}"
        for source in sources("tests")
        for function in _tests(source)
        if not ast.get_docstring(function)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_test_sleeps() -> None:
    """Nothing under tests/ sleeps: wait for a condition with `support.waiting.eventually`, or inject a clock."""
    wrong = [
        f"{source.path}:{call.lineno}: {ast.unparse(call)}"
        for source in sources("tests")
        for call in _calls(source)
        if ast.unparse(call.func) in SLEEPS and not _is_zero(call)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_test_is_skipped() -> None:
    """Nothing is skipped or expected to fail: a test runs, or it does not exist."""
    wrong = [
        f"{source.path}:{part.lineno}: {ast.unparse(part)}"
        for source in sources("tests")
        for part in ast.walk(source.tree)
        if isinstance(part, ast.Attribute) and part.attr in SKIPS
    ]
    assert not wrong, "\n".join(wrong)


def test_test_files_have_names_of_their_own() -> None:
    """No two test files share a base name, so that one name finds one file."""
    counts = Counter(Path(source.path).name for source in sources("tests") if Path(source.path).name != "conftest.py")
    assert not [name for name, count in counts.items() if count > 1]


def test_test_folders_are_no_packages() -> None:
    """No __init__.py under tests/."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_two_tests_of_a_file_share_a_name() -> None:
    """A second test of the same name would silently replace the first."""
    for source in sources("tests"):
        counts = Counter(function.name for function in source.tree.body if isinstance(function, FunctionNode))
        assert not [name for name, count in counts.items() if count > 1], source.path


def _tests(source: Source) -> Iterator[FunctionNode]:
    if Path(source.path).name.startswith("test_"):
        yield from (function for function in source.functions() if function.name.startswith("test_"))


def _calls(source: Source) -> Iterator[ast.Call]:
    return (part for part in ast.walk(source.tree) if isinstance(part, ast.Call))


def _is_zero(call: ast.Call) -> bool:
    """`asyncio.sleep(0)` only lets others run."""
    return bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
