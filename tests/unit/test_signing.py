"""What a submitter signs, and who can tell whether it was changed."""

from __future__ import annotations

import datetime as dt
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider import signing
from outrider.errors import InvalidRequest
from outrider.graph import GraphBuilder
from outrider.schedules import Every, schedule_spec, sign
from outrider.v1 import task_pb2
from outrider.work import Options, command_spec, function_spec
from support.signed import new_key, signed_by, statement

KEY = new_key()
PUBLIC = signing.public_bytes(KEY)


def test_a_signed_spec_says_what_it_said_and_carries_its_work_inside() -> None:
    """Everything but the work is repeated around the statement, for those who decide where and when it runs."""
    spec = command_spec(["make", "test"], Options(priority=7, tags=["ci"], timeout=60), env={"A": "b"}, stdin=b"in")
    signed = signed_by(KEY, spec)
    assert signed.WhichOneof("work") == "signed"
    assert (signed.priority, list(signed.tags), signed.timeout.seconds) == (7, ["ci"], 60)
    made = signing.statement_of(signed.signed)
    assert made.spec == spec
    assert signing.repeats(signed, made.spec)
    assert signing.signed_spec(signed) == spec
    assert signing.is_signed_by(PUBLIC, signed.signed)
    assert signed.signed.key_id == signing.key_id(PUBLIC)
    assert made.namespace == "default"


@given(st.data())
def test_any_change_of_a_statement_or_its_signature_shows(data: st.DataObject) -> None:
    """A single flipped bit anywhere, and another key, are noticed."""
    signed = signed_by(KEY).signed
    field = data.draw(st.sampled_from(["statement", "signature"]))
    value = bytearray(getattr(signed, field))
    at = data.draw(st.integers(0, 10_000)) % len(value)
    value[at] ^= 1 << data.draw(st.integers(0, 7))
    changed = task_pb2.SignedWork(statement=signed.statement, signature=signed.signature, key_id=signed.key_id)
    setattr(changed, field, bytes(value))
    assert not signing.is_signed_by(PUBLIC, changed)
    assert not signing.is_signed_by(signing.public_bytes(new_key()), signed)


def test_a_signature_over_the_same_bytes_for_another_purpose_is_none() -> None:
    """What is signed begins with words of its own, so that no other signature of the key can be used."""
    signed = signed_by(KEY).signed
    signed.signature = KEY.sign(signed.statement)
    assert not signing.is_signed_by(PUBLIC, signed)


@pytest.mark.parametrize("signature", [b"", b"x" * 63, b"x" * 65])
def test_a_signature_of_another_length_is_none(signature: bytes) -> None:
    """It is refused like any other, with no error of its own."""
    signed = signed_by(KEY).signed
    signed.signature = signature
    assert not signing.is_signed_by(PUBLIC, signed)


def test_signing_twice_is_signing_once() -> None:
    """What is signed already is left alone: somebody else may have signed it."""
    signed = signed_by(KEY)
    again = signed_by(new_key(), signed)
    assert again == signed


def test_the_same_task_signed_twice_is_the_same_task() -> None:
    """Nonce, expiry and signature differ; what is left of both is equal, and differs from any other task's."""
    first, second = signed_by(KEY), signed_by(KEY, valid_s=5)
    other = signed_by(KEY, command_spec(["echo", "other"], Options()))
    assert first.signed.statement != second.signed.statement
    for spec in (first, second, other):
        signing.blur(spec)
    assert first == second
    assert first != other


def test_a_statement_lasts_a_day_from_the_earliest_start() -> None:
    """Or as long as its submitter says; what goes by the clock lasts 90 days and may be started any number of times."""
    now_s = time.time()
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
    late = command_spec(["a"], Options(not_before=later))
    lasts = {
        "plain": signing.statement_of(signed_by(KEY).signed),
        "late": signing.statement_of(signed_by(KEY, late).signed),
        "short": signing.statement_of(signed_by(KEY, valid_s=60).signed),
    }
    days = {name: round((one.expire_time.ToNanoseconds() / 1e9 - now_s) / 86_400, 2) for name, one in lasts.items()}
    assert days == {"plain": 1.0, "late": 4.0, "short": 0.0}
    assert lasts["plain"].starts_max == 16
    many = signing.statement_of(signed_by(KEY, command_spec(["a"], Options(attempts=50))).signed)
    assert many.starts_max == 100
    assert signing.statement_of(signed_by(KEY, starts_max=0).signed).starts_max == 0


def test_a_schedule_is_signed_once_for_all_its_times() -> None:
    """Its task, or every task of its run, with a statement that may be started again and again."""
    spec = schedule_spec("s", Every(60))
    spec.task.CopyFrom(function_spec("math:sqrt", [2], {}, Options()))
    sign(spec, signing.Signer(KEY), "default")
    made = signing.statement_of(spec.task.signed)
    assert made.starts_max == 0
    assert made.expire_time.seconds - time.time() > 89 * 86_400
    graph = GraphBuilder()
    graph.command("a", ["true"])
    graph.command("b", ["true"], after="a")
    of_run = schedule_spec("r", Every(60))
    of_run.run.CopyFrom(graph.spec)
    sign(of_run, signing.Signer(KEY), "default")
    assert [task.spec.WhichOneof("work") for task in of_run.run.tasks] == ["signed", "signed"]


@pytest.mark.parametrize("how", [{"valid_s": 0}, {"valid_s": -1}, {"valid_s": 1e12}, {"starts_max": -1}])
def test_what_a_signer_cannot_promise_is_refused(how: dict[str, float]) -> None:
    """A time that is over, or a count that is none."""
    with pytest.raises(InvalidRequest):
        signing.Signer(KEY, **how)  # type: ignore[arg-type]  # what a caller may pass


@pytest.mark.parametrize(
    "spec",
    [
        task_pb2.TaskSpec(signed=task_pb2.SignedWork(statement=b"\xff\xff")),
        task_pb2.TaskSpec(signed=task_pb2.SignedWork()),
        statement(KEY, spec=task_pb2.TaskSpec(title="no work")),
        statement(KEY, spec=signed_by(KEY)),
        statement(KEY, nonce=b"short"),
        statement(KEY, namespace=""),
        statement(KEY, expires_s=None),
        statement(KEY, expires_s=None, expire_time={"seconds": 1 << 60}),
        statement(KEY, expires_s=None, expire_time={"seconds": 5, "nanos": -1}),
    ],
)
def test_a_statement_that_nobody_should_run_is_refused_whoever_signed_it(spec: task_pb2.TaskSpec) -> None:
    """Unreadable, without work, signed work inside signed work, or without what bounds its use."""
    with pytest.raises(InvalidRequest, match="signed statement"):
        signing.statement_of(spec.signed)
    assert signing.signed_spec(spec) == spec


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_file_is_its_owners_only_and_never_replaced(tmp_path: Path) -> None:
    """Made 0600 whatever the umask; a second one under that name is refused."""
    path = tmp_path / "folder" / "key.pem"
    before = os.umask(0)
    try:
        made = signing.create_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing.public_bytes(signing.load_key(path)) == signing.public_bytes(made)
    with pytest.raises(InvalidRequest, match="is there already"):
        signing.create_key(path)
    path.chmod(0o640)
    with pytest.raises(InvalidRequest, match="others may read"):
        signing.load_key(path)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused_with_what_makes_one(tmp_path: Path, content: bytes) -> None:
    """Also a file that is not there."""
    path = tmp_path / "key.pem"
    with pytest.raises(InvalidRequest, match="outrider key create"):
        signing.load_key(path)
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InvalidRequest, match="outrider key create"):
        signing.load_key(path)


def test_a_public_key_is_read_as_it_was_printed() -> None:
    """And nothing else is."""
    assert signing.read_public(signing.public_text(PUBLIC)) == PUBLIC
    for text in ("", "ed25519:", "ed25519:AAAA", "ed25519:????", "rsa:" + signing.public_text(PUBLIC)[8:]):
        with pytest.raises(InvalidRequest, match="no public key"):
            signing.read_public(text)


def test_the_key_of_the_environment_signs_when_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said wins, and an empty name is nobody."""
    path = tmp_path / "key.pem"
    signing.create_key(path)
    assert signing.chosen(None) is None
    monkeypatch.setenv("OUTRIDER_SIGNING_KEY", str(path))
    assert signing.chosen(None) is not None
    assert signing.chosen("") is None
    signer = signing.Signer(KEY)
    assert signing.chosen(signer) is signer
    assert signing.chosen(path) is not None
