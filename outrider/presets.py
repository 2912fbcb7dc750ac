"""Settings that go together, under a name: where a file or flag says nothing, a preset does.

``development`` notices everything quickly and stops quickly; ``production`` gives work time to end and logs for
machines; ``constrained`` is for small machines: little memory, few processes, a slow disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outrider.errors import InvalidRequest

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "development": {
        "coordinator": {"heartbeat_interval_s": 0.5, "suspect_after_s": 2.0, "startup_hold_s": 5.0},
        "agent": {"drain_timeout_s": 5.0, "kill_grace_s": 2.0},
    },
    "production": {
        "coordinator": {"drain_timeout_s": 10.0},
        "agent": {"drain_timeout_s": 300.0, "kill_grace_s": 30.0, "log_format": "json"},
    },
    "constrained": {
        "coordinator": {"heartbeat_interval_s": 5.0, "suspect_after_s": 20.0, "queue_depth_max": 20_000},
        "agent": {
            "slots": 1,
            "parked_max": 4,
            "prefetch_credit": 16,
            "worker_idle_s": 10.0,
            "outbox_bytes_max": 64 << 20,
            "outbox_memory_bytes": 1 << 20,
        },
    },
}


def preset(name: str | None, section: str) -> Mapping[str, Any]:
    """Settings of one section under a preset; none without a name. Raises `InvalidRequest` for an unknown one."""
    if not name:
        return {}
    if name not in PRESETS:
        raise InvalidRequest(f"no preset {name!r}; use one of {', '.join(PRESETS)}")
    return PRESETS[name][section]
