"""Waits between tries of a connection: full jitter, so that a thousand clients do not come back at once."""

from __future__ import annotations

import asyncio
import random

from outrider import errors

FIRST_S, CAP_S = 0.05, 2.0
#: What another try with the same bytes cannot mend.
FINAL = (
    errors.InvalidRequest,
    errors.NotFound,
    errors.PermissionDenied,
    errors.RequestIdReused,
    errors.TooLarge,
    errors.Unauthenticated,
)


class Backoff:
    """Grows with every try, up to `CAP_S`; `reset` after a success."""

    def __init__(self) -> None:
        self._bound_s = FIRST_S

    def reset(self) -> None:
        """The last try worked."""
        self._bound_s = FIRST_S

    async def wait(self, at_least_s: float = 0.0) -> None:
        """Let some time pass before the next try."""
        delay_s = max(at_least_s, random.uniform(0.0, self._bound_s))
        self._bound_s = min(CAP_S, self._bound_s * 2)
        await asyncio.sleep(delay_s)
