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

#: Columns that may be cut to this width on a terminal.
_ELASTIC, _ELASTIC_MIN = ("TITLE", "LABELS", "NOTE", "WAITS FOR", "OPTIONS", "LAST ERROR", "TASKS"), 10

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def is_live() -> bool:
    """Whether somebody looks at a terminal on which lines may be drawn again."""
    return err.is_terminal and not err.is_dumb_terminal


def clean(text: str) -> str:
    """Without control characters, which would break a line or do things to the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _lines(text: str) -> Text:
    return Text("\n".join(clean(part) for part in text.splitlines()))


def say(text: str) -> None:
    """A line for people, on standard error, so that standard output holds only what was asked for."""
    err.print(_lines(text))


def above(data: bytes) -> None:
    """A program's output above a line that is drawn again and again; its colours stay."""
    err.print(Text.from_ansi(data.decode(errors="replace")))


def line(text: str) -> None:
    """A line of the answer."""
    out.print(_lines(text))


def styled(word: str) -> Text:
    """A state or status in its colour."""
    return Text(word, style=_STYLES.get(word, ""))


def table(titles: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """A table: aligned on a terminal wide enough for it, elsewhere tab-separated with the same columns."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    natural = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    widths = _fit(titles, natural, out.width) if out.is_terminal else []
    if not widths:
        for row in (titles, *cells):
            print("\t".join(str(cell) for cell in row), flush=True)
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for title, width in zip(titles, widths, strict=True):
        drawn.add_column(title, no_wrap=True, overflow="ellipsis", width=width)
    for row in cells:
        drawn.add_row(*row)
    out.print(drawn, soft_wrap=False)


def _fit(titles: Sequence[str], natural: Sequence[int], room: int) -> list[int]:
    """Widths that fit, with elastic columns cut evenly; none when the others alone are too wide."""
    elastic = sorted((width, index) for index, width in enumerate(natural) if titles[index] in _ELASTIC)
    widths = list(natural)
    spare = room - 2 * (len(titles) - 1) - sum(natural) + sum(width for width, _ in elastic)
    for left, (width, index) in zip(range(len(elastic), 0, -1), elastic, strict=True):
        widths[index] = min(width, max(_ELASTIC_MIN, spare // left))
        spare -= widths[index]
    return widths if spare >= 0 else []


def _cell(cell: str | Text) -> Text:
    return Text(clean(str(cell)), style=cell.style if isinstance(cell, Text) else "")


def facts(pairs: Iterable[tuple[str, str | Text]]) -> None:
    """Names and values, one pair a line; empty values are left out."""
    shown = [(name, value) for name, value in pairs if str(value)]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        out.print(Text(f"{name:{width}}  ", style="bold").append(_cell(value)))


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


def when(stamp: Timestamp) -> str:
    """A time as clocks on this machine say it."""
    return time_of(stamp).strftime("%Y-%m-%d %H:%M:%S %Z")


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
