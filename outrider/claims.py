"""Claims of named limits as people write them: ``KEY``, ``KEY:shared`` or ``KEY:UNITS``. Pure."""

from __future__ import annotations

from typing import NamedTuple

from outrider.errors import InvalidRequest

__all__ = ["Claim"]

KEY_CHARACTERS_MAX = 200
_UNITS_MAX = 2**32 - 1


class Claim(NamedTuple):
    """What is claimed of the limit ``key``: one side of a lock, or so many units of a semaphore or a rate."""

    key: str
    shared: bool = False
    units: int = 1

    @classmethod
    def parse(cls, text: str) -> Claim:
        """``db:main``, ``file:a.py:shared`` or ``api:5``: what follows the last colon counts when it is a number or
        ``shared``, so a key that ends like that needs ``:1`` behind it. Raises `InvalidRequest`.
        """
        key, _, ending = text.rpartition(":")
        if key and ending == "shared":
            claim = cls(key, shared=True)
        elif key and ending.isascii() and ending.isdecimal():
            claim = cls(key, units=int(ending))
        else:
            claim = cls(text)
        return claim.checked()

    def checked(self) -> Claim:
        """The same. Raises `InvalidRequest` for one that cannot be."""
        if not 1 <= len(self.key) <= KEY_CHARACTERS_MAX:
            raise InvalidRequest(f"the name of a limit has 1 to {KEY_CHARACTERS_MAX} characters; this is {self.key!r}")
        if not 1 <= self.units <= _UNITS_MAX:
            raise InvalidRequest(f"a claim of limit {self.key!r} takes at least 1 unit, not {self.units}")
        if self.shared and self.units > 1:
            raise InvalidRequest(f"a claim of limit {self.key!r} is shared or takes units, not both")
        return self
