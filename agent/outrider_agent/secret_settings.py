"""The tables ``[agent.secrets.NAME]``: where each secret comes from, and for what work it is.

Owns their form. It must not read any secret. Of all this only the names and for what work they are leave the machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from outrider.errors import InvalidRequest
from outrider.names import RULE, is_name
from outrider.settings import setting

#: Secrets of one agent, and words that say for what work one is.
SECRETS_MAX, WORDS_MAX = 1000, 1000
SOURCES = ("file", "environment", "credential", "command")


class SecretSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One secret: exactly one source."""

    file: Annotated[str, setting("Source: an absolute path. One newline at the end is no part of the value.")] = ""
    environment: Annotated[
        str, setting("Source: a variable of the agent's own environment, which tasks then do not inherit.")
    ] = ""
    credential: Annotated[
        str, setting("Source: a credential of the agent's systemd unit, LoadCredential= or LoadCredentialEncrypted=.")
    ] = ""
    command: Annotated[
        list[str],
        setting("Source: a program by its absolute path, and its arguments; what it prints, less one newline."),
    ] = []
    timeout_s: Annotated[
        float, setting("How long its command or file may take; the task waits meanwhile.", unit="s", ge=0.1, le=300)
    ] = 10.0
    namespaces: Annotated[list[str], setting("Namespaces whose tasks may have it; empty: all.")] = []
    work: Annotated[
        list[str],
        setting("Functions (`module:name`) and programs (first word of the command) that may have it; empty: all."),
    ] = []
    redact: Annotated[
        bool,
        setting("Keep it out of output, results and messages; a value shorter than 8 bytes can only be used without."),
    ] = True

    def is_for(self, namespace: str, work: str) -> bool:
        """Whether a task of this namespace that runs this function or program may have it."""
        return (not self.namespaces or namespace in self.namespaces) and (not self.work or self._names(work))

    def _names(self, work: str) -> bool:
        """Whether it is named: as it is, or as the program that the agent's policy has found under a name."""
        return work in self.work or any(shutil.which(name) == work for name in self.work)


def check(secrets: Mapping[str, SecretSettings]) -> None:
    """Raise `InvalidRequest` that names the first secret whose table makes no sense."""
    if len(secrets) > SECRETS_MAX:
        raise InvalidRequest(f"agent.secrets: {len(secrets)} secrets; at most {SECRETS_MAX}")
    for name, secret in secrets.items():
        fault = _fault(name, secret)
        if fault:
            raise InvalidRequest(f"agent.secrets.{name}: {fault}")


def _fault(name: str, secret: SecretSettings) -> str:
    if not is_name(name):
        return f"a name is {RULE}"
    given = [source for source in SOURCES if getattr(secret, source)]
    if len(given) != 1:
        return f"give one of {', '.join(SOURCES)}" + (f", not {' and '.join(given)}" if given else "")
    if secret.file and not Path(secret.file).is_absolute():
        return "file must be an absolute path"
    if secret.command and not Path(secret.command[0]).is_absolute():
        return "command must begin with the absolute path of a program"
    if "/" in secret.credential or secret.credential in (".", ".."):
        return "credential is a name, not a path"
    if (len(secret.namespaces) or 1) * (len(secret.work) or 1) > WORDS_MAX:
        return f"namespaces times work must be at most {WORDS_MAX}"
    return ""
