"""The variables of the attempt in `os.environ`, where functions, and the programs they start, find them.

Owns what it has written and nothing else of the environment.

What `os.environ` writes, it writes with setenv, and glibc keeps every value that setenv was ever given: a worker would
grow with each attempt, without end. So the values that differ from attempt to attempt lie in memory of ours.
"""

from __future__ import annotations

import ctypes
import os

#: Enough for any variable of ours; longer ones get what they need.
TEXT_BYTES = 256


class AttemptEnvironment:
    """Goes from one attempt's variables to the next one's; only differences are written, which is what costs."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}
        self._raw_names: frozenset[bytes] = frozenset()
        self._texts: dict[str, _Text] = {}
        self._putenv = ctypes.CDLL(None).putenv

    def enter(self, wanted: dict[str, str]) -> None:
        """Make `os.environ` hold these variables, and none of the attempt before. ``wanted`` must not change."""
        given = self._given
        # The dictionary of bytes behind os.environ: asking six names of that itself takes as long as a short function.
        raw = getattr(os.environ, "_data", None)
        if given.keys() != wanted.keys():
            for name in given.keys() - wanted.keys():
                os.environ.pop(name, None)
            self._raw_names = frozenset(map(os.fsencode, wanted))
            given = {}
        elif raw is None or not self._raw_names <= raw.keys():
            given = {}  # user code has removed some: trust nothing
        for name, value in wanted.items():
            if given.get(name) != value:
                self._write(raw, name, value)
        self._given = wanted

    def _write(self, raw: dict[bytes, bytes] | None, name: str, value: str) -> None:
        if raw is None or "\0" in value:  # user code has replaced it, or the error is its to raise
            os.environ[name] = value
            return
        text = self._texts.get(name)
        if text is None:
            text = self._texts[name] = _Text(os.fsencode(name))
        data = os.fsencode(value)
        raw[text.name] = data
        self._putenv(text.next(data))


class _Text:
    """``NAME=value`` in memory that outlives everything, for putenv, which takes it as it lies.

    Two pieces take turns, so that a program which another thread starts meanwhile sees the old or the new value whole.
    """

    def __init__(self, name: bytes) -> None:
        self.name = name
        self._spare, self._used = _immortal(TEXT_BYTES), _immortal(TEXT_BYTES)

    def next(self, value: bytes) -> ctypes.Array[ctypes.c_char]:
        """The piece that is not in use now, with this value."""
        text = self.name + b"=" + value
        piece = self._spare if len(text) < len(self._spare) else _immortal(2 * len(text))
        piece.value = text
        self._spare, self._used = self._used, piece
        return piece


def _immortal(size_bytes: int) -> ctypes.Array[ctypes.c_char]:
    """Memory that is never freed: C code may look at the environment after Python has ended."""
    piece = ctypes.create_string_buffer(size_bytes)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(piece))
    return piece
