"""Start of a worker that is confined: ``python -P -m outrider.worker.confined CONFINES --fd N --running-fd M``.

Gives up everything that the agent's policy takes from tasks, then becomes an ordinary worker by exec, so that nothing
of this process is left in it. While it is root it imports nothing from the folder that tasks run in. Invariant: it
never goes on when something could not be given up.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

import msgspec

_PR_SET_NO_NEW_PRIVS = 38


class Confines(msgspec.Struct, frozen=True):
    """Who to become, nobody else when ``user`` is empty, and the limits of the kernel by name."""

    user: str = ""
    uid: int = 0
    gid: int = 0
    limits: dict[str, int] = {}


def confine(confines: Confines) -> None:
    """Set the limits, then give up being root for good. Raises `OSError` when the kernel does not let it."""
    for name, limit in confines.limits.items():
        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(number, (most, most))
    if not confines.user:
        return
    os.initgroups(confines.user, confines.gid)
    os.setresgid(confines.gid, confines.gid, confines.gid)
    os.setresuid(confines.uid, confines.uid, confines.uid)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot give up gaining privileges")


def main(arguments: list[str]) -> None:
    """Confine this process, then run the worker in it."""
    try:
        confine(msgspec.json.decode(arguments[0], type=Confines))
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        sys.exit(f"a worker cannot be confined as the agent's policy says: {error}")
    os.execv(sys.executable, [sys.executable, "-m", "outrider.worker", *arguments[1:]])


if __name__ == "__main__":
    main(sys.argv[1:])
