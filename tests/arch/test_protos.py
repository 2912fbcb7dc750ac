"""The style of the wire contract: comments that say something, names, numbers that never change their meaning."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from support.source_tree import ROOT

#: Words that say nothing by themselves.
EMPTY_WORDS = "a an and are as at be by for from has in is it its of on or that the this to was what which with"

# Field numbers of descriptor.proto, as they stand in SourceCodeInfo paths.
FILE_MESSAGE, FILE_ENUM, FILE_SERVICE = 4, 5, 6
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM, MESSAGE_ONEOF = 2, 3, 4, 8
ENUM_VALUE, SERVICE_METHOD = 2, 2


@dataclass(frozen=True)
class Part:
    """One commented thing of a proto file: its path in the file, its name and its descriptor."""

    path: tuple[int, ...]
    name: str
    descriptor: Any
    kind: str


def _recorder() -> Any:
    spec = importlib.util.spec_from_file_location("record_numbers", ROOT / "protos/record_numbers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECORDER = _recorder()


@cache
def files() -> tuple[FileDescriptorProto, ...]:
    """Every proto file of ours, compiled with its comments."""
    return tuple(RECORDER.descriptors().file)


def test_every_part_has_a_comment_that_says_more_than_its_name() -> None:
    """Every message, field, oneof, enum, value, service and call is explained in words its name does not have."""
    wrong = []
    for file in files():
        comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        for part in _parts(file):
            comment = comments.get(part.path, "")
            if not _words(comment) - _words(part.name) - _words(EMPTY_WORDS):
                wrong.append(f"{file.name}: {part.kind} {part.name}: {comment.strip() or 'no comment'!r}")
    assert not wrong, f"{len(wrong)} comments:\n" + "\n".join(wrong)


def test_enums_are_prefixed_and_begin_unspecified() -> None:
    """Value 0 is <ENUM>_UNSPECIFIED and every value begins with the enum's name."""
    for file in files():
        for part in _parts(file):
            if part.kind != "enum":
                continue
            prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", part.descriptor.name).upper() + "_"
            values = list(part.descriptor.value)
            assert (values[0].number, values[0].name) == (0, prefix + "UNSPECIFIED"), part.name
            assert all(value.name.startswith(prefix) for value in values), part.name


def test_every_call_has_messages_of_its_own() -> None:
    """A call <Name> takes <Name>Request and returns <Name>Response, and no other call does."""
    seen: set[str] = set()
    for file in files():
        for service in file.service:
            for method in service.method:
                types = [method.input_type.rpartition(".")[2], method.output_type.rpartition(".")[2]]
                assert types == [f"{method.name}Request", f"{method.name}Response"], f"{service.name}.{method.name}"
                assert not seen & set(types), f"{service.name}.{method.name}"
                seen.update(types)


def test_package_is_directory_and_a_file_has_one_service() -> None:
    """The folder names the package, and a service lives alone in a file named after it."""
    for file in files():
        assert file.package.replace(".", "/") == file.name.rpartition("/")[0]
        assert len(file.service) <= 1, file.name
        for service in file.service:
            expected = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", service.name).lower() + ".proto"
            assert file.name.rpartition("/")[2] == expected


def test_fields_are_named_for_their_kind() -> None:
    """Field names are lower_snake_case; timestamps end in _time or _before and durations say that they are one."""
    endings = {".google.protobuf.Timestamp": ("_time", "_before"), ".google.protobuf.Duration": DURATION_ENDINGS}
    wrong = []
    for file in files():
        for part in _parts(file):
            if part.kind == "field":
                expected = endings.get(part.descriptor.type_name, ("",))
                good = re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", part.descriptor.name)
                if not good or not part.descriptor.name.endswith(expected):
                    wrong.append(part.name)
    assert not wrong, wrong


DURATION_ENDINGS = ("_duration", "_interval", "_age", "timeout", "_delay", "backoff", "grace", "lease", "_time", "eta")


def test_no_number_ever_changes_its_meaning() -> None:
    """A number once used keeps its name, or is reserved by number and name; the record is up to date."""
    recorded, current = RECORDER.recorded(), RECORDER.numbers(files_set())
    assert current <= recorded, "run `make proto`: not recorded yet: " + ", ".join(map(str, sorted(current - recorded)))
    reserved = {name: part for file in files() for name, part in _reserved(file)}
    for owner, number, name in sorted(recorded - current):
        numbers, names = reserved.get(owner, (frozenset(), frozenset()))
        owners = {entry[0] for entry in current}
        assert owner not in owners or (number in numbers and name in names), f"{owner}: reserve {number} and {name!r}"


def files_set() -> Any:
    """The compiled files as the recorder takes them."""
    return type("Compiled", (), {"file": files()})


def _reserved(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[frozenset[int], frozenset[str]]]]:
    for part in _parts(file):
        if part.kind in {"message", "enum"}:
            last = 1 if part.kind == "enum" else 0  # enum ranges include their end
            spans = (range(span.start, span.end + last) for span in part.descriptor.reserved_range)
            numbers = frozenset(number for span in spans for number in span)
            yield f"{file.package}.{part.name}", (numbers, frozenset(part.descriptor.reserved_name))


def _parts(file: FileDescriptorProto) -> Iterator[Part]:
    for index, message in enumerate(file.message_type):
        yield from _message_parts(message, (FILE_MESSAGE, index), "")
    for index, enum in enumerate(file.enum_type):
        yield from _enum_parts(enum, (FILE_ENUM, index), "")
    for index, service in enumerate(file.service):
        path = (FILE_SERVICE, index)
        yield Part(path, service.name, service, "service")
        for number, method in enumerate(service.method):
            yield Part((*path, SERVICE_METHOD, number), f"{service.name}.{method.name}", method, "call")


def _message_parts(message: Any, path: tuple[int, ...], scope: str) -> Iterator[Part]:
    if message.options.map_entry:
        return
    name = scope + message.name
    yield Part(path, name, message, "message")
    for index, field in enumerate(message.field):
        yield Part((*path, MESSAGE_FIELD, index), f"{name}.{field.name}", field, "field")
    for index, oneof in enumerate(message.oneof_decl):
        if not oneof.name.startswith("_"):  # a proto3 `optional` makes one of its own
            yield Part((*path, MESSAGE_ONEOF, index), f"{name}.{oneof.name}", oneof, "oneof")
    for index, nested in enumerate(message.nested_type):
        yield from _message_parts(nested, (*path, MESSAGE_NESTED, index), name + ".")
    for index, enum in enumerate(message.enum_type):
        yield from _enum_parts(enum, (*path, MESSAGE_ENUM, index), name + ".")


def _enum_parts(enum: Any, path: tuple[int, ...], scope: str) -> Iterator[Part]:
    name = scope + enum.name
    yield Part(path, name, enum, "enum")
    for index, value in enumerate(enum.value):
        yield Part((*path, ENUM_VALUE, index), f"{name}.{value.name}", value, "value")


def _words(text: str) -> set[str]:
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return set(re.findall(r"[a-z0-9]+", separated.lower()))
