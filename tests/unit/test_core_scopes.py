"""Write scopes in the corners of their grammar: repositories, slashes, sets, and globs that take long to walk."""

from __future__ import annotations

import pytest

from outrider_coordinator.core.limits.scopes import overlap


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("a:b:c", "a:*", True),
        ("a:b:c", "a:b:*", True),
        ("X:/a", "X:a", True),
        ("X:a", "a", False),
        (":a", "a", True),
        (":a", "b:a", False),
        ("src/", "doc/x", False),
        ("src/", "src", True),
        ("src/", "src/x/y", True),
        ("/src", "./src", True),
    ],
)
def test_a_scope_is_in_the_repository_before_its_first_colon(left: str, right: str, expected: bool) -> None:
    """Whatever comes after it; a slash at the end is everything below, and only there."""
    assert overlap(left, right) is expected
    assert overlap(right, left) is expected


@pytest.mark.parametrize(
    ("glob", "path", "expected"),
    [
        ("[a-c]", "b", True),
        ("[a-c]", "-", False),
        ("[a-c]", "d", False),
        ("[a-]", "-", True),
        ("[c-ax]", "b", False),
        ("[c-ax]", "x", True),
        ("[!c-ax]", "b", True),
        ("[!c-ax]", "x", False),
        ("[!a]", "b", True),
        ("[^a]", "b", True),
        ("[^a]", "a", False),
        ("[Xa]", "X", True),
        ("[Xa]", "b", False),
        ("[!]x]", "y", True),
        ("[!]x]", "]", False),
        ("[^]x]", "y", True),
        ("[!]", "[!]", True),
        ("[!]", "!", False),
        ("a[bc]d", "acd", True),
    ],
)
def test_a_set_has_the_characters_that_stand_in_it(glob: str, path: str, expected: bool) -> None:
    """Ranges, what it leaves out, and a bracket that comes first; one that is never closed is no set."""
    assert overlap(glob, path) is expected


def test_two_globs_with_many_stars_are_told_apart() -> None:
    """No place of both is walked from twice: that would take longer than is allowed, and count as a conflict."""
    stars = "*a" * 14
    assert overlap(f"{stars}x", f"{stars}y") is False
    assert overlap(f"{stars}x", f"{stars}*") is True
