"""Write scopes against brute force: every path over a small alphabet, matched by regular expressions."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider_coordinator.core.limits.scopes import conflict, overlap

ALPHABET = "ab"
PARTS = ["".join(letters) for size in (1, 2, 3) for letters in itertools.product(ALPHABET, repeat=size)]
PATHS = [""] + ["/".join(parts) for size in (1, 2, 3) for parts in itertools.product(PARTS, repeat=size)]

tokens = st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]", "[a-b]"])
parts = st.one_of(st.lists(tokens, min_size=1, max_size=3).map("".join), st.just("**"))
globs = st.lists(parts, min_size=1, max_size=3).map("/".join)
#: If two of these have a path in common, they have one of `PATHS`: each place that is no star adds one to it at most.
small_globs = st.lists(
    st.one_of(st.lists(tokens, min_size=1, max_size=2).map("".join), st.just("**")), min_size=1, max_size=2
).map("/".join)


def pattern(glob: str) -> re.Pattern[str]:
    """The glob as a regular expression over paths that end with a slash."""
    text = ""
    for part in glob.split("/"):
        if set(part) == {"*"} and len(part) == 2:
            text += "(?:[^/]+/)*"
            continue
        body = part.replace("**", "*").replace("[!", "[^/").replace("?", "[^/]").replace("*", "[^/]*")
        text += f"(?=[^/]){body}/"
    return re.compile(text)


def matches(glob: str) -> set[str]:
    """Every small path that a glob matches."""
    expression = pattern(glob)
    return {path for path in PATHS if expression.fullmatch(path + "/" if path else "")}


@settings(max_examples=200, deadline=None)
@given(left=globs, right=globs)
def test_a_common_path_is_never_missed(left: str, right: str) -> None:
    """Two globs that some path matches both of overlap, whichever is asked first."""
    assert overlap(left, right) == overlap(right, left)
    common = matches(left) & matches(right)
    assert overlap(left, right) or not common, f"both match {min(common)!r}"


@settings(max_examples=300, deadline=None)
@given(left=small_globs, right=small_globs)
def test_overlap_is_exact(left: str, right: str) -> None:
    """Small globs overlap exactly when some small path matches both."""
    assert overlap(left, right) == bool(matches(left) & matches(right))


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("src/app.py", "src/app.py", True),
        ("src/app.py", "src/app.pyc", False),
        ("src/**", "src", True),
        ("src/", "src/deep/down.py", True),
        ("src", "src/app.py", False),
        ("./src//a", "/src/a", True),
        ("*.py", "src/a.py", False),
        ("**/*.py", "src/a.py", True),
        ("src/*.p[xy]", "src/*.py", True),
        ("src/*.p[!y]", "src/*.py", False),
        ("[z-a]", "*", False),
        ("[]a]", "]", True),
        ("a[b", "a[b", True),
        ("a[b", "ab", False),
        ("web:src/**", "api:src/**", False),
        ("web:src/**", "web:src/a", True),
        ("web:src/**", "src/a", False),
        ("*a*b*c*", "*c*b*a*", True),
    ],
)
def test_examples(left: str, right: str, expected: bool) -> None:
    """Parts, sets, repos and slashes mean what the documentation says."""
    assert overlap(left, right) is expected


def test_what_would_take_too_long_counts_as_a_conflict() -> None:
    """Two globs with more states than are looked at are taken to overlap, quickly."""
    assert overlap("*a" * 120 + "x", "*b" * 120 + "y")


def test_a_conflict_names_the_pair() -> None:
    """The first scopes of two lists that overlap are given; lists that share nothing have no conflict."""
    assert conflict(["docs/*", "src/a"], ["tests/*", "src/*"]) == ("src/a", "src/*")
    assert conflict(["docs/*"], ["src/*"]) is None
