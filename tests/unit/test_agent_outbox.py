"""The outbox: what it says is durable can be read back, also after the disk was full or the keeper left."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from outrider_agent import spool
from outrider_agent.outbox import EXIT_SYNC_FAILED, Outbox

TIMEOUT_S = 10.0
#: A process whose files may have 20 bytes: the record cannot be written, and no room will ever be made for it.
FAILING_DISK = """
import asyncio, pathlib, resource, sys
from outrider_agent.outbox import Outbox

async def main():
    loop = asyncio.get_running_loop()
    outbox = Outbox(pathlib.Path(sys.argv[1]), "o", loop, lambda: None, bytes_max=1 << 20, memory_bytes_max=1 << 20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
    outbox.append(b"report")
    outbox.flush()
    await loop.create_future()

asyncio.run(main())
"""


class Desk:
    """One outbox in a folder, and how to wait for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.synced = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.outbox = Outbox(directory, "o", loop, self.synced.set, bytes_max=1 << 20, memory_bytes_max=1 << 20)

    async def until_synced(self, seq: int) -> None:
        """Wait until everything up to ``seq`` is durable."""
        async with asyncio.timeout(TIMEOUT_S):
            while self.outbox.ledger.synced_seq < seq:
                self.synced.clear()
                await self.synced.wait()

    def on_disk(self) -> list[bytes]:
        """The reports that the next keeper would find; there must be no damage."""
        found, damages = spool.find(self.directory)
        assert damages == []
        return [payload for one in found for payload in one.read(one.first_seq, 1_000)]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """An outbox that is closed when the test is over."""
    made = Desk(tmp_path)
    yield made
    if made.outbox._thread.is_alive():
        made.outbox.close()


async def test_what_is_synced_is_on_the_disk(desk: Desk) -> None:
    """Reports can be read back, in order, as soon as they may be sent; batches follow each other in the file."""
    for batch in ([b"one"], [b"two", b"three"], [b""]):
        for payload in batch:
            seq = desk.outbox.append(payload)
        desk.outbox.flush()
        await desk.until_synced(seq)
    assert desk.on_disk() == [b"one", b"two", b"three", b""]
    assert desk.outbox.read(2, 2) == [b"two", b"three"]


async def test_what_gathers_meanwhile_follows_by_itself(desk: Desk) -> None:
    """One flush is enough for what comes while the disk is busy with an earlier one."""
    desk.outbox.append(b"one")
    desk.outbox.flush()
    for _ in range(50):
        seq = desk.outbox.append(b"more")
        desk.outbox.flush()
    await desk.until_synced(seq)
    assert desk.on_disk() == [b"one", *[b"more"] * 50]
    assert desk.outbox.is_idle


async def test_a_patient_report_is_written_too(desk: Desk) -> None:
    """A report that may wait for others is not written at once, and does not wait for ever."""
    desk.outbox.append(b"start", is_patient=True)
    desk.outbox.flush()
    assert desk.outbox.unsynced_bytes == len(b"start")
    await desk.until_synced(1)
    assert desk.on_disk() == [b"start"]


async def test_a_full_disk_loses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is full the outbox says so and keeps its reports; half a record is not left behind."""
    real, is_full = os.write, True

    def write(descriptor: int, data: bytes) -> int:
        if not is_full:
            return real(descriptor, data)
        real(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    desk.outbox.append(b"before")
    desk.outbox.flush()
    await desk.until_synced(1)
    monkeypatch.setattr(os, "write", write)
    desk.outbox.append(b"during")
    desk.outbox.flush()
    async with asyncio.timeout(TIMEOUT_S):
        while not desk.outbox.is_full:
            await asyncio.to_thread(lambda: None)
    assert desk.on_disk() == [b"before"]
    is_full = False
    await desk.until_synced(2)
    assert desk.on_disk() == [b"before", b"during"]
    assert not desk.outbox.is_full


def test_a_disk_that_fails_ends_the_agent(tmp_path: Path) -> None:
    """After a write error other than a full disk nothing more is said to be durable: the process ends."""
    done = subprocess.run([sys.executable, "-c", FAILING_DISK, str(tmp_path)], timeout=TIMEOUT_S, check=False)
    assert done.returncode == EXIT_SYNC_FAILED


async def test_closing_writes_what_is_left(desk: Desk) -> None:
    """A keeper that leaves has everything on disk for the next one, also what was not flushed."""
    desk.outbox.append(b"one")
    desk.outbox.flush()
    desk.outbox.append(b"two", is_patient=True)
    desk.outbox.close()
    assert desk.on_disk() == [b"one", b"two"]


async def test_acknowledged_reports_are_forgotten(desk: Desk) -> None:
    """What the coordinator has is neither read again nor left on the disk by a keeper that leaves."""
    for _ in range(3):
        desk.outbox.append(b"report")
    desk.outbox.flush()
    await desk.until_synced(3)
    assert desk.outbox.acknowledge(2)
    assert not desk.outbox.acknowledge(2)
    assert desk.outbox.ledger.pending == 1
    assert desk.outbox.read(3, 10) == [b"report"]
    desk.outbox.acknowledge(3)
    desk.outbox.close()
    assert list(desk.directory.iterdir()) == []
