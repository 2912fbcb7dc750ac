"""Who tasks run as, and what the kernel lets each of their processes have.

Owns the preparation in the agent; the worker's own start carries it out (`outrider.worker.confined`). It must not know
attempts. Invariant: no worker starts with less confinement than the policy says; what cannot be kept keeps the agent
from starting.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from pathlib import Path

import msgspec

import outrider
from outrider.errors import InvalidRequest
from outrider.worker.confined import Confines
from outrider_agent.policy.settings import PolicySettings
from outrider_agent.state_directory import StateDirectory


class Confinement:
    """How workers are started. Raises `InvalidRequest` when the policy cannot be kept here."""

    def __init__(self, settings: PolicySettings, working_directory: str, state: StateDirectory) -> None:
        user = _user(settings.user) if settings.user else None
        limits = {
            "RLIMIT_AS": settings.memory_max_bytes,
            "RLIMIT_NPROC": settings.processes_max,
            "RLIMIT_FSIZE": settings.file_max_bytes,
            "RLIMIT_NOFILE": settings.open_files_max,
        }
        if settings.processes_max and (user.pw_uid if user else os.geteuid()) == 0:
            raise InvalidRequest("policy.processes_max: root has no such bound; set policy.user too")
        confines = Confines(
            user=user.pw_name if user else "",
            uid=user.pw_uid if user else 0,
            gid=user.pw_gid if user else 0,
            limits={name: limit for name, limit in limits.items() if limit},
        )
        #: What Python is asked to run as a worker. -P: the folder it starts in is the tasks', and root's code is not
        #: looked for there.
        self.module: tuple[str, ...] = ("-m", "outrider.worker")
        #: Variables that differ for that user.
        self.environment: dict[str, str] = {}
        if confines.user or confines.limits:
            self.module = ("-P", "-m", "outrider.worker.confined", msgspec.json.encode(confines).decode())
        if user is not None:
            self.environment = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
            _hand_over(state, user)
            for needed in (
                state.scratch,
                Path(working_directory),
                Path(sys.executable),
                Path(outrider.__file__).parent,
            ):
                _check_reach(needed, user)


def _user(name: str) -> pwd.struct_passwd:
    if os.geteuid() != 0:
        raise InvalidRequest(
            f"policy.user: only an agent that runs as root can run tasks as {name!r}; start it as root, or as that "
            "user and without this setting"
        )
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise InvalidRequest(f"policy.user: there is no user {name!r} on this machine") from None
    if user.pw_uid == 0:
        raise InvalidRequest("policy.user: root is whom tasks are to be kept from being; name another user")
    return user


def _hand_over(state: StateDirectory, user: pwd.struct_passwd) -> None:
    """Scratch space is the user's; the rest of the folder it can only pass through."""
    os.chown(state.scratch, user.pw_uid, user.pw_gid)
    state.path.chmod(0o711)


def _check_reach(needed: Path, user: pwd.struct_passwd) -> None:
    """Raise `InvalidRequest` naming the folder on the way to what workers need that the user cannot pass."""
    groups = set(os.getgrouplist(user.pw_name, user.pw_gid))
    for part in (*reversed(needed.resolve().parents), needed.resolve()):
        found = part.stat()
        if found.st_uid == user.pw_uid:
            bit = stat.S_IXUSR
        elif found.st_gid in groups:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not found.st_mode & bit:
            raise InvalidRequest(
                f"policy.user: {user.pw_name} cannot pass {part} on the way to {needed}; set agent.state_directory and "
                "agent.working_directory to folders that it can reach, and install Outrider where it can"
            )
