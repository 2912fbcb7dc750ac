"""Where a user's own files are, by the XDG Base Directory Specification."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["config_home"]


def config_home(environment: Mapping[str, str] | None = None) -> Path:
    """``$XDG_CONFIG_HOME``, else ``~/.config``; programs have folders of their own in it."""
    environment = os.environ if environment is None else environment
    given = environment.get("XDG_CONFIG_HOME")
    return Path(given) if given else Path(environment.get("HOME") or Path.home()) / ".config"
