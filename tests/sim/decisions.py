"""Settings of the coordinator's decisions, drawn for a plan."""

from __future__ import annotations

import random
from typing import Any

S = 1_000_000


def draw(dice: random.Random, features: tuple[str, ...]) -> dict[str, Any]:
    """Times of the decisions, mostly shorter than in life so that they come to pass."""
    settings: dict[str, Any] = {
        "startup_hold_us": dice.choice((3, 10, 25)) * S,
        "lost_after_us": dice.choice((15, 40, 300)) * S,
        "breaker_failures": dice.choice((2, 3, 5)),
        "breaker_reset_us": dice.choice((2, 5)) * S,
        "breaker_reset_max_us": 10 * S,
        "half_open_tests": dice.choice((1, 2)),
    }
    if "small_queue" in features:
        settings["queue_depth_max"] = dice.randrange(8, 30)
    if "submitters" in features:
        settings["submitter_open_max"] = dice.choice((6, 15, 1_000_000))
    if "small_index" in features:
        settings["request_ids_max"] = dice.randrange(2, 20)
    if "caps" in features:
        settings["running_max"] = dice.choice((0, 2, 3))
        settings["type_running_max"] = {"one": dice.choice((1, 2))}
    if "few_retries" in features:
        settings["retry_floor"] = dice.choice((1, 5))
    return settings
