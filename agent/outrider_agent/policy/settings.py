"""The agent's own policy as it is written down: section [policy] of the settings file.

Everything that is left out is allowed, as on one's own machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from outrider.settings import load as load_settings
from outrider.settings import setting
from outrider.worker.output import ATTEMPT_BYTES_MAX

SECTION = "policy"


class PolicySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a coordinator may have run here; see `outrider.settings` for the sources."""

    require_signature: Annotated[
        bool,
        setting("Run only tasks that are signed with one of trusted_keys, so that a coordinator cannot make up any."),
    ] = False
    trusted_keys: Annotated[
        list[str],
        setting(
            "Whose signed tasks run here: `NAME ed25519:BASE64`, as `outrider key show` prints it, and after that, "
            "separated by commas, the namespaces it is good for, if not for all."
        ),
    ] = []
    statements_max: Annotated[
        int,
        setting(
            "Signed statements remembered until they expire, so that none is replayed; no new ones are taken beyond.",
            ge=1,
        ),
    ] = 1_000_000
    namespaces: Annotated[
        list[str] | None, setting("Namespaces whose tasks run here; they can have *. Left out: all of them.")
    ] = None
    commands: Annotated[
        list[str] | None,
        setting(
            "Programs that run here, each with its arguments: `/usr/bin/git fetch *`. * stands for part of a word, ** "
            "at the end for any further words. Left out: any program, or none where functions is given."
        ),
    ] = None
    functions: Annotated[
        list[str] | None,
        setting(
            "Functions that run here: `module:name`, or `module` for those defined in it. Left out: any function, or "
            "none where commands is given."
        ),
    ] = None
    environment: Annotated[
        list[str] | None,
        setting(
            "Environment variables that tasks may set, or want secrets in; names can have *. Left out: any, or none "
            "where commands or functions is given, because a variable can make a program run another one."
        ),
    ] = None
    directories: Annotated[
        list[str] | None,
        setting("Folders that commands may begin in, and all below them, links followed. Left out: any."),
    ] = None
    user: Annotated[
        str,
        setting("Run tasks as this user, where the agent runs as root; with its groups, and no way to gain more."),
    ] = ""
    time_max_s: Annotated[
        float,
        setting(
            "Longest running time of an attempt, whatever its task says or is granted; 0: no bound.", unit="s", ge=0
        ),
    ] = 0.0
    output_bytes_max: Annotated[
        int,
        setting(
            "Output kept of an attempt; what is more is dropped, and that is said.",
            unit="bytes",
            ge=1,
            le=ATTEMPT_BYTES_MAX,
        ),
    ] = ATTEMPT_BYTES_MAX
    memory_max_bytes: Annotated[
        int, setting("Address space of each process of a task; 0: no bound.", unit="bytes", ge=0)
    ] = 0
    processes_max: Annotated[
        int,
        setting(
            "Processes and threads that the tasks' user may have in all; root has no such bound. 0: no bound.", ge=0
        ),
    ] = 0
    file_max_bytes: Annotated[int, setting("Largest file that a task may write; 0: no bound.", unit="bytes", ge=0)] = 0
    open_files_max: Annotated[
        int, setting("Files that each process of a task may have open; 0: as many as the agent.", ge=0)
    ] = 0

    @property
    def is_default(self) -> bool:
        """Whether nothing is forbidden."""
        return self == PolicySettings()


def load(*, path: Path | None = None, environment: Mapping[str, str] | None = None) -> PolicySettings:
    """The policy from the file and the environment. Raises `InvalidRequest` naming what is wrong."""
    environment = os.environ if environment is None else environment
    return load_settings(PolicySettings, SECTION, path=path, environment=environment)
