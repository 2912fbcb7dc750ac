"""What `outrider doctor` finds about an agent's secrets: references that lead nowhere, and files open to others.

Looks at names, files and modes, never at a value; no program is run.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from outrider.cli.findings import Finding, Mark

if TYPE_CHECKING:
    from outrider_agent.secret_settings import SecretSettings

#: Nobody but the agent needs to read a secret, or to write what is run to make one.
_OTHERS, _OTHERS_WRITE = 0o077, 0o022


def secret_findings(secrets: Mapping[str, SecretSettings], environment: Mapping[str, str]) -> Iterator[Finding]:
    """One finding for each secret with something wrong, and one for all that are fine."""
    fine = []
    for name, secret in sorted(secrets.items()):
        found = list(_about(f"secret {name}", secret, environment))
        yield from found
        if not found:
            fine.append(name)
    if fine:
        yield Finding(Mark.FINE, "secrets", f"{', '.join(fine)}: can be found, and only by this user")


def _about(name: str, secret: SecretSettings, environment: Mapping[str, str]) -> Iterator[Finding]:
    if secret.file:
        yield from _file(name, Path(secret.file))
    elif secret.command:
        yield from _program(name, Path(secret.command[0]))
    elif secret.environment and secret.environment not in environment:
        text = f"there is no variable {secret.environment} here; what counts is the agent's own environment"
        yield Finding(
            Mark.WARNING, name, text, "set it where the agent is started, such as EnvironmentFile= of its unit"
        )
    elif secret.credential:
        yield from _credential(name, secret.credential, environment.get("CREDENTIALS_DIRECTORY", ""))
    if not secret.redact:
        text = "it is not kept out of output, results and messages (redact = false)"
        yield Finding(Mark.WARNING, name, text, "leave redact out, unless it is too short or no secret at all")


def _file(name: str, path: Path) -> Iterator[Finding]:
    remedy = f"write it, as the agent's user: (umask 077; cat > {path})"
    try:
        found = path.stat()
    except OSError as error:
        yield Finding(Mark.WRONG, name, f"{path} cannot be found: {error.strerror}", remedy)
        return
    if not stat.S_ISREG(found.st_mode):
        yield Finding(Mark.WRONG, name, f"{path} is no regular file", remedy)
    elif not os.access(path, os.R_OK):
        yield Finding(
            Mark.WRONG, name, f"{path} cannot be read by this user", "run this as the agent's user, or chown it"
        )
    elif found.st_mode & _OTHERS:
        text = f"{path} is open to others ({stat.filemode(found.st_mode)})"
        yield Finding(Mark.WRONG, name, text, f"chmod 600 {path}, and change the secret if others log in here")
    yield from _folder(name, path)


def _program(name: str, path: Path) -> Iterator[Finding]:
    if not os.access(path, os.X_OK) or not path.is_file():
        yield Finding(Mark.WRONG, name, f"{path} is no program that this user can run", "name one by its absolute path")
    elif path.stat().st_mode & _OTHERS_WRITE:
        yield Finding(Mark.WRONG, name, f"others can write {path}, and so run commands", f"chmod go-w {path}")
    yield from _folder(name, path)


def _folder(name: str, path: Path) -> Iterator[Finding]:
    """A folder that others can write: they can put something else in the file's place."""
    try:
        mode = path.parent.stat().st_mode
    except OSError:
        return
    if mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
        text = f"others can write {path.parent}, and so put another file in the place of {path.name}"
        yield Finding(Mark.WRONG, name, text, f"chmod go-w {path.parent}")


def _credential(name: str, credential: str, folder: str) -> Iterator[Finding]:
    if not folder:
        text = f"whether systemd gives the agent the credential {credential} can be seen in its unit only"
        yield Finding(Mark.WARNING, name, text, f"systemctl show --property=LoadCredential UNIT names {credential}")
    elif not os.access(Path(folder) / credential, os.R_OK):
        text = f"there is no credential {credential} in {folder}"
        yield Finding(Mark.WRONG, name, text, f"LoadCredential={credential}:PATH in the unit")
