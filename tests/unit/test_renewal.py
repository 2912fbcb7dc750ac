"""The agent's side of renewal: whose children the processes are that get certificates."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from outrider_agent import renewal, trees

#: Waits until its input ends, then fails with a line.
FAILS = "import sys; sys.stdin.read(); sys.exit('no answer')"


async def test_a_renewal_that_fails_is_not_taken_for_one_of_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it runs it is known by pid: who reaps what attempts left behind leaves it, so its failure is heard."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(_: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", FAILS],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        begun.append(process)
        return process

    monkeypatch.setattr(renewal, "_begun", begin)
    renewing = renewal.Renewal(tmp_path, lambda: None)
    trying = asyncio.ensure_future(renewing._try())
    await asyncio.sleep(0)
    (process,) = begun
    assert renewing.pids == {process.pid}
    assert process.stdin is not None
    process.stdin.close()
    # It is a zombie once it ends; looking for orphans meanwhile does not reap it.
    while not trying.done():
        assert process.pid not in trees.orphans(renewing.pids)
        await asyncio.sleep(0)
    assert await trying == "no answer"
    assert renewing.pids == set()
