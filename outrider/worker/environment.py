"""The variables of the attempt in `os.environ`, where functions, and the programs they start, find them.

Owns what it has written and nothing else of the environment.
"""

from __future__ import annotations

import os


class AttemptEnvironment:
    """Goes from one attempt's variables to the next one's; only differences are written, which is what costs."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}
        self._raw_names: frozenset[bytes] = frozenset()

    def enter(self, wanted: dict[str, str]) -> None:
        """Make `os.environ` hold these variables, and none of the attempt before. ``wanted`` must not change."""
        environ, given = os.environ, self._given
        if given.keys() != wanted.keys():
            for name in given.keys() - wanted.keys():
                environ.pop(name, None)
            self._raw_names = frozenset(map(os.fsencode, wanted))
            given = {}
        elif not self._is_there():
            given = {}
        for name, value in wanted.items():
            if given.get(name) != value:
                environ[name] = value
        self._given = wanted

    def _is_there(self) -> bool:
        """Whether user code has left all names in place."""
        # Asking os.environ for six names takes as long as a short function; the dictionary behind it answers at once.
        raw = getattr(os.environ, "_data", None)
        if isinstance(raw, dict):
            return self._raw_names <= raw.keys()
        return all(name in os.environ for name in self._given)
