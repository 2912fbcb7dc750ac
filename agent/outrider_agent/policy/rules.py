"""What a policy says of one task: the first rule that refuses it.

Owns the rules and how patterns are read. Pure but for looking up programs and folders. It must not know where tasks
come from, nor who signed them. Invariant: what passes is run exactly as it was looked at; a program by the path that
the rule names (see `Bounds`), a folder by its real path.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from outrider.errors import InvalidRequest
from outrider.v1 import task_pb2
from outrider_agent.policy.settings import PolicySettings

#: As the last word of a command: whatever follows.
_ANY_WORDS = "**"
_SHOWN_CHARACTERS_MAX = 120


@dataclass(frozen=True, slots=True)
class Rules:
    """A policy, read once; None is "anything"."""

    namespaces: tuple[str, ...] | None
    commands: tuple[tuple[str, ...], ...] | None
    functions: frozenset[str] | None
    environment: tuple[str, ...] | None
    directories: tuple[str, ...] | None

    @property
    def allow_everything(self) -> bool:
        """Whether no task needs to be looked at."""
        return (self.namespaces, self.commands, self.functions, self.environment, self.directories) == (None,) * 5

    def refusal(self, spec: task_pb2.TaskSpec, namespace: str) -> str:
        """Why this policy refuses a task, with the rule; empty when it does not.

        A folder that passes is written into ``spec`` as what it was found to be.
        """
        if self.namespaces is not None and not _matches(namespace, self.namespaces):
            return f"policy.namespaces: this agent does not work for namespace {namespace!r}"
        if spec.HasField("function"):
            return self._of_function(spec.function.function) or self._of_variables(spec)
        return self._of_command(spec.command) or self._of_variables(spec) or self._of_directory(spec.command)

    def must_be_own(self, name: str) -> bool:
        """Whether a function must be defined in its module: only the module is named in the policy."""
        return self.functions is not None and name not in self.functions

    def _of_function(self, name: str) -> str:
        if self.functions is None or name in self.functions or name.partition(":")[0] in self.functions:
            return ""
        return f"policy.functions: {_shown(name)} is not among the functions that run on this agent"

    def _of_command(self, command: task_pb2.Command) -> str:
        if not command.argv:
            return "the command is empty"
        if self.commands is not None:
            words = [program_of(command.argv[0]), *command.argv[1:]]
            if not any(_fits(words, pattern) for pattern in self.commands):
                return f"policy.commands: {_shown(shlex.join(command.argv))} is not among those that run on this agent"
        return ""

    def _of_variables(self, spec: task_pb2.TaskSpec) -> str:
        """Those that the task sets, and those that it wants secrets in."""
        if self.environment is None:
            return ""
        names = {*spec.command.environment, *(use.variable for use in spec.secrets)}
        wrong = next((name for name in sorted(names) if not _matches(name, self.environment)), None)
        return f"policy.environment: tasks may not set {_shown(wrong)} on this agent" if wrong is not None else ""

    def _of_directory(self, command: task_pb2.Command) -> str:
        if self.directories is None or not command.working_directory:
            return ""
        real = os.path.realpath(command.working_directory)
        if not any(real == root or real.startswith(root.rstrip("/") + "/") for root in self.directories):
            return f"policy.directories: commands may not begin in {_shown(command.working_directory)} on this agent"
        command.working_directory = real
        return ""


def program_of(word: str) -> str:
    """The file that the first word of a command stands for on this agent."""
    return shutil.which(word) or word


def read(settings: PolicySettings) -> Rules:
    """The rules of a policy. Raises `InvalidRequest` naming the one that means nothing.

    Who names what may run means that nothing else may: of commands and functions the one that is left out is closed
    when the other is given, and variables, which can make a program run another one, are closed with commands.
    """
    commands, functions, environment = settings.commands, settings.functions, settings.environment
    if commands is not None or functions is not None:
        commands, functions, environment = commands or [], functions or [], environment or []
    return Rules(
        namespaces=_tuple(settings.namespaces),
        commands=None if commands is None else tuple(map(_command, commands)),
        functions=None if functions is None else frozenset(map(_function, functions)),
        environment=_tuple(environment),
        directories=None if settings.directories is None else tuple(map(_directory, settings.directories)),
    )


def _tuple(patterns: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if patterns is None else tuple(patterns)


def _command(line: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(line))
    except ValueError as error:
        raise InvalidRequest(f"policy.commands: {line!r}: {error}") from None
    if not words or not words[0].startswith("/") or os.path.normpath(words[0]) != words[0] or "*" in words[0]:
        raise InvalidRequest(f"policy.commands: {line!r} must begin with the absolute path of one program")
    if _ANY_WORDS in words[:-1]:
        raise InvalidRequest(f"policy.commands: {line!r}: ** stands for any further words, at the end only")
    return words


def _function(name: str) -> str:
    module, _, attribute = name.partition(":")
    if not module or "*" in name or (":" in name and not attribute):
        raise InvalidRequest(f"policy.functions: {name!r} must be a module, or module:name")
    return name


def _directory(name: str) -> str:
    if not name.startswith("/"):
        raise InvalidRequest(f"policy.directories: {name!r} must be an absolute path")
    return os.path.realpath(name)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _fits(words: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a command is one of those that a pattern stands for."""
    if pattern[-1] == _ANY_WORDS:
        pattern = pattern[:-1]
        words = [*words[: len(pattern)]] if len(words) > len(pattern) else words
    if len(words) != len(pattern) or words[0] != pattern[0]:
        return False
    return all(fnmatchcase(word, part) for word, part in zip(words[1:], pattern[1:], strict=True))


def _shown(text: str) -> str:
    """What somebody else wrote, for a line of ours."""
    shown = repr(text)
    return shown if len(shown) <= _SHOWN_CHARACTERS_MAX else shown[: _SHOWN_CHARACTERS_MAX - 1] + "…"
