"""How commands speak: tables and colour on a terminal, plain lines in a pipe, one JSON object per line with --json."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

#: Digits of an id that people see: the time and a counter, unique within one coordinator.
SHORT_ID = 16
_STYLES = {
    "SUCCEEDED": "green",
    "FAILED": "red",
    "EXPIRED": "red",
    "SKIPPED": "yellow",
    "CANCELLED": "yellow",
    "RUNNING": "cyan",
    "BLOCKED": "magenta",
    "idle": "green",
    "running": "cyan",
    "failed": "red",
    "suspect": "red",
    "stopped": "red",
    "paused": "yellow",
    "draining": "yellow",
}

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def is_live() -> bool:
    """Whether somebody looks at a terminal on which lines may be drawn again."""
    return err.is_terminal and not err.is_dumb_terminal


def say(text: str) -> None:
    """A line for people, on standard error, so that standard output holds only what was asked for."""
    err.print(Text(text))


def line(text: str) -> None:
    """A line of the answer."""
    out.print(Text(text))


def styled(word: str) -> Text:
    """A state or status in its colour."""
    return Text(word, style=_STYLES.get(word, ""))


def table(titles: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """A table: aligned on a terminal, tab-separated with the same columns in a pipe."""
    rows = list(rows)
    if not out.is_terminal:
        for row in (titles, *rows):
            print("\t".join(str(cell) for cell in row))
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for title in titles:
        drawn.add_column(title, overflow="ellipsis" if title in ("TITLE", "LABELS", "NOTE") else "fold")
    for row in rows:
        drawn.add_row(*row)
    Console(highlight=False).print(drawn)


def facts(pairs: Iterable[tuple[str, str | Text]]) -> None:
    """Names and values, one pair a line; empty values are left out."""
    shown = [(name, value) for name, value in pairs if str(value)]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        out.print(Text(f"{name:{width}}  ", style="bold").append(Text(str(value)) if isinstance(value, str) else value))


def emit(message: Message) -> None:
    """One message as one line of JSON: names as in the protos, JSON payloads decoded into ``value``."""
    from google.protobuf.json_format import MessageToDict

    document = MessageToDict(message, preserving_proto_field_name=True)
    print(json.dumps(_decoded(document)), flush=True)


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if isinstance(value.get("data"), str) and value.keys() <= {"data", "content_type"}:
            return _payload(value)
        return {key: _decoded(part) for key, part in value.items()}
    return [_decoded(part) for part in value] if isinstance(value, list) else value


def _payload(payload: dict[str, str]) -> dict[str, Any]:
    import base64

    if payload.get("content_type", "application/json") == "application/json":
        try:
            return {"value": json.loads(base64.b64decode(payload["data"]))}
        except ValueError:
            return dict(payload)
    return dict(payload)


def short(full_id: str) -> str:
    """As much of an id as people need."""
    return full_id[:SHORT_ID]


def time_of(stamp: Timestamp) -> dt.datetime:
    """Local time."""
    return stamp.ToDatetime(tzinfo=dt.UTC).astimezone()


def age(stamp: Timestamp) -> str:
    """How long ago, such as ``3m``; empty for a time that is not set."""
    if not stamp.seconds:
        return ""
    return span((dt.datetime.now(dt.UTC) - stamp.ToDatetime(tzinfo=dt.UTC)).total_seconds())


def took(start: Timestamp, end: Timestamp) -> str:
    """From start to end, or to now while it has not ended."""
    if not start.seconds:
        return ""
    if not end.seconds:
        return age(start)
    return span((end.ToDatetime() - start.ToDatetime()).total_seconds())


def span(seconds: float) -> str:
    """A duration in two digits or so: ``0.3s``, ``12s``, ``3m 5s``, ``2h 5m``, ``4d``."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}m {seconds % 60:.0f}s"
    if seconds < 86400:
        return f"{seconds // 3600:.0f}h {seconds % 3600 // 60:.0f}m"
    return f"{seconds // 86400:.0f}d"


def raw(data: bytes, *, to_stderr: bool = False) -> None:
    """Bytes as they are."""
    stream = sys.stderr if to_stderr else sys.stdout
    stream.buffer.write(data)
    stream.flush()
