"""A thousand secrets through real tasks that say them wherever they can: none is found anywhere afterwards."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from outrider.tracing import TraceParent, new_span_id, new_trace_id
from outrider.v1 import task_pb2, task_service_pb2
from support.daemons import Daemons, command, function, state_name
from support.otlp_receiver import OtlpReceiver, otlp_receiver
from support.waiting import eventually

TASKS, SECRETS_EACH, SLOTS = 40, 25, 4
#: Both ends of every value, so that a piece that was cut off is found too.
HEAD, TAIL = b"canary", b"yranac"
TIMEOUT_S = 60
LOOK_S = 0.1
#: Between the ends stands what JSON, Python and line ends make something else of.
MIDDLES = ("-", "-", "-", '-"quoted"-', "-it's-", "-back\\slash-", "-zw\u00f6lf-", "-first\nsecond-", "-tab\there-")
SAYS_ALL = """
printenv | grep -v ^PATH=
for name in $(printenv -0 | tr '\\n\\0' ' \\n' | sed -n 's/^\\(S[0-9]*\\)=.*/\\1/p'); do
  eval "value=\\$$name"; printf '%s' "${value%???????}"; printf '%s\\n' "${value#"${value%???????}"}"
  printf '%s\\n' "$value" >&2
done
while [ ! -e "$GATE" ]; do sleep 0.02; done
"""
READS_ALL = """
for name in $(printenv | sed -n 's/^\\(S[0-9]*\\)=.*/\\1/p'); do
  eval "path=\\$$name"; cat "$path"; cat "$path" >&2
done
while [ ! -e "$GATE" ]; do sleep 0.02; done
"""


def values() -> list[str]:
    """A thousand values that differ."""
    return [
        f"{HEAD.decode()}-{number:04d}{MIDDLES[number % len(MIDDLES)]}{secrets.token_hex(6)}-{TAIL.decode()}"
        for number in range(TASKS * SECRETS_EACH)
    ]


def defined(folder: Path, more: str = "") -> tuple[Path, dict[str, str]]:
    """The agent's settings for them, of three sources, and its environment; nothing else knows the values."""
    hidden = folder / "values"
    hidden.mkdir()
    tables, environment = [], {}
    for number, value in enumerate(values()):
        (hidden / str(number)).write_text(value + "\n")
        source = f'file = "{hidden}/{number}"'
        if number % 5 == 0:
            source, environment[f"V{number}"] = f'environment = "V{number}"', value
        elif number % 25 == 1:
            source = f'command = ["/bin/cat", "{hidden}/{number}"]'
        tables.append(f"[agent.secrets.s{number}]\n{source}\n{more}\n")
    settings = folder / "outrider.toml"
    settings.write_text("".join(tables))
    return settings, environment


def spec(number: int, gate: Path) -> task_pb2.TaskSpec:
    """The task with the next 25 secrets: a function or a command, by value or by descriptor, that succeeds or fails."""
    fails, is_function, by_descriptor = number % 2 == 1, number % 5 < 2, number % 5 == 2
    names = [f"S{place}" for place in range(SECRETS_EACH)]
    if is_function:
        made = function("support.secret_tasks:spill", names, str(gate), fails, number % 10 == 0)
    else:
        made = command(["bash", "-c", (READS_ALL if by_descriptor else SAYS_ALL) + f"exit {3 * fails}"])
        made.command.environment["GATE"] = str(gate)
    made.retry.max_attempts = 1
    kind = task_pb2.SECRET_DELIVERY_DESCRIPTOR if by_descriptor else task_pb2.SECRET_DELIVERY_ENVIRONMENT
    for place, variable in enumerate(names):
        made.secrets.add(variable=variable, secret=f"s{number * SECRETS_EACH + place}", delivery=kind)
    return made


def found_in(data: bytes) -> list[bytes]:
    """Every place in the data where a value, or an end of one, stands."""
    return [data[max(0, at - 40) : at + 60] for mark in (HEAD, TAIL) for at in _places(data, mark)]


def _places(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


def files(folder: Path) -> Iterator[Path]:
    """Everything below the folder but the values themselves."""
    for path in folder.rglob("*"):
        if path.is_file() and folder / "values" not in path.parents:
            yield path


def arguments() -> bytes:
    """The arguments of every process there is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:  # it has ended
            continue
    return b"\n".join(found)


@contextmanager
def looking_at_arguments(seen: list[bytes]) -> Iterator[None]:
    """Look at them again and again inside."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            seen.append(arguments())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


def told(daemons: Daemons, task_ids: Sequence[str]) -> bytes:
    """Everything that clients can be told of these tasks."""
    pieces = [event.SerializeToString() for event in daemons.events(task_ids, TIMEOUT_S)]
    for task_id in task_ids:
        pieces.append(daemons.get(task_id).SerializeToString())
        pieces += [daemons.output(task_id, stream) for stream in (1, 2, 3, 4)]
    return b"\n".join(pieces)


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """Where traces are exported to."""
    with otlp_receiver() as running:
        yield running


def test_none_of_a_thousand_secrets_is_found_anywhere(tmp_path: Path, receiver: OtlpReceiver) -> None:
    """Not in the database, the outbox, logs, events, results, traces, or the arguments of any process."""
    settings, environment = defined(tmp_path)
    gate = tmp_path / "gate"
    trace = TraceParent(new_trace_id(), new_span_id())
    with Daemons(tmp_path, **receiver.environment) as daemons:
        daemons.agent("a", SLOTS, "--config", str(settings), **environment, **receiver.environment)
        requests = [
            task_service_pb2.SubmitRequest(
                spec=spec(number, gate), trace=task_pb2.TraceContext(traceparent=trace.format())
            )
            for number in range(TASKS)
        ]
        batch = task_service_pb2.SubmitBatchRequest(tasks=requests)
        task_ids = [task.task_id for task in daemons.coordinator.tasks.SubmitBatch(batch, timeout=TIMEOUT_S).tasks]
        eventually(lambda: daemons.states().count("RUNNING") == SLOTS, TIMEOUT_S, "tasks run and say what they have")
        seen = [arguments()]
        seen += [path.read_bytes() for path in files(tmp_path)]
        gate.touch()
        with looking_at_arguments(seen):
            seen.append(told(daemons, task_ids))
        tasks = [daemons.get(task_id) for task_id in task_ids]
        receiver.wait_for(lambda spans: sum(span.name.startswith("execute ") for span in spans) == TASKS)
        seen.append(repr(receiver.spans).encode())
        seen += [path.read_bytes() for path in files(tmp_path)]
    seen += [path.read_bytes() for path in files(tmp_path)]
    assert [state_name(task.state) for task in tasks] == ["SUCCEEDED", "FAILED"] * (TASKS // 2)
    everything = b"\n".join(seen)
    assert found_in(everything) == []
    spoken = {number for number in range(TASKS * SECRETS_EACH) if f"[secret s{number}]".encode() in everything}
    assert len(spoken) == TASKS * SECRETS_EACH, "every value was said, and its name stands there"
    assert any("[secret s" in json.dumps(span.attributes) for span in receiver.spans)
    assert any("[secret s" in span.name for span in receiver.spans)


def test_a_value_that_is_not_kept_out_is_found(tmp_path: Path) -> None:
    """The search finds what is there: the same, with nothing kept out."""
    settings, environment = defined(tmp_path, "redact = false")
    gate = tmp_path / "gate"
    gate.touch()
    with Daemons(tmp_path) as daemons:
        daemons.agent("a", SLOTS, "--config", str(settings), **environment)
        task_ids = daemons.submit(spec(0, gate), spec(3, gate))
        everything = told(daemons, task_ids)
        assert len(found_in(everything)) > 4 * SECRETS_EACH
    assert found_in(b"".join(path.read_bytes() for path in files(tmp_path)))
