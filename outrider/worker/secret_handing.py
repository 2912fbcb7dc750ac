"""Gives an attempt its secrets, and takes them back: variables, sealed descriptors, and what to keep out of its words.

Owns where the values are in this process. A function finds them in `os.environ` and as ``/dev/fd/N``; a program gets
them from its parent with its other variables. Nothing is written to a file or put among arguments.

Invariant: `KeeperChannel.redactor` knows the values from before user code can see them. It forgets those of a program
with its end, and those of a function never: that worker runs nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
from collections.abc import Sequence
from typing import NamedTuple

from outrider.worker.channel import KeeperChannel
from outrider.worker.messages import Secret

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Handed(NamedTuple):
    """What a program is started with: variables by name, and the descriptors that some of them name."""

    variables: dict[str, str]
    descriptors: tuple[int, ...]


NOTHING = Handed({}, ())


class SecretHanding:
    """The secrets of the attempt that runs."""

    def __init__(self, channel: KeeperChannel) -> None:
        self._channel = channel
        self._variables = _Variables()
        self._in_process = False
        self.handed = NOTHING

    def enter(self, secrets: Sequence[Secret], *, in_process: bool) -> None:
        """An attempt with these secrets begins; ``in_process``: in this process, as a function. Raises OSError."""
        from outrider.worker.redaction import Redactor

        self._channel.redactor = Redactor((one.name, one.value) for one in secrets if not one.is_plain)
        self._in_process = in_process
        variables, descriptors = {}, []
        for one in secrets:
            if one.by_descriptor:
                descriptors.append(_sealed(one.value))
                variables[one.variable] = f"/dev/fd/{descriptors[-1]}"
            else:
                variables[one.variable] = os.fsdecode(one.value)
        self.handed = Handed(variables, tuple(descriptors))
        if in_process:
            self._variables.enter(variables)

    def leave(self) -> None:
        """The attempt has ended, and everything that it printed is passed on."""
        self._variables.leave()
        for descriptor in self.handed.descriptors:
            with contextlib.suppress(OSError):  # user code may have closed it
                os.close(descriptor)
        self.handed = NOTHING

    def forget(self) -> None:
        """The last word of the attempt is said: of a program nothing is left that could say more."""
        if not self._in_process:
            self._channel.redactor = None


class _Variables:
    """Variables of this process for as long as an attempt runs, in memory that is wiped afterwards.

    What `os.environ` writes, glibc keeps for ever; so these are given to putenv, which takes them as they lie.
    """

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}
        self._texts: list[ctypes.Array[ctypes.c_char]] = []

    def enter(self, variables: dict[str, str]) -> None:
        raw = getattr(os.environ, "_data", None)
        for name, value in variables.items():
            self._before[name] = os.environ.get(name)
            if raw is None:
                os.environ[name] = value
                continue
            key, data = os.fsencode(name), os.fsencode(value)
            text = ctypes.create_string_buffer(key + b"=" + data)
            raw[key] = data
            self._texts.append(text)
            ctypes.CDLL(None).putenv(text)

    def leave(self) -> None:
        for name, before in self._before.items():
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before
        for text in self._texts:
            ctypes.memset(text, 0, len(text))
        self._before, self._texts = {}, []


def _sealed(value: bytes) -> int:
    """A descriptor from which the value can be read again and again, and that nobody can change. Raises OSError."""
    descriptor = os.memfd_create("secret", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(value)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor
