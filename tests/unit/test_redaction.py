"""Values of secrets are found however they come: in pieces, in JSON, in tracebacks, over and beside each other."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from outrider.worker.messages import AnswerGiven, Blocked, Completed, Failed, LogOutput, Progress, Recalled, Span
from outrider.worker.redaction import VALUE_BYTES_MIN, Redactor, forms

TOKEN = b"ghp_0123456789abcdef"
KEY = b"-----BEGIN KEY-----\r\nMIIBVQIBADANBgkq\nhkiG9w0BAQEFAASC\nQQ==\n-----END KEY-----"


def in_pieces(redactor: Redactor, pieces: list[bytes]) -> bytes:
    """What comes out when a stream comes in these pieces."""
    stream = redactor.stream()
    return b"".join([*map(stream.feed, pieces), stream.end()])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The data cut at these places."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


SIGNS = b"ab'\0\xff"
pieces = st.lists(st.sampled_from(SIGNS), max_size=12).map(bytes)
values = st.lists(
    st.lists(st.sampled_from(SIGNS), min_size=VALUE_BYTES_MIN, max_size=16).map(bytes), min_size=1, max_size=3
)


def uncovered(data: bytes, secrets: list[bytes]) -> bytes:
    """The bytes that belong to no occurrence of any value: looked for at every place, one by one."""
    covered = {
        at + offset
        for value in secrets
        for at in range(len(data))
        if data.startswith(value, at)
        for offset in range(len(value))
    }
    return bytes(byte for at, byte in enumerate(data) if at not in covered)


@given(values, st.lists(st.one_of(st.integers(0, 2), pieces), max_size=12), st.lists(st.integers(0)))
@example([b"aaaaaaaa"], [b"aaaaaaaaaaaaaaaaaaaa", 0, b"aaa"], list(range(40)))
@example([b"aaaaaaaab", b"abcdefgh"], [b"aaaaaaaabcdefgh"], list(range(20)))
@example([b"\0\0\0\1\0\0\0\0\1"], [0, b"\0"], [9])
@example([b"abababab", b"babababac"], [b"ababababa", b"babababa"], list(range(1, 20)))
@example([b"abcdefghijklmnop", b"cdefghij"], [b"xabcdefghijklmnopx"], [11, 14])
@example([b"abcdefghijklmnop", b"cdefghij"], [b"xabcdefghijklx"], [11, 12])
@example([b"abcdefgh", b"efghabcd"], [b"abcdefghabcdefghabc"], [5, 9, 13])
def test_no_value_leaks_however_a_stream_is_cut(
    secrets: list[bytes], text: list[int | bytes], places: list[int]
) -> None:
    """No byte of any occurrence is passed on and every other one is, whatever overlaps; cuts change nothing at all."""
    data = b"".join(secrets[part % len(secrets)] if isinstance(part, int) else part for part in text)
    redactor = Redactor((f"s{number}", value) for number, value in enumerate(secrets))
    passed = in_pieces(redactor, cut(data, places))
    assert re.sub(rb"\[secret s\d\]", b"", passed) == uncovered(data, secrets)
    assert passed == redactor.of_bytes(data)


@given(st.binary(max_size=200), st.lists(st.integers(0)))
def test_what_has_no_value_passes_unchanged(data: bytes, places: list[int]) -> None:
    """Byte for byte, though some of it is kept back for a while."""
    redactor = Redactor([("s", b"\xff\xfe" * 300)])
    assert in_pieces(redactor, cut(data, places)) == data


def test_only_the_beginning_of_a_value_is_kept_back() -> None:
    """Everything else is passed on with its piece; the end brings the rest."""
    stream = Redactor([("token", TOKEN)]).stream()
    assert stream.feed(b"using ghp_01") == b"using "
    assert stream.feed(b"not it") == b"ghp_01not it"
    assert stream.feed(TOKEN[:7]) == b""
    assert stream.feed(TOKEN[7:]) == b"[secret token]"
    assert stream.feed(b"gh") == b""
    assert stream.end() == b"gh"
    assert stream.end() == b""


def test_a_value_that_goes_on_in_another_is_hidden_whole() -> None:
    """Of what overlaps nothing is left over, and each secret is named once."""
    redactor = Redactor([("a", b"abcdefgh"), ("b", b"efghijklmnop")])
    assert redactor.of_bytes(b"<abcdefghijklmnop>") == b"<[secret a][secret b]>"
    assert in_pieces(redactor, [b"<abcdefghij", b"klm", b"nop>"]) == b"<[secret a][secret b]>"
    assert Redactor([("a", b"xyxyxyxyx")]).of_bytes(b"-xyxyxyxyxyxyxyxyxyxyx-") == b"-[secret a]-"


def test_a_long_value_costs_no_more_than_its_length() -> None:
    """Of a stream that always seems to begin a value no more than one value is kept back."""
    value = b"a" * 5000 + b"b"
    stream = Redactor([("s", value)]).stream()
    passed = sum(len(stream.feed(b"a" * 1000)) for _ in range(50))
    assert passed >= 50_000 - len(value)
    assert (stream.feed(b"b") + stream.end()).endswith(b"[secret s]")


def test_each_line_of_a_value_is_found_alone() -> None:
    """Lines that are long enough, whatever ends them; frames of keys are no secrets."""
    redactor = Redactor([("key", KEY)])
    assert redactor.of_bytes(KEY) == b"[secret key]"
    assert redactor.of_bytes(b"1: hkiG9w0BAQEFAASC;") == b"1: [secret key];"
    assert redactor.of_text("QQ==\n-----BEGIN KEY-----") == "QQ==\n-----BEGIN KEY-----"
    assert redactor.of_bytes(KEY.replace(b"\r\n", b"\n").replace(b"\n", b"\n> ")).count(b"[secret key]") == 2


@pytest.mark.parametrize(
    "value", ["pass\"wo\\rd'1", "zwölf Lieder\n", "tab\there\nline two here", "nul\0nul\0", "it's it's", "12345678"]
)
def test_a_value_is_found_as_json_and_repr_write_it(value: str) -> None:
    """So are results and messages of exceptions written."""
    redactor = Redactor([("s", value.encode())])
    for written in (
        json.dumps({"key": value}),
        json.dumps([value], ensure_ascii=False),
        json.dumps(json.loads(json.dumps({"a": [f"<{value}>"]}))),
        repr(f"bad {value}"),
        repr({"x": f'"{value}'}),
        repr(f"b'{value}\""),
        repr(value.encode()),
        repr(b"\"'" + value.encode()),
        f"<{value}>",
    ):
        assert "[secret s]" in redactor.of_text(written), written
    encoded = msgspec.json.encode({"a": value, value: 1})
    assert redactor.of_json(encoded) == b'{"a":"[secret s]","[secret s]":1}'


def test_json_stays_json() -> None:
    """A number that holds a value becomes a text; what is no JSON is looked through as it is."""
    redactor = Redactor([("pin", b"12345678"), ("list", b"1234,5678")])
    assert msgspec.json.decode(redactor.of_json(b'{"a": 9123456780, "b": [true, null, 1.5]}')) == {
        "a": "9[secret pin]0",
        "b": [True, None, 1.5],
    }
    assert redactor.of_json(b"[1234,5678]") == b'"[[secret list]]"'
    assert redactor.of_json(b"12345678 {") == b"[secret pin] {"
    untouched = b'{"a": 1.50}'
    assert redactor.of_json(untouched) is untouched


def test_text_that_is_no_unicode_is_looked_through() -> None:
    """Names of files, and values, may be any bytes."""
    value = b"\xff\xfe secret \xfa"
    redactor = Redactor([("s", value)])
    name = value.decode("utf-8", "surrogateescape")
    assert redactor.of_text(f"<{name}>") == "<[secret s]>"
    assert redactor.of_text("\ud800 " + "secret") == "\ud800 secret"
    printed = name.encode("utf-8", "backslashreplace")
    assert redactor.of_bytes(b"<" + printed + b">") == b"<[secret s]>"
    assert redactor.of_text(value.decode("utf-8", "replace")) == "[secret s]"


def test_short_values_are_not_looked_for() -> None:
    """They could not be told from other text."""
    assert list(forms(b"1234567")) == []
    assert Redactor([("s", b"1234567")]).of_bytes(b"x1234567") == b"x1234567"
    assert b"12345678" in forms(b"12345678")


def test_every_field_of_every_message_is_looked_through() -> None:
    """Text, bytes, lists and tables, whatever the field is called."""
    value = TOKEN.decode()
    redactor = Redactor([("t", TOKEN)])
    cause = json.dumps({"k": value}).encode()
    told = [
        Progress(1, 2, 3.0, 4.0, f"at {value}"),
        Blocked(1, 2, value, "clarification", context=value, question=value, options=["a", value]),
        AnswerGiven(1, 2, "task", "key", cause),
        Completed(1, 2, cause, summary=value, remaining_issues=[value]),
        Completed(1, 2, b"<" + TOKEN, "text/plain"),
        Failed(1, 2, 1, value, recoverable=True, exception_type=value, traceback=f"a\n{value}\n"),
        Span("1", "2", "3", value, 0, 1, 2, {value: value, "n": 1, "f": 1.5, "b": True}, error=value),
    ]
    for message in told:
        clean = redactor.of_message(message)
        assert TOKEN not in msgspec.msgpack.encode(clean), message
        assert b"[secret t]" in msgspec.msgpack.encode(clean)
        assert type(clean) is type(message)
    for same in (Recalled([1, 2]), LogOutput(1, 2, 1, TOKEN), Progress(1, 2, 3.0, 4.0, "none")):
        assert redactor.of_message(same) is same
