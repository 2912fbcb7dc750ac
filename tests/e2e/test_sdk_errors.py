"""What the SDK raises when something is wrong, and that the client goes on afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import outrider
from outrider import errors
from support.cluster import Cluster, cluster
from support.sdk_tasks import boom, double, pass_gate
from support.waiting import eventually
from support.witness import Gate

MEBIBYTE = 2**20
TIMEOUT_S = 20


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator and an agent with two slots, for all tests here."""
    with cluster(tmp_path_factory.mktemp("errors")) as started:
        yield started


@pytest.fixture(scope="module")
def client(running: Cluster) -> Iterator[outrider.Client]:
    """One client for all tests here: none of them may harm it."""
    with running.connect() as connected:
        yield connected


@pytest.fixture(autouse=True)
def still_works(client: outrider.Client) -> Iterator[None]:
    """After every test the same client runs a task."""
    yield
    assert client.submit(double, 4).result(TIMEOUT_S) == 8


# --- work that fails


def test_a_function_that_raises_tells_everything(client: outrider.Client) -> None:
    """Class, text and traceback of the remote exception, the cause and the task's id."""
    handle = client.submit(boom, "the text")
    with pytest.raises(outrider.TaskFailed, match="ValueError: the text") as caught:
        handle.result(TIMEOUT_S)
    error = caught.value
    assert (error.cause, error.exception_type, error.exit_code) == ("TASK_ERROR", "ValueError", None)
    assert "raise ValueError(text)" in error.traceback
    assert error.task_id == handle.id
    assert isinstance(error, outrider.TaskNotSucceeded)
    assert str(handle.exception()) == str(error)


@pytest.mark.parametrize(
    ("name", "arguments", "cause"),
    [
        ("no_such_module:f", (), "INVALID_WORK"),
        ("math:no_such_function", (), "INVALID_WORK"),
        ("math:pi", (), "INVALID_WORK"),
        ("math:sqrt", (1, 2), "INVALID_WORK"),
        ("builtins:complex", (1,), "RESULT_NOT_SERIALIZABLE"),
        ("os:_exit", (3,), "WORKER_DIED"),
    ],
)
def test_work_that_cannot_run_says_why(
    client: outrider.Client, name: str, arguments: tuple[int, ...], cause: str
) -> None:
    """Unknown module or function, no function, wrong arguments, a result that is not JSON, a dead worker."""
    with pytest.raises(outrider.TaskFailed) as caught:
        client.with_options(attempts=1).submit(name, *arguments).result(TIMEOUT_S)
    assert caught.value.cause == cause
    assert len(str(caught.value).splitlines()) == 1


def test_a_program_that_is_not_there_says_so(client: outrider.Client) -> None:
    """The cause is INVALID_WORK and the message names the program."""
    with pytest.raises(outrider.TaskFailed, match="no-such-program") as caught:
        client.command(["no-such-program"]).result(TIMEOUT_S)
    assert caught.value.cause == "INVALID_WORK"


def test_the_rest_of_a_batch_does_not_hide_the_failure(client: outrider.Client) -> None:
    """map(batch=) raises the failure of the item, with its type."""
    with pytest.raises(outrider.TaskFailed, match="math domain error") as caught:
        list(client.map("math:sqrt", [1, -1, 4], batch=3))
    assert caught.value.exception_type == "ValueError"


# --- submits that are refused


def test_a_large_payload_is_refused_alone(running: Cluster, client: outrider.Client) -> None:
    """10 MiB between others: TooLarge says what to do, on id and result; the others run; nothing of it is stored."""
    before = [client.submit(double, number) for number in range(20)]
    big = client.submit("builtins:len", "x" * (10 * MEBIBYTE))
    after = [client.submit(double, number) for number in range(20)]
    with pytest.raises(errors.TooLarge, match="put the data in a file or object store"):
        _ = big.id
    with pytest.raises(errors.TooLarge):
        big.result(TIMEOUT_S)
    assert big.done()
    assert [handle.result(TIMEOUT_S) for handle in before + after] == [2 * number for number in range(20)] * 2
    assert not [task for task in running.all_tasks() if task.spec.function.function == "builtins:len"]


def test_a_message_over_the_servers_limit_harms_nobody_else(tmp_path: Path) -> None:
    """A coordinator that takes 1 MiB drops the whole stream; the client finds the one to blame and sends the rest."""
    flags = ("--config", str(tmp_path / "settings.toml"))
    Path(flags[1]).write_text(f"[coordinator]\nmessage_bytes_max = {MEBIBYTE}\n")
    with cluster(tmp_path, *flags) as small, small.connect() as client:
        before = [client.submit(double, number) for number in range(100)]
        big = client.submit("builtins:len", "x" * (2 * MEBIBYTE))
        after = [client.submit(double, number) for number in range(100)]
        with pytest.raises(errors.TooLarge):
            big.result(TIMEOUT_S)
        assert [handle.result(TIMEOUT_S) for handle in before + after] == [2 * number for number in range(100)] * 2
        assert len(small.all_tasks()) == 200


def test_a_full_queue_only_delays(tmp_path: Path) -> None:
    """More tasks than the coordinator takes wait in the client and run later."""
    Path(tmp_path / "settings.toml").write_text("[coordinator]\nqueue_depth_max = 5\n")
    with cluster(tmp_path, "--config", str(tmp_path / "settings.toml")) as small, small.connect() as client:
        assert list(client.map(double, range(12))) == list(range(0, 24, 2))


# --- clients and addresses


@pytest.mark.parametrize(
    ("address", "expected", "says"),
    [
        ("127.0.0.1:1", errors.Unreachable, "127.0.0.1:1"),
        ("unix:/no/such/socket", errors.Unreachable, "/no/such/socket"),
        ("127.0.0.1:port", errors.InvalidRequest, "HOST:PORT"),
        ("192.0.2.1:7420", errors.InvalidRequest, "plain text: whoever is in between"),
    ],
)
def test_a_wrong_address_is_told_soon(address: str, expected: type[Exception], says: str) -> None:
    """Within the connect timeout, with the address and what to do; no thread is left behind."""
    threads, began_s = threading.active_count(), time.monotonic()
    with pytest.raises(expected) as caught:
        outrider.Client(address, connect_timeout=0.5)
    assert says in str(caught.value)
    assert time.monotonic() - began_s < 5
    eventually(lambda: threading.active_count() <= threads)


def test_no_address_at_all_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cluster on this machine the message says what to set."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(errors.Unreachable, match="OUTRIDER_COORDINATOR"):
        outrider.Client()


def test_a_closed_client_says_so(running: Cluster, client: outrider.Client, tmp_path: Path) -> None:
    """Handles that are open fail, iterators end, calls raise; closing twice is harmless; the task itself goes on."""
    gate = Gate(tmp_path)
    with running.connect() as other:
        open_handle = other.submit(pass_gate, str(gate.path))
        ended = other.submit(double, 1)
        assert ended.result(TIMEOUT_S) == 2
        task_id = open_handle.id
        events = open_handle.events()
        next(events)
        told: list[BaseException] = []
        reader = threading.Thread(target=lambda: told.append(raised_by(events)))
        reader.start()
    reader.join(TIMEOUT_S)
    assert isinstance(told[0], (errors.Unreachable, RuntimeError))
    assert "the client" in str(told[0])
    other.close()
    with pytest.raises(errors.Unreachable, match="the task itself goes on"):
        open_handle.result(TIMEOUT_S)
    assert ended.result() == 2
    for call in (lambda: other.submit(double, 1), lambda: other.task(task_id), open_handle.cancel, open_handle.explain):
        with pytest.raises(RuntimeError, match="the client is closed"):
            call()
    gate.open()
    assert client.task(task_id).result(TIMEOUT_S) is None
    gate.close()


def test_a_callback_that_comes_after_the_close_is_called(
    running: Cluster, client: outrider.Client, tmp_path: Path
) -> None:
    """Nobody waits for a callback for ever: with the client's threads gone it is called at once."""
    gate = Gate(tmp_path)
    with running.connect() as other:
        handle = other.submit(pass_gate, str(gate.path))
    told: list[outrider.TaskHandle[None]] = []
    handle.add_done_callback(told.append)
    assert told == [handle]
    gate.open()
    assert client.task(handle.id).result(TIMEOUT_S) is None
    gate.close()


def raised_by(events: Iterator[object]) -> BaseException:
    """What ends an iterator."""
    try:
        for _ in events:
            pass
    except BaseException as error:
        return error
    return AssertionError("it ended as if the task had")
