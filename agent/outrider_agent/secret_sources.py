"""Reads the value of one secret from where the settings say.

Owns the four sources. It must not know tasks. `SecretFault` says what is wrong in words that may leave the machine:
never a value, a path, or anything that a program printed; the agent's own log has more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
from collections.abc import Mapping, MutableMapping, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from outrider.worker.redaction import VALUE_BYTES_MIN
from outrider_agent.descriptors import ended, readable
from outrider_agent.secret_settings import SecretSettings

#: Longer values are refused: an environment variable could hold no more than twice this.
VALUE_BYTES_MAX = 64 * 1024
#: Where systemd puts the credentials of a unit.
CREDENTIALS = "CREDENTIALS_DIRECTORY"
#: Programs that make secrets, at once; the others wait.
COMMANDS_MAX = 8
#: Files that are read at once, in threads of their own: a file system that hangs must not hold up anything else.
FILES_MAX = 4
_HIDDEN = ("LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "OUTRIDER_PARENT_FD", "WATCHDOG_PID", "WATCHDOG_USEC")


class SecretFault(Exception):
    """Why a secret cannot be had; ``detail`` is for the agent's log alone."""

    def __init__(self, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.detail = detail


class Sources:
    """Where an agent's secrets come from.

    ``environment`` is the agent's own: the variables that are secrets are taken out of it, so that no child inherits
    them. ``marks`` are variables for the programs that make secrets.
    """

    def __init__(
        self,
        secrets: Mapping[str, SecretSettings],
        environment: MutableMapping[str, str],
        marks: Mapping[str, str] | None = None,
    ) -> None:
        names = {secret.environment for secret in secrets.values()} - {""}
        self._variables = {name: environment.pop(name) for name in sorted(names) if name in environment}
        uses_credentials = any(secret.credential for secret in secrets.values())
        self._credentials = environment.pop(CREDENTIALS, "") if uses_credentials else ""
        self._environment = environment
        self._marks = dict(marks or {})
        self._turns = asyncio.Semaphore(COMMANDS_MAX)
        self._readers = ThreadPoolExecutor(FILES_MAX, "secrets")
        self._pids: set[int] = set()

    @property
    def pids(self) -> Set[int]:
        """Programs that are making secrets now."""
        return self._pids

    async def value(self, secret: SecretSettings) -> bytes:
        """The value, looked up now. Raises `SecretFault`."""
        if secret.environment:
            value = self._variable(secret.environment)
        elif secret.command:
            async with self._turns:
                value = _without_newline(await self._printed(secret.command, secret.timeout_s))
        else:
            path = Path(secret.file) if secret.file else self._credential(secret.credential)
            value = _without_newline(await self._read(path, secret.timeout_s))
        if len(value) > VALUE_BYTES_MAX:
            raise SecretFault(f"its value is longer than {VALUE_BYTES_MAX} bytes")
        if secret.redact and len(value) < VALUE_BYTES_MIN:
            raise SecretFault(
                f"its value is shorter than {VALUE_BYTES_MIN} bytes, too short to be kept out of what tasks print; "
                "use a longer one, or set redact = false in its table"
            )
        return value

    def close(self) -> None:
        """Read nothing more."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def _read(self, path: Path, timeout_s: float) -> bytes:
        reading = asyncio.get_running_loop().run_in_executor(self._readers, _content, path)
        try:
            return await asyncio.wait_for(reading, timeout_s)
        except TimeoutError:
            raise SecretFault(f"its file could not be read within {timeout_s:g} s", str(path)) from None

    def _variable(self, name: str) -> bytes:
        if name not in self._variables:
            raise SecretFault("the agent's environment does not have its variable", name)
        return os.fsencode(self._variables[name])

    def _credential(self, name: str) -> Path:
        if not self._credentials:
            raise SecretFault("the agent was started without credentials; see LoadCredential= in its unit", name)
        return Path(self._credentials) / name

    async def _printed(self, argv: list[str], timeout_s: float) -> bytes:
        """What a program prints. It is started here, in the loop's own thread, so that it is known at once."""
        process = self._begun(argv)
        self._pids.add(process.pid)
        try:
            return await asyncio.wait_for(_output(process), timeout_s)
        except TimeoutError:
            raise SecretFault(f"its command took longer than {timeout_s:g} s", argv[0]) from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._pids.discard(process.pid)

    def _begun(self, argv: list[str]) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in self._environment.items() if name not in _HIDDEN}
        try:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment | self._marks,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise SecretFault(f"its command cannot be started: {_reason(error)}", argv[0]) from None


async def _output(process: subprocess.Popen[bytes]) -> bytes:
    """Everything that a child prints, once it has ended well; read without blocking the loop. Raises `SecretFault`."""
    assert process.stdout is not None, "asked for by the caller"
    with process.stdout as pipe:
        os.set_blocking(pipe.fileno(), False)
        printed = bytearray()
        while data := await _piece(pipe.fileno()):
            printed += data
            if len(printed) > VALUE_BYTES_MAX + 2:
                raise SecretFault(f"its command printed more than {VALUE_BYTES_MAX} bytes")
    await ended(process)
    if process.wait() != 0:
        raise SecretFault(f"its command ended with code {process.returncode}; run it by hand to see why")
    return bytes(printed)


async def _piece(descriptor: int) -> bytes:
    while True:
        await readable(descriptor)
        with contextlib.suppress(BlockingIOError):
            return os.read(descriptor, VALUE_BYTES_MAX)


def _content(path: Path) -> bytes:
    """What a file holds, up to what is too much. Raises `SecretFault`."""
    try:
        # Not blocking, so that a pipe of that name does not hold up the thread.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise SecretFault("its file is no regular file", str(path))
            return file.read(VALUE_BYTES_MAX + 3)
    except OSError as error:
        raise SecretFault(f"its file cannot be read: {_reason(error)}", str(path)) from None


def _reason(error: Exception) -> str:
    """What is wrong, without the name of the file."""
    return getattr(error, "strerror", None) or type(error).__name__


def _without_newline(value: bytes) -> bytes:
    return value.removesuffix(b"\n").removesuffix(b"\r")
