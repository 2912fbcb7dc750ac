"""On whose behalf tasks are submitted, for shares that are fair, and what says with whose key they are signed."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping

SUBMITTER_ENVIRONMENT, SIGNING_KEY_ENVIRONMENT = "OUTRIDER_SUBMITTER", "OUTRIDER_SIGNING_KEY"


def submitter(given: str | None = None, environ: Mapping[str, str] = os.environ) -> str:
    """``given``, else ``$OUTRIDER_SUBMITTER``, else the name of the user; empty when the system does not know it."""
    if given is not None:
        return given
    try:
        return environ.get(SUBMITTER_ENVIRONMENT) or getpass.getuser()[:128]
    except (KeyError, OSError):
        return ""
