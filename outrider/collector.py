"""Python's cycle collector, set for daemons: they make many small objects, few of them in cycles, and keep many.

With the interpreter's defaults a daemon that holds ten thousand tasks spends a sixth of its time looking for cycles
among them (perf, 20,000 no-op tasks at once).
"""

from __future__ import annotations

import gc

__all__ = ["calm"]

#: Net new containers before a look at the youngest, and how many such looks before one at the older ones.
THRESHOLDS = (200_000, 20, 100)


def calm() -> None:
    """Leave what has been loaded so far out of every later look, and look less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
