"""Serves `outrider-task` for one command: JSON lines over a Unix socket, several callers at once."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from outrider.errors import OutriderError
from outrider.worker.context import Attempt, text_of
from outrider.worker.endings import TaskCancelled


class TaskServer:
    """A socket that lives as long as the command. Its path is short: Unix sockets take 107 bytes.

    Entering raises OSError when there is no room or no right to make it.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._folder = tempfile.TemporaryDirectory(prefix="outrider-", ignore_cleanup_errors=True)
        self._path = Path(self._folder.name) / "task"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

    def __enter__(self) -> TaskServer:
        try:
            self._socket.bind(str(self._path))
            self._socket.listen(64)
            threading.Thread(target=self._accept, name="task-server", daemon=True).start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._folder.cleanup()

    def environment(self, scratch: Path) -> dict[str, str]:
        """What the command needs to find us, and its inputs as a JSON file ``{key: result}`` in its scratch directory.

        A result that is neither JSON nor text is ``{"base64": "..."}``. Raises OSError.
        """
        inputs = scratch / "inputs.json"
        inputs.write_text(json.dumps(self._attempt.inputs, default=_binary))
        return {"OUTRIDER_TASK_SOCKET": str(self._path), "OUTRIDER_INPUTS": str(inputs)}

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # A caller that goes away, or says no UTF-8, ends only its own connection.
        with (
            contextlib.suppress(OSError, ValueError),
            connection,
            connection.makefile("rw", encoding="utf-8") as stream,
        ):
            for line in stream:
                stream.write(json.dumps(self._answer(line), default=_binary) + "\n")
                stream.flush()

    def _answer(self, line: str) -> dict[str, Any]:
        try:
            request = json.loads(line)
            return {"value": self._carry_out(request)}
        except TaskCancelled:
            return {"error": "the task was cancelled"}
        except OutriderError as error:
            return {"error": str(error)}
        except (ValueError, KeyError, TypeError) as error:
            return {"error": f"bad request: {error}"}

    def _carry_out(self, request: dict[str, Any]) -> Any:
        attempt = self._attempt
        match request["op"]:
            case "progress":
                attempt.progress(float(request["completed"]), float(request["total"]), request["status"])
            case "log":
                attempt.log(request["text"])
            case "summary":
                attempt.summary(request["text"])
            case "remaining":
                attempt.remaining(request["text"])
            case "ask":
                return self._ask(request)
            case "wait-for":
                return attempt.wait_for(request["task_id"], request.get("timeout"))
            case "hold":
                attempt.hold(request["limit"], request["timeout"])
            case "wait-external":
                attempt.wait_external(request["system"], request["issue"], request["retry_at"], request.get("timeout"))
            case "more-time":
                return attempt.need_more_time(float(request["seconds"]), timeout=request.get("timeout"))
            case "answer":
                attempt.answer(request["task_id"], request["text"], request["key"])
            case "answers":
                return attempt.answers
            case other:
                raise ValueError(f"unknown operation {other!r}")
        return None

    def _ask(self, request: dict[str, Any]) -> str | None:
        """The answer; None while it is pending and the caller does not wait."""
        if request["wait"]:
            return self._attempt.ask(
                request["question"], request["options"], key=request["key"], timeout=request.get("timeout")
            )
        blocked = self._attempt.question(request["question"], request["options"], key=request["key"])
        resolution = self._attempt.waits.poll(blocked)
        return None if resolution is None else text_of(resolution)


def _binary(value: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(value).decode()}
