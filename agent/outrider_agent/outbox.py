"""The outbox of this keeper process: reports are numbered, written, synced, and only then handed on for sending.

Owns the writing thread and the copy in memory that is sent from. It must not know what a report says. All methods are
called from the keeper's loop; the thread sees only batches.

The thread writes whenever it is idle: everything that gathered meanwhile goes in one write, which returns when it is
durable (``O_DSYNC``): the thread then takes the interpreter's lock once and not after every call.
Invariants: `Ledger`'s; a failed write ends the process, because after it nobody knows what is on the disk; a full disk
keeps the reports in memory and tries again, and `is_full` keeps new work out.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from outrider_agent import spool
from outrider_agent.core.ledger import Ledger

SEGMENT_BYTES = 4 << 20
DISK_RETRY_S = 0.5
EXIT_SYNC_FAILED = 70
#: How long a report that nobody waits for, such as a start or output, may wait for others before it is synced.
PATIENCE_S = 0.005

_logger = logging.getLogger(__name__)


class Outbox:
    """One durable, numbered queue of reports. `on_synced` is called in the loop whenever more may be sent."""

    def __init__(
        self,
        directory: Path,
        outbox_id: str,
        loop: asyncio.AbstractEventLoop,
        on_synced: Callable[[], None],
        *,
        bytes_max: int,
        memory_bytes_max: int,
    ) -> None:
        self.ledger = Ledger(outbox_id)
        self._directory = directory
        self._loop = loop
        self._on_synced = on_synced
        self._bytes_max = bytes_max
        self._memory_bytes_max = memory_bytes_max
        self._disk = spool.Segments(outbox_id)
        segment, self._descriptor = spool.create(directory, outbox_id, 1)
        self._disk.segments.append(segment)
        self._memory: deque[bytes] = deque()
        self._memory_first_seq = 1
        self._memory_bytes = 0
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._is_writing = False
        self._is_urgent = False
        self._patience: asyncio.TimerHandle | None = None
        self._disk_is_full = False
        #: For the thread: where the file ends, the seq of the first payload, the payloads; None to end.
        self._batches: queue.SimpleQueue[tuple[int, int, list[bytes]] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    @property
    def outbox_id(self) -> str:
        """The random id of this outbox."""
        return self.ledger.outbox_id

    @property
    def is_idle(self) -> bool:
        """True when nothing waits for the disk."""
        return not self._is_writing and not self._gathered

    @property
    def is_full(self) -> bool:
        """True when the agent must take no more work: too much is on disk, or the disk takes no more."""
        return self._disk_is_full or self._disk.size_bytes + self._gathered_bytes > self._bytes_max

    @property
    def unsynced_bytes(self) -> int:
        """How much waits for the disk to take it."""
        return self._gathered_bytes

    def append(self, payload: bytes, *, is_patient: bool = False) -> int:
        """Number one report and keep it; it is written at the next `flush`. Returns its seq.

        A patient one may wait `PATIENCE_S` for others to share the sync with.
        """
        seq = self.ledger.write()
        self._is_urgent |= not is_patient
        self._memory.append(payload)
        self._memory_bytes += len(payload)
        self._gathered.append(payload)
        self._gathered_bytes += len(payload)
        return seq

    def flush(self) -> None:
        """Let the thread write what has gathered, unless it is at it; then it goes on by itself."""
        if self._is_writing or not self._gathered:
            return
        if not self._is_urgent:
            if self._patience is None:
                self._patience = self._loop.call_later(PATIENCE_S, self._lose_patience)
            return
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._is_urgent = False
        self._rotate_when_due()
        self._is_writing = True
        self._batches.put((self._disk.segments[-1].size_bytes, *self._take_gathered()))

    def _take_gathered(self) -> tuple[int, list[bytes]]:
        """What waits to be written: the first seq and the payloads from there on."""
        payloads, self._gathered, self._gathered_bytes = self._gathered, [], 0
        return self.ledger.written_seq - len(payloads) + 1, payloads

    def _lose_patience(self) -> None:
        self._patience = None
        self._is_urgent = True
        self.flush()

    def read(self, seq: int, count_max: int) -> list[bytes]:
        """Payloads from ``seq`` on, at least one if it is synced."""
        if seq < self._memory_first_seq:
            return self._disk.read(seq, min(count_max, self._memory_first_seq - seq))
        start = seq - self._memory_first_seq
        return list(islice(self._memory, start, start + count_max))

    def acknowledge(self, seq: int) -> bool:
        """The coordinator has everything up to ``seq``: drop it. False when that is nothing new."""
        if not self.ledger.acknowledge(seq):
            return False
        self._forget(min(len(self._memory), seq - self._memory_first_seq + 1))
        self._disk.drop_through(seq, keep_last=True)
        return True

    def close(self) -> None:
        """Write what is left and end the thread; what is not acknowledged stays on disk for the next keeper."""
        if self._patience is not None:
            self._patience.cancel()
        self._closing.set()
        self._batches.put(None)
        self._thread.join()
        if self._gathered and not self._disk_is_full:
            spool.write_whole(self._descriptor, spool.encode_records(*self._take_gathered()))
        os.close(self._descriptor)
        if self.ledger.pending == 0:
            self._disk.drop_through(self.ledger.written_seq, keep_last=False)

    def _rotate_when_due(self) -> None:
        """Begin a new file when this one is large; also a small one goes once all of it is acknowledged."""
        current = self._disk.segments[-1]
        if current.size_bytes < SEGMENT_BYTES:
            return
        try:
            segment, descriptor = spool.create(self._directory, self.outbox_id, current.last_seq + 1)
        except OSError as error:
            _logger.warning("cannot begin a new outbox file, going on in the old one: %s", error.strerror)
            return
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._disk.segments.append(segment)
        self._disk.drop_through(self.ledger.acknowledged_seq, keep_last=True)

    def _written(self, count: int, size_bytes: int) -> None:
        """A batch is durable (called in the loop)."""
        self._is_writing = self._disk_is_full = False
        current = self._disk.segments[-1]
        current.last_seq += count
        current.size_bytes += size_bytes
        self.ledger.synced(self.ledger.synced_seq + count)
        while self._memory_bytes > self._memory_bytes_max and self._memory_first_seq <= self.ledger.synced_seq:
            self._forget(1)
        self.flush()
        self._on_synced()

    def _forget(self, count: int) -> None:
        """Keep the oldest ``count`` reports in memory no longer."""
        popleft, size_bytes = self._memory.popleft, 0
        for _ in range(count):
            size_bytes += len(popleft())
        self._memory_bytes -= size_bytes
        self._memory_first_seq += max(0, count)

    def _full(self) -> None:
        if not self._disk_is_full:
            _logger.error("the disk of %s is full: taking no new work until there is room", self._directory)
        self._disk_is_full = True

    # --- in the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            end, first_seq, payloads = batch
            size_bytes = self._write(end, spool.encode_records(first_seq, payloads))
            if size_bytes:
                self._tell(self._written, len(payloads), size_bytes)

    def _write(self, end: int, records: bytes) -> int:
        """Make records durable at the file's end; returns the number of bytes, 0 when the disk was full to the last."""
        while True:
            try:
                return spool.write_whole(self._descriptor, records)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    self._fail(error)
                os.ftruncate(self._descriptor, end)
                self._tell(self._full)
                if self._closing.wait(DISK_RETRY_S):
                    return 0

    def _tell(self, method: Callable[..., None], *arguments: int) -> None:
        # The loop may be closed already when the last batch is done; then nobody needs to know.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(method, *arguments)

    def _fail(self, error: OSError) -> None:
        _logger.critical("the outbox in %s cannot be written: %s; stopping", self._directory, error)
        os._exit(EXIT_SYNC_FAILED)
