"""Which declared write scopes can touch the same path: two globs conflict when some path matches both.

A scope is ``[repo:]glob``. Scopes of different repos never conflict; those without one share the repo of no name. In a
glob ``*`` and ``?`` match within one part of a path, ``[...]`` one character of a set (``[!...]`` one that is not in
it), and a part that is just ``**`` any number of parts, also none. A slash at the end means everything below. A leading
``./`` or ``/`` and doubled slashes mean nothing. All else is literal, a ``[`` that its part does not close too.

The answer is exact: two globs are walked together, as the product of two automata, over parts and within a pair of
parts over characters. Only where that takes more than `STATES_MAX` states (two long globs full of stars) the answer is
yes without proof. Pure; what was asked before is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

PAIRS_CACHED_MAX = 65_536
STATES_MAX = 4_096
_CHARACTER_MAX = 0x10FFFF


class Place(NamedTuple):
    """One place of a part: one character of these ranges, or any number of any characters (``is_star``)."""

    ranges: tuple[tuple[int, int], ...] = ()
    is_star: bool = False


Part = tuple[Place, ...]


class Scope(NamedTuple):
    """A scope taken apart. ``beginning`` are its first parts as they are written, up to the first that is a pattern."""

    repo: str
    parts: tuple[Part, ...]
    beginning: tuple[str, ...]


_ANY = ((0, ord("/") - 1), (ord("/") + 1, _CHARACTER_MAX))
#: The part ``**``: any number of parts.
_PARTS: Part = ()


class _Unproven(Exception):
    """More states than are looked at."""


def conflict(left: Sequence[str], right: Sequence[str]) -> tuple[str, str] | None:
    """The first scope of each side that can touch a path of the other's; None when no path is in both."""
    for one in left:
        for other in right:
            if overlap(one, other):
                return one, other
    return None


def overlap(left: str, right: str) -> bool:
    """Whether some path matches both scopes."""
    one, other = _parsed(left), _parsed(right)
    if one.repo != other.repo or any(a != b for a, b in zip(one.beginning, other.beginning, strict=False)):
        return False
    return _overlap(left, right)


@lru_cache(PAIRS_CACHED_MAX)
def _overlap(left: str, right: str) -> bool:
    one, other, budget = _parsed(left).parts, _parsed(right).parts, [STATES_MAX]
    try:
        return _is_reachable(len(one), len(other), _over_parts(one, other, budget), budget)
    except _Unproven:
        return True


@lru_cache(PAIRS_CACHED_MAX)
def _parsed(scope: str) -> Scope:
    repo, colon, path = scope.partition(":")
    if not colon or any(mark in repo for mark in "/*?["):
        repo, path = "", scope
    if path.endswith("/"):
        path += "**"
    parts = [part for part in path.split("/") if part not in ("", ".")]
    beginning = tuple(takewhile(lambda part: not any(mark in part for mark in "*?["), parts))
    return Scope(repo, tuple(_PARTS if part == "**" else _part(part) for part in parts), beginning)


def _part(text: str) -> Part:
    places: list[Place] = []
    at = 0
    while at < len(text):
        end = _set_end(text, at) if text[at] == "[" else -1
        if end > 0:
            places.append(Place(_set(text[at + 1 : end])))
            at = end
        elif text[at] == "*":
            if not (places and places[-1].is_star):
                places.append(Place(is_star=True))
        else:
            places.append(Place(_ANY if text[at] == "?" else ((ord(text[at]), ord(text[at])),)))
        at += 1
    return tuple(places)


def _set_end(text: str, start: int) -> int:
    """Where the set that opens at ``start`` closes; -1 when it never does. A ``]`` that comes first is in the set."""
    first = start + 1 + (text[start + 1 : start + 2] in ("!", "^"))
    return text.find("]", first + 1)


def _set(body: str) -> tuple[tuple[int, int], ...]:
    """The characters of ``[body]``, where more than a ``!`` stands. A range that runs backwards is empty."""
    is_negated = body[0] in "!^"
    rest = body[is_negated:]
    ranges: list[tuple[int, int]] = []
    at = 0
    while at < len(rest):
        is_range = at + 2 < len(rest) and rest[at + 1] == "-"
        ranges.append((ord(rest[at]), ord(rest[at + 2 if is_range else at])))
        at += 3 if is_range else 1
    return _common(_complement(sorted(ranges)) if is_negated else ranges, _ANY)


def _complement(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    free, following = [], 0
    for low, high in ranges:
        if low > following:
            free.append((following, low - 1))
        following = max(following, high + 1)
    return [*free, (following, _CHARACTER_MAX)] if following <= _CHARACTER_MAX else free


def _common(left: Sequence[tuple[int, int]], right: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    pairs = [(max(a, c), min(b, d)) for a, b in left for c, d in right]
    return tuple((low, high) for low, high in pairs if low <= high)


_Position = tuple[int, int]
_Steps = Callable[[int, int], list[_Position]]


def _is_reachable(left: int, right: int, steps: _Steps, budget: list[int]) -> bool:
    """Whether both sides can be at their ends at once, from the beginning of both. Raises `_Unproven`."""
    reached, waiting = {(0, 0)}, [(0, 0)]
    while waiting:
        position = waiting.pop()
        if position == (left, right):
            return True
        budget[0] -= 1
        if budget[0] < 0:
            raise _Unproven
        for step in steps(*position):
            if step not in reached:
                reached.add(step)
                waiting.append(step)
    return False


def _over_parts(left: tuple[Part, ...], right: tuple[Part, ...], budget: list[int]) -> _Steps:
    """Where one more part of a path, or the end of a ``**``, leads."""

    def steps(i: int, j: int) -> list[_Position]:
        one = left[i] if i < len(left) else None
        other = right[j] if j < len(right) else None
        found = _ends_of_stars(i, j, one == _PARTS, other == _PARTS, one is not None, other is not None)
        if one and other and _is_reachable(len(one), len(other), _over_characters(one, other), budget):
            found.append((i + 1, j + 1))
        return found

    return steps


def _over_characters(left: Part, right: Part) -> _Steps:
    """Where one more character of a part, or the end of a ``*``, leads."""

    def steps(i: int, j: int) -> list[_Position]:
        one = left[i] if i < len(left) else None
        other = right[j] if j < len(right) else None
        a, b = one is not None and one.is_star, other is not None and other.is_star
        found = _ends_of_stars(i, j, a, b, bool(one and one.ranges), bool(other and other.ranges))
        if one is not None and other is not None and _common(one.ranges, other.ranges):
            found.append((i + 1, j + 1))
        return found

    return steps


def _ends_of_stars(i: int, j: int, left: bool, right: bool, left_goes_on: bool, right_goes_on: bool) -> list[_Position]:
    """A star may end here, or swallow what the other side has next (two stars need not swallow each other)."""
    found = []
    if left:
        found.append((i + 1, j))
        if right_goes_on and not right:
            found.append((i, j + 1))
    if right:
        found.append((i, j + 1))
        if left_goes_on and not left:
            found.append((i + 1, j))
    return found
