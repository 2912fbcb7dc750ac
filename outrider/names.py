"""How agents and secrets are called, on every side of the wire."""

from __future__ import annotations

import re

__all__ = ["RULE", "is_name"]

#: For whoever chose another one.
RULE = "1 to 63 of a-z, 0-9, '.', '_' and '-', a letter or digit first"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def is_name(text: str) -> bool:
    """Whether an agent or a secret can be called so."""
    return _NAME.fullmatch(text) is not None
