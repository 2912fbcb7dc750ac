"""An agent's disk: outboxes as the bytes that survive, written whole batches at a time.

Real: the form of the records (`spool`), the numbers (`Ledger`). Modelled: the writing thread and the files. A batch is
durable when its write returns; a crash leaves any piece of the write that was under way, a rollback an older image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from outrider.v1 import worker_message_pb2
from outrider_agent import spool
from outrider_agent.core.ledger import Ledger
from outrider_agent.state_directory import Known
from sim.kernel import Kernel
from sim.observer import Witness

Ref = tuple[str, int, int]
WRITE_US = (150, 3_000)


class Disk:
    """What is on one machine's disk."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.random = kernel.stream(f"disk/{name}")
        self.name = name
        #: Bytes of the outbox files, and the seq of their first record, by outbox id.
        self.files: dict[str, tuple[int, bytes]] = {}
        self.remembered = Known()
        self.is_slow = False
        self.is_full = False
        self._image: tuple[dict[str, tuple[int, bytes]], Known] | None = None

    def take_image(self) -> None:
        """Keep a copy of everything."""
        self._image = dict(self.files), self.remembered

    @property
    def has_image(self) -> bool:
        """Whether there is an image to go back to."""
        return self._image is not None

    def copy_of(self, other: Disk) -> None:
        """Hold what another machine's disk holds."""
        self.files, self.remembered = dict(other.files), other.remembered

    def roll_back(self) -> bool:
        """Be as when the last image was taken; False when there is none."""
        if self._image is None:
            return False
        files, self.remembered = self._image
        self.files = dict(files)
        return True

    # --- what `StateDirectory` does --------------------------------------------------------------------------------

    def known(self) -> Known:
        """What was remembered last."""
        return self.remembered

    def remember(self, known: Known) -> None:
        """Keep this for the next keeper."""
        self.remembered = known


class OldModelOutbox:
    """An outbox that an earlier keeper left: read with the real decoder, sent, never written."""

    def __init__(self, disk: Disk, outbox_id: str, witness: Witness) -> None:
        first_seq, data = disk.files[outbox_id]
        self._payloads, whole_bytes = spool.decode_records(data, first_seq)
        if whole_bytes != len(data):
            disk.kernel.tell(disk.name, "outbox has a torn end", outbox_id, whole_bytes, len(data))
        self._first_seq = first_seq
        self._disk = disk
        self._witness = witness
        self.ledger = Ledger(outbox_id)
        self.ledger.written_seq = self.ledger.synced_seq = first_seq + len(self._payloads) - 1
        self.ledger.acknowledged_seq = self.ledger.sent_seq = first_seq - 1
        witness.synced(outbox_id, self.ledger.synced_seq)

    def read(self, seq: int, count_max: int) -> list[bytes]:
        """Reports from ``seq`` on."""
        start = seq - self._first_seq
        return self._payloads[start : start + count_max]

    def acknowledge(self, seq: int) -> bool:
        """Drop everything up to ``seq``; files go when all of it is acknowledged."""
        is_news = self.ledger.acknowledge(seq)
        if is_news:
            self._witness.dropped(self.ledger.outbox_id, seq)
        if self.ledger.pending == 0:
            self._disk.files.pop(self.ledger.outbox_id, None)
        return is_news

    def closed_attempts(self) -> list[Ref]:
        """The attempts whose last report is in here."""
        messages = map(worker_message_pb2.WorkerMessage.FromString, self._payloads)
        return [(message.task_id, message.attempt, message.fence) for message in messages if message.terminal]


class ModelOutbox:
    """The outbox of a living keeper, as `outbox.Outbox`."""

    def __init__(self, disk: Disk, outbox_id: str, on_synced: Callable[[], None], witness: Witness) -> None:
        assert outbox_id not in disk.files, "an outbox id is used once"
        self.ledger = Ledger(outbox_id)
        self.is_closed = False
        self._disk = disk
        self._on_synced = on_synced
        self._witness = witness
        self._memory: list[bytes] = []
        self._memory_first_seq = 1
        self._gathered: list[bytes] = []
        self._writing: list[bytes] = []
        self._is_urgent = False
        self._is_patient = False
        disk.files[outbox_id] = (1, spool.MARK)

    @property
    def is_idle(self) -> bool:
        """True when nothing waits for the disk."""
        return not self._writing and not self._gathered

    @property
    def is_full(self) -> bool:
        """True while the disk takes no more."""
        return self._disk.is_full

    @property
    def unsynced_bytes(self) -> int:
        """How much waits for the disk to take it."""
        return sum(map(len, self._gathered))

    def append(self, payload: bytes, *, is_patient: bool = False) -> int:
        """Number one report and keep it."""
        seq = self.ledger.write()
        self._is_urgent |= not is_patient
        self._memory.append(payload)
        self._gathered.append(payload)
        return seq

    def flush(self) -> None:
        """Write what has gathered, unless a write is under way."""
        if self._writing or not self._gathered or self.is_closed:
            return
        if not self._is_urgent:
            if not self._is_patient:
                self._is_patient = True
                self._disk.kernel.after(5_000, self._lose_patience)
            return
        self._is_urgent = False
        self._writing, self._gathered = self._gathered, []
        self._begin_write()

    def read(self, seq: int, count_max: int) -> list[bytes]:
        """Payloads from ``seq`` on."""
        start = seq - self._memory_first_seq
        return self._memory[start : start + count_max]

    def acknowledge(self, seq: int) -> bool:
        """The coordinator has everything up to ``seq``: drop it."""
        if not self.ledger.acknowledge(seq):
            return False
        self._witness.dropped(self.ledger.outbox_id, seq)
        del self._memory[: seq - self._memory_first_seq + 1]
        self._memory_first_seq = seq + 1
        return True

    def close(self) -> None:
        """Write what is left; an outbox with nothing pending leaves no file."""
        self.is_closed = True
        self._write_all(self._writing + self._gathered)
        if self.ledger.pending == 0:
            self._disk.files.pop(self.ledger.outbox_id, None)

    def crash(self) -> None:
        """The keeper dies: of the write that was under way any piece may be there, of what had gathered nothing."""
        self.is_closed = True
        if not self._writing:
            return
        data = self._encoded(self._writing)
        kept = self._disk.random.choice((0, len(data), self._disk.random.randrange(len(data) + 1)))
        if kept not in (0, len(data)):
            self._disk.kernel.tell(self._disk.name, "a write is torn", kept, len(data))
        first_seq, there = self._disk.files[self.ledger.outbox_id]
        self._disk.files[self.ledger.outbox_id] = (first_seq, there + data[:kept])

    def _begin_write(self) -> None:
        delay_us = self._disk.random.randrange(*WRITE_US)
        if self._disk.is_slow:
            delay_us = self._disk.random.randrange(100_000, 1_000_000)
        self._disk.kernel.after(delay_us, self._written)

    def _written(self) -> None:
        if self.is_closed:
            return
        if self._disk.is_full:
            self._disk.kernel.after(500_000, self._written)
            return
        written, self._writing = self._writing, []
        self._write_all(written)
        self.ledger.synced(self.ledger.synced_seq + len(written))
        self._witness.synced(self.ledger.outbox_id, self.ledger.synced_seq)
        self.flush()
        self._on_synced()

    def _write_all(self, payloads: list[bytes]) -> None:
        if payloads:
            first_seq, there = self._disk.files[self.ledger.outbox_id]
            self._disk.files[self.ledger.outbox_id] = (first_seq, there + self._encoded(payloads))

    def _encoded(self, payloads: list[bytes]) -> bytes:
        """What stands before these on the disk is everything that is synced."""
        return spool.encode_records(self.ledger.synced_seq + 1, payloads)

    def _lose_patience(self) -> None:
        self._is_patient = False
        self._is_urgent = True
        self.flush()


def left_behind(disk: Disk, witness: Witness) -> list[Any]:
    """Outboxes of earlier keepers that hold something, in order of their ids."""
    old = [OldModelOutbox(disk, outbox_id, witness) for outbox_id in sorted(disk.files)]
    for outbox in old:
        if outbox.ledger.pending == 0:
            disk.files.pop(outbox.ledger.outbox_id)
    return [outbox for outbox in old if outbox.ledger.pending]
