"""A real worker with secrets: where they are while an attempt runs, what it says of them, and what is left."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from outrider.worker import messages
from outrider.worker.messages import CommandWork, FunctionWork, Secret
from support.waiting import eventually
from support.worker_harness import Worker

VALUE = "a-value-of-some-length"
TOKEN = Secret("TOKEN", "token", VALUE.encode())
FUNCTIONS = """
import os
from outrider.worker import current

def swallow(name):
    return [current.secret(name) == os.environ[name], None]

def see(name):
    return os.environ.get(name)

def missing():
    current.secret("OTHER")

def fails():
    raise RuntimeError("x" * 4090 + current.secret("TOKEN"))

def asks():
    return current.ask("what of " + current.secret("TOKEN") + "?", [current.secret("TOKEN")])

def holds():
    current.hold("lock:" + current.secret("TOKEN"))

def prints_halves():
    value = current.secret("TOKEN")
    os.write(1, value[:9].encode())
    current.log("between")
    os.write(1, value[9:].encode())
    os.write(2, value[:9].encode())

def drops():
    del os.environ["TOKEN"]

def reads(name):
    first, second = open(os.environ[name], "rb").read(), open(os.environ[name], "rb").read()
    return [first == second == current.secret(name).encode(), os.environ[name]]
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker that is ready, with the functions above to call."""
    (tmp_path / "told.py").write_text(FUNCTIONS)
    one = Worker(tmp_path)
    assert isinstance(one.next(), messages.Ready)
    yield one
    one.close()


def run(worker: Worker, name: str | CommandWork, *secrets: Secret, key: int = 1, args: list[str] | None = None) -> None:
    """Send an attempt with these secrets."""
    work = FunctionWork(f"told:{name}", json.dumps({"args": args or []}).encode()) if isinstance(name, str) else name
    scratch = str(worker.directory / f"scratch-{key}")
    environment = {"OUTRIDER_TASK_ID": "t", "OUTRIDER_RUN_ID": ""}
    worker.send(messages.Run(key, work, "t", 1, [], environment, scratch, secrets=list(secrets)))


def result(worker: Worker) -> object:
    """What the next attempt returns."""
    return json.loads(worker.until(messages.Completed)[1].data)


def output(said: list[messages.FromWorker], stream: int) -> bytes:
    """What a stream carried."""
    return b"".join(one.data for one in said if isinstance(one, messages.LogOutput) and one.stream == stream)


def test_a_variable_is_there_for_one_attempt(worker: Worker) -> None:
    """What had its name before is back afterwards, also when user code has changed or deleted it."""
    home = os.environ["HOME"]
    secrets = (TOKEN, Secret("HOME", "home", b"another-home"))
    run(worker, "swallow", *secrets, args=["HOME"])
    assert result(worker) == [True, None]
    run(worker, "see", key=2, args=["HOME"])
    assert result(worker) == home
    run(worker, "drops", *secrets, key=3)
    assert result(worker) is None
    for key, name, wanted in ((4, "TOKEN", None), (5, "HOME", home)):
        run(worker, "see", key=key, args=[name])
        assert result(worker) == wanted


def test_a_descriptor_is_there_for_one_attempt(worker: Worker) -> None:
    """Read as often as one likes; closed afterwards."""
    run(worker, "reads", Secret("KEY_FILE", "key", VALUE.encode(), by_descriptor=True), args=["KEY_FILE"])
    is_same, path = result(worker)  # type: ignore[misc]  # a list of two
    assert is_same
    assert path.startswith("/dev/fd/")
    eventually(lambda: not _is_open(worker.process.pid, path.rpartition("/")[2]))


def _is_open(pid: int, descriptor: str) -> bool:
    with contextlib.suppress(OSError):
        return "secret" in str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())
    return False


def test_a_secret_that_was_not_asked_for_is_not_there(worker: Worker) -> None:
    """The error says which are."""
    run(worker, "missing", TOKEN)
    failed = worker.until(messages.Failed)[1]
    assert "this task asked for no secret as OTHER; it has TOKEN" in failed.message


def test_nothing_is_cut_off_within_a_value(worker: Worker) -> None:
    """A message that is too long is shortened after its values are taken out."""
    run(worker, "fails", TOKEN)
    failed = worker.until(messages.Failed)[1]
    assert failed.message == "x" * 4090 + "[secret token]"[:6]
    assert VALUE[:4] not in failed.message + failed.traceback
    assert "[secret token]" in failed.traceback


def test_a_question_with_a_value_in_it_is_asked_and_answered(worker: Worker) -> None:
    """Its key is made of what may be known, so the answer finds it."""
    run(worker, "asks", TOKEN)
    blocked = worker.until(messages.Blocked)[1]
    assert (blocked.question, blocked.options) == ("what of [secret token]?", ["[secret token]"])
    worker.send(messages.Resolve(1, blocked.wait_key, VALUE.encode(), "text/plain"))
    assert result(worker) == "[secret token]"
    run(worker, "holds", TOKEN, key=2)
    blocked = worker.until(messages.Blocked)[1]
    assert blocked.resource == "lock:[secret token]"
    worker.send(messages.Resolve(2, blocked.wait_key, b"", ""))
    assert result(worker) is None


def test_a_value_in_two_pieces_is_one(worker: Worker) -> None:
    """However long the pause between them; what turns out to be none comes with the end."""
    run(worker, "prints_halves", TOKEN)
    said, _ = worker.until(messages.Completed)
    assert output(said, 1) == b"[secret token]"
    assert output(said, 2) == VALUE[:9].encode()


def test_a_program_says_nothing_of_them_either(worker: Worker) -> None:
    """Its output in pieces, its result, its last words, and what it says through outrider-task."""
    task = f"{sys.executable} -m outrider.worker.task_command"
    script = f"""
        printf %s "${{TOKEN%????}}"; sleep 0.1; printf %s "${{TOKEN#"${{TOKEN%????}}"}}"; printf %s "${{TOKEN%????}}"
        {task} log "$TOKEN"; {task} progress 1/2 "$TOKEN"; {task} summary "$TOKEN"; {task} remaining "$TOKEN"
        {task} ask --no-wait "$TOKEN?"
        cat "$KEY_FILE" >&2
    """
    key = Secret("KEY_FILE", "key", b"another-long-value", by_descriptor=True)
    run(worker, CommandWork(["bash", "-c", script], {}), TOKEN, key)
    said, completed = worker.until(messages.Completed)
    half = VALUE[:-4]
    assert json.loads(completed.data) == {"exit_code": 0, "output": f"[secret token]{half}pending\n"}
    assert (completed.summary, completed.remaining_issues) == ("[secret token]", ["[secret token]"])
    assert (output(said, 2), output(said, 3)) == (b"[secret key]", b"[secret token]\n")
    assert [one.status for one in said if isinstance(one, messages.Progress)] == ["[secret token]"]
    assert [one.question for one in said if isinstance(one, messages.Blocked)] == ["[secret token]?"]


def test_a_program_without_secrets_is_looked_through_for_none(worker: Worker) -> None:
    """What one attempt was given is no secret of the next program, which cannot know it."""
    run(worker, CommandWork(["sh", "-c", "echo $TOKEN"], {}), TOKEN)
    assert result(worker) == {"exit_code": 0, "output": "[secret token]\n"}
    run(worker, CommandWork(["echo", VALUE], {}), key=2)
    assert result(worker) == {"exit_code": 0, "output": f"{VALUE}\n"}


def test_a_program_that_cannot_be_started_with_them_says_so(worker: Worker) -> None:
    """More than the kernel takes for variables."""
    large = [Secret(f"V{number}", f"v{number}", os.urandom(4) * 16_000) for number in range(40)]
    clean = [Secret(one.variable, one.name, one.value.replace(b"\0", b"x")) for one in large]
    run(worker, CommandWork(["true"], {}), *clean)
    failed = worker.until(messages.Failed)[1]
    assert failed.message == "cannot start 'true': Argument list too long"


def test_a_value_is_in_no_representation_of_a_message() -> None:
    """Whatever writes a message down, for a log or an assertion."""
    message = messages.Run(1, CommandWork(["true"], {}), "t", 1, [], {}, "/s", secrets=[TOKEN])
    assert VALUE not in repr(message)
    assert "token" in repr(message)
