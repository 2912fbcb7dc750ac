"""Records as a step writes them: examples with a value of its own in every field, and strategies that draw them."""

from __future__ import annotations

import typing
from typing import Any, TypeVar

from hypothesis import strategies as st

from outrider_coordinator.core.records import InsertTask

Record = TypeVar("Record")

INTEGERS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

_STRATEGIES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: INTEGERS,
    bytes: st.binary(max_size=20),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    dict[str, str]: st.dictionaries(TEXTS, TEXTS, max_size=3),
    dict[str, float]: st.dictionaries(TEXTS, st.floats(0, 2**40), max_size=3),
    tuple[str, ...]: st.lists(TEXTS, max_size=3).map(tuple),
    tuple[int, ...]: st.lists(INTEGERS, max_size=3).map(tuple),
    tuple[float, ...]: st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3).map(tuple),
    tuple[tuple[str, int], ...]: st.lists(st.tuples(TEXTS, INTEGERS), max_size=3).map(tuple),
}


def drawn(record: type[Record], **fields: Any) -> st.SearchStrategy[Record]:
    """Records with these fields (values or strategies) and anything in the others."""
    hints = typing.get_type_hints(record)
    given = {name: part if isinstance(part, st.SearchStrategy) else st.just(part) for name, part in fields.items()}
    return st.builds(record, **{name: given.get(name, _STRATEGIES[hint]) for name, hint in hints.items()})


def example(record: type[Record], **fields: Any) -> Record:
    """A record with these fields and in every other one a value that no field beside it has."""
    hints = typing.get_type_hints(record)
    return record(**{name: _value(name, hint, at) for at, (name, hint) in enumerate(hints.items())} | fields)


def task(task_id: str, **fields: Any) -> InsertTask:
    """A task of the default namespace that belongs to nobody and is PENDING."""
    plain = {"namespace": "default", "run_id": "", "client_id": "", "request_id": "", "state": 1}
    return example(InsertTask, id=task_id, **{**plain, **fields})


def _value(name: str, hint: Any, at: int) -> Any:
    values: dict[Any, Any] = {
        str: name,
        int: at,
        bytes: name.encode(),
        bool: at % 2 == 0,
        float: at + 0.5,
        dict[str, str]: {name: "value"},
        dict[str, float]: {name: at / 2},
        tuple[str, ...]: (name, "second"),
        tuple[int, ...]: (at, at + 1),
        tuple[float, ...]: (at + 0.5, at / 4),
        tuple[tuple[str, int], ...]: ((name, at), ("second", at + 1)),
    }
    return values[hint]
