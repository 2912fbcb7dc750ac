"""What is remembered about the silence of many agents at once; `liveness` decides over it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Watch:
    """``silent`` are (time, agent id) of those that went out of contact lately; at ``look_at`` of them it is asked how
    much of the fleet that is, of which ``online_count`` are there. Times are 0 until there was one.
    """

    silent: deque[tuple[int, str]] = field(default_factory=deque)
    is_alarmed: bool = False
    alarm_until_us: int = 0
    next_alarm_us: int = 0
    paused_us: int = 0
    held_count: int = 0
    look_at: int = 3
    online_count: int = 0
