"""What a start may forget is named field by field, and nothing is named that is not there."""

from __future__ import annotations

import dataclasses
import inspect

from outrider_coordinator.core import model, state
from outrider_coordinator.core.limits import book as limit_book
from outrider_coordinator.core.schedules import book as schedule_book
from sim.rebuild import VOLATILE


def test_what_may_be_forgotten_exists() -> None:
    """Each entry is a field of a class of the core's memory, and has a reason."""
    known = {
        (name, field.name)
        for module in (model, state, limit_book, schedule_book)
        for name, kind in inspect.getmembers(module, dataclasses.is_dataclass)
        for field in dataclasses.fields(kind)
    }
    assert VOLATILE.keys() <= known, VOLATILE.keys() - known
    assert all(VOLATILE.values())
