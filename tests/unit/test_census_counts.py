"""What the census counts in a file, and that parts merge into the same total however the files were split."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from census_work import count_files, merge

SOURCE = """\
class Shop:
    def price(self, basket, tax):
        def discount(item):
            return item if item > 3 or item < 0 and tax else 0
        total = sum(discount(item) for item in basket if item)
        for _ in basket:
            while total:
                total -= 1
        return total

    async def open(self):
        try:
            pass
        except ValueError:
            pass
        match self:
            case 1:
                pass
            case _:
                pass


plain = lambda: 1
"""


def write(folder: Path, **files: str | bytes) -> list[str]:
    """Put files into a folder; their names."""
    for name, content in files.items():
        (folder / f"{name}.py").write_bytes(content if isinstance(content, bytes) else content.encode())
    return [f"{name}.py" for name in files]


def test_a_file_is_counted_as_documented(tmp_path: Path) -> None:
    """Methods, nested and async functions count; a nested function's branches are its own; a lambda is no function."""
    part = count_files(str(tmp_path), write(tmp_path, shop=SOURCE))
    assert (part["files"], part["lines"], part["functions"]) == (1, 23, 3)
    complexities = {name: complexity for complexity, _, _, name in part["most_complex"]}
    # price: 1, comprehension for and if, for, while. discount: 1, conditional, or, and. open: 1, except, two cases.
    assert complexities == {"Shop.price": 5, "Shop.price.discount": 4, "Shop.open": 4}
    assert part["complexity"] == 13


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"def broken(:\n    pass\n", "line 1: "),
        (b"# -*- coding: klingon -*-\n", "unknown encoding"),
        (b"name = '\xff'\n", "utf-8"),
        (b"a\x00b", "null bytes"),
        (b"(" * 5000, "too many nested parentheses"),
        ("x = " + "-" * 100_000 + "1", ""),
    ],
)
def test_a_file_that_cannot_be_parsed_is_listed_with_the_reason(
    tmp_path: Path, content: str | bytes, reason: str
) -> None:
    """Whatever is wrong with one file is one line of the report, and the other files are counted."""
    part = count_files(str(tmp_path), [*write(tmp_path, bad=content, good="def f(): pass\n"), "missing.py"])
    assert (part["files"], part["functions"]) == (1, 1)
    (bad, missing) = part["unparsable"]
    assert bad[0] == "bad.py"
    assert reason in bad[1]
    assert bad[1]
    assert missing == ["missing.py", "No such file or directory"]


def test_progress_names_every_file(tmp_path: Path) -> None:
    """The caller hears of each file when it is done, counting from 1."""
    heard: list[tuple[int, int, str]] = []
    paths = write(tmp_path, a="", b="")
    count_files(str(tmp_path), paths, lambda *progress: heard.append(progress))
    assert heard == [(1, 2, "a.py"), (2, 2, "b.py")]


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(min_value=0, max_value=40), max_size=8), st.randoms())
def test_the_split_into_parts_does_not_matter(cuts: list[int], random: object) -> None:
    """Parts of any size, merged in any order and sent as JSON on the way, give what one sequential count gives."""
    root = Path(json.__file__).parents[1]
    paths = sorted(str(path.relative_to(root)) for folder in ("json", "email") for path in (root / folder).glob("*.py"))
    edges = sorted({0, len(paths), *(min(cut, len(paths)) for cut in cuts)})
    parts = [count_files(str(root), paths[start:end]) for start, end in itertools.pairwise(edges)]
    random.shuffle(parts)  # type: ignore[attr-defined] # hypothesis gives a random.Random
    assert merge(json.loads(json.dumps(parts))) == count_files(str(root), paths)
