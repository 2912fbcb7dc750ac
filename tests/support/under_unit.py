"""Runs a program under what a unit file says, as far as that works without systemd as the init process.

    python tests/support/under_unit.py systemd/outrider-agent.service -- node -e 1

Replayed by libseccomp (which systemd itself needs): NoNewPrivileges, SystemCallFilter with its groups expanded by
systemd-analyze, SystemCallErrorNumber, and MemoryDenyWriteExecute. Enough to see whether a program can live there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
PR_SET_NO_NEW_PRIVS = 38
PROT_EXEC = 4
PROT_WRITE_EXEC = 6
MASKED_EQUAL = 7


class Comparison(ctypes.Structure):
    """libseccomp's scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def settings(unit: Path) -> list[tuple[str, str]]:
    """Every assignment of the unit, in order."""
    lines = (line for line in unit.read_text().splitlines() if "=" in line and not line.startswith(("#", ";")))
    return [(name.strip(), value.strip()) for name, _, value in (line.partition("=") for line in lines)]


def expanded(names: Iterable[str]) -> set[str]:
    """System calls behind these names, groups (``@mount``) resolved to the bottom."""
    calls: set[str] = set()
    for name in names:
        calls |= expanded(_group(name)) if name.startswith("@") else {name}
    return calls


def _group(name: str) -> list[str]:
    command = ["systemd-analyze", "syscall-filter", "--no-pager", name]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line.strip() for line in listed.splitlines()[1:]]
    return [line for line in lines if line and not line.startswith("#")]


def allowed_calls(assignments: list[tuple[str, str]]) -> set[str]:
    """What the unit's SystemCallFilter lines leave; empty when it has none."""
    calls: set[str] = set()
    for name, value in assignments:
        if name == "SystemCallFilter":
            listed = expanded(value.removeprefix("~").split())
            calls = calls - listed if value.startswith("~") else calls | listed
    return calls


def confine(assignments: list[tuple[str, str]]) -> None:
    """Put this process, and what it will execute, under the settings. There is no way back."""
    values = dict(assignments)
    number = getattr(errno, values.get("SystemCallErrorNumber", "EPERM"))
    calls = allowed_calls(assignments)
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(ERRNO | number if calls else ALLOW)))
    deny_write_execute = values.get("MemoryDenyWriteExecute") == "yes"
    guarded = {"mmap", "mprotect", "pkey_mprotect"} if deny_write_execute else set()
    for call in sorted(calls - guarded):
        library.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), _resolve(library, call), 0, None)
    if deny_write_execute:
        _forbid(library, context, "mmap", PROT_WRITE_EXEC, bool(calls))
        _forbid(library, context, "mprotect", PROT_EXEC, bool(calls))
    if values.get("NoNewPrivileges") == "yes" and ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if failed := library.seccomp_load(context):
        raise OSError(-failed, "cannot load the system call filter")


def _resolve(library: ctypes.CDLL, call: str) -> int:
    return int(library.seccomp_syscall_resolve_name(call.encode()))


def _forbid(library: ctypes.CDLL, context: ctypes.c_void_p, call: str, bits: int, is_allow_list: bool) -> None:
    """Refuse ``call`` when all of ``bits`` are set in its third argument, the protection."""
    number = _resolve(library, call)
    if not is_allow_list:
        comparison = Comparison(2, MASKED_EQUAL, bits, bits)
        library.seccomp_rule_add_array(
            context, ctypes.c_uint32(ERRNO | errno.EPERM), number, 1, ctypes.byref(comparison)
        )
        return
    for bit in (1 << shift for shift in range(bits.bit_length()) if bits & 1 << shift):
        comparison = Comparison(2, MASKED_EQUAL, bit, 0)
        library.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, 1, ctypes.byref(comparison))


if __name__ == "__main__":
    unit, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        sys.exit(f"usage: {sys.argv[0]} UNIT -- COMMAND...")
    confine(settings(Path(unit)))
    os.execvp(command[0], command)
