"""Takes the values of secrets out of everything that a worker passes on.

Owns the search and what stands in a value's place, ``[secret NAME]``. It must not know where values come from. Only
workers hold values while tasks run, so what has passed here can go anywhere: outbox, coordinator, traces, logs.

What is found: the value as it is, each of its lines, and both as JSON or Python's ``repr`` write them, because results
and messages of exceptions are written so. What is shorter than `VALUE_BYTES_MIN` cannot be told from other text and is
not looked for. Other encodings (base64, percent) are not looked for.

Invariant: no byte that belongs to an occurrence is passed on, also where occurrences overlap, and wherever the reads
that bring them are cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from outrider.worker.messages import FromWorker, LogOutput

#: Shorter values, and lines of values, are not looked for.
VALUE_BYTES_MIN = 8
_HEAD = VALUE_BYTES_MIN
_UNKNOWN = "\ufffd".encode()
#: Lines of keys and certificates that are no secret.
_ARMOUR = (b"-----BEGIN ", b"-----END ")


class Span(NamedTuple):
    """A stretch of bytes from ``start`` to before ``end`` that occurrences of these secrets cover."""

    start: int
    end: int
    names: tuple[str, ...]


class Redactor:
    """Knows the values of some secrets, by name; made once, used by any thread."""

    def __init__(self, values: Iterable[tuple[str, bytes]]) -> None:
        self._forms: dict[bytes, str] = {}
        for name, value in values:
            for form in forms(value):
                self._forms.setdefault(form, name)

    def stream(self) -> Stream:
        """For bytes that come in pieces."""
        return Stream(self)

    def of_bytes(self, data: bytes) -> bytes:
        """All of something without the values."""
        if not any(form in data for form in self._forms):
            return data
        stream = Stream(self)
        return stream.feed(data) + stream.end()

    def of_text(self, text: str) -> str:
        """All of a text without the values."""
        try:
            data, errors = text.encode("utf-8", "surrogateescape"), "surrogateescape"
        except UnicodeEncodeError:
            data, errors = text.encode("utf-8", "surrogatepass"), "surrogatepass"
        clean = self.of_bytes(data)
        return text if clean is data else clean.decode("utf-8", errors)

    def of_json(self, data: bytes) -> bytes:
        """JSON without the values, still JSON: a number that holds one becomes a text, and at worst all of it does."""
        try:
            value = msgspec.json.decode(data)
            clean = self._plain(value)
            data = data if clean == value else msgspec.json.encode(clean)
        except (ValueError, RecursionError):
            return self.of_bytes(data)
        left = self.of_bytes(data)
        return data if left is data else msgspec.json.encode(left.decode(errors="replace"))

    def of_message(self, message: FromWorker) -> FromWorker:
        """A message without the values, whatever its fields. Output has been through a `Stream` before."""
        if type(message) is LogOutput:
            return message
        changes: dict[str, Any] = {}
        for field in message.__struct_fields__:
            value = getattr(message, field)
            if field == "data" and _is_json(getattr(message, "content_type", "")):
                clean: Any = self.of_json(value) if value else value
            else:
                clean = self._plain(value, keeps_numbers=True)
            if clean != value:
                changes[field] = clean
        return msgspec.structs.replace(message, **changes) if changes else message

    def spans(self, data: bytes) -> list[Span]:
        """What occurrences cover, in order, those that overlap as one."""
        found: list[tuple[int, int, str]] = []
        for form, name in self._forms.items():
            at = data.find(form)
            while at >= 0:
                found.append((at, at + len(form), name))
                at = data.find(form, at + 1)
        return merged([Span(start, end, (name,)) for start, end, name in sorted(found)])

    def open_end(self, data: bytes) -> int:
        """Where the first occurrence may begin that is not whole yet; the length of the data when none does."""
        return min((_beginning(data, form) for form in self._forms), default=len(data))

    def _plain(self, value: Any, *, keeps_numbers: bool = False) -> Any:
        if isinstance(value, str):
            return self.of_text(value)
        if isinstance(value, bytes):
            return self.of_bytes(value)
        if isinstance(value, dict):
            parts = value.items()
            return {self._plain(key): self._plain(part, keeps_numbers=keeps_numbers) for key, part in parts}
        if isinstance(value, list | tuple):
            return [self._plain(part, keeps_numbers=keeps_numbers) for part in value]
        if keeps_numbers or not isinstance(value, int | float) or isinstance(value, bool):
            return value
        number = msgspec.json.encode(value)
        clean = self.of_bytes(number)
        return value if clean is number else clean.decode()


class Stream:
    """One stream without the values. What may be the beginning of one is kept back until the next piece, or the end."""

    __slots__ = ("_held", "_hidden", "_names", "_redactor")

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = b""
        #: So many bytes of what is held belong to an occurrence that has been told already, and of which secrets.
        self._hidden = 0
        self._names: tuple[str, ...] = ()

    def feed(self, data: bytes) -> bytes:
        """The next piece; what of all pieces so far can be passed on now."""
        data = self._held + data
        return self._pass_on(data, self._redactor.open_end(data))

    def end(self) -> bytes:
        """What was kept back: nothing follows any more."""
        return self._pass_on(self._held, len(self._held))

    def _pass_on(self, data: bytes, until: int) -> bytes:
        if until == 0:  # nothing may leave yet, and what is hidden of it stays so
            self._held = data
            return b""
        spans = self._redactor.spans(data)
        if self._hidden:
            spans = merged([Span(0, self._hidden, self._names), *spans])
        passed: list[bytes] = []
        position, names = 0, self._names if self._hidden else ()
        for span in spans:
            if span.start >= until:
                break
            passed.append(data[position : span.start])
            told = names if span.start == 0 else ()
            passed += [f"[secret {name}]".encode() for name in span.names if name not in told]
            position, names = span.end, span.names
        passed.append(data[position:until])
        self._held, self._hidden, self._names = data[until:], max(0, position - until), names
        return b"".join(passed)


def forms(value: bytes) -> Iterator[bytes]:
    """Everything that is looked for because of a value; nothing for one that is too short."""
    pieces = [value]
    if b"\n" in value:
        pieces += [line.strip() for line in value.split(b"\n") if not line.startswith(_ARMOUR)]
    for piece in pieces:
        if len(piece) >= VALUE_BYTES_MIN:
            yield from _written(piece)


def merged(spans: list[Span]) -> list[Span]:
    """Spans in order of their starts as spans that do not overlap."""
    found: list[Span] = []
    for span in spans:
        if found and span.start < found[-1].end:
            last = found[-1]
            names = (*last.names, *(name for name in span.names if name not in last.names))
            found[-1] = Span(last.start, max(last.end, span.end), names)
        else:
            found.append(span)
    return found


def _written(piece: bytes) -> Iterator[bytes]:
    """A value as it is, and as JSON and Python write it within a text."""
    text = piece.decode("utf-8", "surrogateescape")
    quoted = repr("\"'" + text)[4:-1]  # with both quotes in it, repr escapes the single ones
    yield piece
    yield text.encode("utf-8", "backslashreplace")
    yield json.dumps(text)[1:-1].encode()
    yield json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape")
    yield quoted.encode("utf-8", "backslashreplace")
    yield quoted.replace("\\'", "'").encode("utf-8", "backslashreplace")
    yield repr(b"\"'" + piece)[5:-1].encode()
    # Where something cannot be written, Python puts these in its place; what is left must be enough to know it by.
    for lossy, mark in ((text.encode("utf-8", "replace"), b"?"), (piece.decode("utf-8", "replace").encode(), _UNKNOWN)):
        if len(lossy.replace(mark, b"")) >= VALUE_BYTES_MIN:
            yield lossy


def _beginning(data: bytes, form: bytes) -> int:
    """Where the longest end of the data begins that a form begins with."""
    size = len(data)
    at = data.find(form[:_HEAD], max(0, size - len(form) + 1))
    while at >= 0:
        if data.endswith(form[: size - at]):
            return at
        at = data.find(form[:_HEAD], at + 1)
    lengths = range(min(_HEAD - 1, len(form) - 1, size), 0, -1)
    return next((size - length for length in lengths if data.endswith(form[:length])), size)


def _is_json(content_type: str) -> bool:
    return content_type == "application/json" or content_type.endswith("+json")
