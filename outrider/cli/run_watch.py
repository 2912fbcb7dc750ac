"""Watching a run to its end: one line drawn again on a terminal, a line per change elsewhere, its state as exit code.

Owns how progress looks. A break of the connection only delays: the stream is opened again from the last event.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from outrider import errors
from outrider.cli import follow, output
from outrider.cli.options import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_STOPPED
from outrider.cli.session import Session

#: The line is drawn again at least so often, and at most so often asked for anew.
REFRESH_S = 0.5
_EXITS = {"SUCCEEDED": EXIT_OK, "CANCELLED": EXIT_STOPPED}


def state_name(run: Any) -> str:
    """The state of a run without its prefix."""
    from outrider.v1 import run_service_pb2

    return run_service_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_")


def counts(run: Any) -> str:
    """``3: 2 succeeded, 1 failed``."""
    parts = [f"{entry.count} {follow.state_name(entry.state).lower()}" for entry in run.counts]
    return f"{run.task_count}: {', '.join(parts)}"


def watch(session: Session, run_id: str, *, as_json: bool, events: bool = False) -> int:
    """Show a run until its end; the exit code. Ctrl-C leaves it running and says so."""
    try:
        if events:
            _tell_events(session, run_id, as_json)
        else:
            _show(session, run_id, as_json)
    except KeyboardInterrupt:
        name = output.short(run_id)
        output.say(f"detached; the run goes on: outrider run watch {name} | outrider run cancel {name}")
        return EXIT_INTERRUPTED
    run = _get(session, run_id)
    if not as_json:
        output.say(f"{state_name(run)}: {counts(run)}")
    return _EXITS.get(state_name(run), EXIT_FAILED)


def _show(session: Session, run_id: str, as_json: bool) -> None:
    """How far the run is, whenever something has happened."""
    from outrider.views import RunProgress

    happened, ended = threading.Event(), threading.Event()
    listener = threading.Thread(target=_listen, args=(session, run_id, happened, ended), daemon=True)
    with contextlib.ExitStack() as stack:
        tell = _teller(stack, as_json)
        listener.start()
        while True:
            is_over = ended.is_set()
            run = _get(session, run_id)
            tell(run, str(RunProgress.read(run)))
            if is_over or run.HasField("end_time"):
                return
            happened.clear()
            _wait(happened, is_live=output.is_live() and not as_json)


def _wait(happened: threading.Event, *, is_live: bool) -> None:
    """Until something has happened, and not sooner than a line may be drawn again; a live line tells the time too."""
    began_s = time.monotonic()
    happened.wait(REFRESH_S if is_live else None)
    left_s = REFRESH_S - (time.monotonic() - began_s)
    if left_s > 0:
        threading.Event().wait(left_s)


def _teller(stack: contextlib.ExitStack, as_json: bool) -> Callable[[Any, str], None]:
    """What shows a run and the line made of it."""
    if as_json:
        return lambda run, line: output.emit(run)
    if output.is_live():
        status = stack.enter_context(output.err.status("submitted"))
        return lambda run, line: status.update(f"{run.title}: {line}")
    told: list[str] = []

    def plain(run: Any, line: str) -> None:
        if [line] != told:
            told[:] = [line]
            output.line(line)

    return plain


def _listen(session: Session, run_id: str, happened: threading.Event, ended: threading.Event) -> None:
    """Say when something has happened, until the run's end."""
    with contextlib.suppress(errors.OutriderError):
        for _ in _events(session, run_id):
            happened.set()
    ended.set()
    happened.set()


def _tell_events(session: Session, run_id: str, as_json: bool) -> None:
    for event in _events(session, run_id):
        if as_json:
            output.emit(event)
        else:
            name = output.short(event.task_id or event.run_id)
            output.line(f"{name} {follow.describe(event)}")


def _events(session: Session, run_id: str) -> Iterator[Any]:
    """Events of a run from its beginning to its end, also across breaks."""
    from outrider.v1 import event_pb2, run_service_pb2

    after = 0
    while True:
        request = run_service_pb2.WatchRunRequest(namespace=session.namespace, run_id=run_id, after_cursor=after)
        with contextlib.suppress(errors.Unreachable):
            for response in session.stream(session.runs.WatchRun, request):
                for event in response.events.events:
                    after = event.cursor
                    yield event
                    if event.type == event_pb2.EVENT_TYPE_RUN_ENDED:
                        return
        threading.Event().wait(REFRESH_S)


def _get(session: Session, run_id: str) -> Any:
    from outrider.v1 import run_service_pb2

    request = run_service_pb2.GetRunRequest(namespace=session.namespace, run_id=run_id)
    return session.call(session.runs.GetRun, request).run
