"""All outboxes on this agent's disk: the one being written, and those that earlier keepers left.

Owns the order of sending (old ones first), how much is under way, and which attempts an acknowledgement ends. It must
not know the session or the link: it hands out encoded frames and is told what came back.

Invariants: `Ledger`'s for each outbox; at most `WINDOW_BYTES` (or one report) are sent and not acknowledged, so that
a heartbeat never stands behind more than that; an old outbox is deleted when all of it is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from outrider.v1 import worker_message_pb2
from outrider_agent import spool, wire
from outrider_agent.core.ledger import Ledger
from outrider_agent.outbox import Outbox

FRAME_BYTES_MAX = 256 * 1024
FRAME_REPORTS_MAX = 2_000
WINDOW_BYTES = 4 << 20

_logger = logging.getLogger(__name__)

Ref = tuple[str, int, int]


class Source(Protocol):
    """What frames are made from."""

    @property
    def ledger(self) -> Ledger:
        """How far it is."""

    def read(self, seq: int, count_max: int) -> list[bytes]:
        """Reports from ``seq`` on."""

    def acknowledge(self, seq: int) -> bool:
        """Drop everything up to ``seq``."""


class Kept(Source, Protocol):
    """An outbox of an earlier keeper."""

    def closed_attempts(self) -> list[Ref]:
        """The attempts whose last report is in here."""


class Written(Source, Protocol):
    """The outbox of this keeper; see `Outbox`."""

    def append(self, payload: bytes, *, is_patient: bool = False) -> int:
        """Number one report and keep it."""

    def flush(self) -> None:
        """Write what has gathered."""

    def close(self) -> None:
        """Write what is left."""

    @property
    def is_idle(self) -> bool:
        """True when nothing waits for the disk."""

    @property
    def is_full(self) -> bool:
        """True when no more work may be taken."""

    @property
    def unsynced_bytes(self) -> int:
        """How much waits for the disk to take it."""


class OldOutbox:
    """An outbox of an earlier keeper: read, sent, never written."""

    def __init__(self, directory: Path, segments: spool.Segments) -> None:
        self._directory = directory
        self.ledger = Ledger(segments.outbox_id)
        self.ledger.written_seq = self.ledger.synced_seq = segments.last_seq
        self.ledger.acknowledged_seq = self.ledger.sent_seq = segments.first_seq - 1
        self._segments = segments

    def read(self, seq: int, count_max: int) -> list[bytes]:
        """Reports from ``seq`` on, from the disk."""
        return self._segments.read(seq, count_max)

    def acknowledge(self, seq: int) -> bool:
        """Delete the files whose reports are all acknowledged."""
        is_news = self.ledger.acknowledge(seq)
        self._segments.drop_through(self.ledger.acknowledged_seq, keep_last=False)
        if self.ledger.pending == 0:
            self.delete()
        return is_news

    def delete(self) -> None:
        """Remove every file, also damaged ones that could not be read."""
        for path in self._directory.glob(f"{self.ledger.outbox_id}.*.log"):
            path.unlink(missing_ok=True)

    def closed_attempts(self) -> list[Ref]:
        """The attempts whose last report is in here."""
        refs = []
        seq = self.ledger.first_seq
        while payloads := self._segments.read(seq, FRAME_REPORTS_MAX):
            seq += len(payloads)
            for message in map(worker_message_pb2.WorkerMessage.FromString, payloads):
                if message.terminal:
                    refs.append((message.task_id, message.attempt, message.fence))
        return refs


class Outboxes:
    """The old outboxes and the current one, as one stream of frames."""

    def __init__(self, old: Sequence[Kept], current: Written) -> None:
        self.old = list(old)
        self.current = current
        self.held = {outbox.ledger.outbox_id: outbox.closed_attempts() for outbox in self.old}
        self._terminals: deque[tuple[int, int]] = deque()
        self._under_way: deque[tuple[Ledger, int, int]] = deque()
        self._under_way_bytes = 0

    @property
    def pending(self) -> int:
        """Reports that are not acknowledged."""
        return sum(source.ledger.pending for source in self._sources())

    @property
    def is_idle(self) -> bool:
        """True when a report would be written at once."""
        return self.current.is_idle

    def ranges(self) -> list[tuple[str, int, int]]:
        """Id, first seq held and last seq written of each outbox, the current one last."""
        ledgers = [source.ledger for source in self._sources()]
        return [(ledger.outbox_id, ledger.first_seq, ledger.written_seq) for ledger in ledgers]

    @property
    def synced_seq(self) -> int:
        """Reports of this keeper up to here survive a crash."""
        return self.current.ledger.synced_seq

    def append(self, key: int, payload: bytes, *, is_terminal: bool, is_patient: bool) -> int:
        """Keep one report of the attempt ``key``; it is sent once it is durable. Returns its seq."""
        seq = self.current.append(payload, is_patient=is_patient)
        if is_terminal:
            self._terminals.append((seq, key))
        return seq

    def rewind(self, applied: Mapping[str, int]) -> list[int]:
        """A session has begun with this much applied on the other side; returns keys as `acknowledge` does."""
        self._under_way.clear()
        self._under_way_bytes = 0
        keys = []
        for source in self._sources():
            seq = min(applied.get(source.ledger.outbox_id, 0), source.ledger.written_seq)
            keys += self.acknowledge(source.ledger.outbox_id, seq)
            source.ledger.rewind(source.ledger.acknowledged_seq)
        return keys

    def acknowledge(self, outbox_id: str, seq: int) -> list[int]:
        """Everything up to ``seq`` is durable on the other side: drop it. Keys of the attempts that ends."""
        source = next((one for one in self._sources() if one.ledger.outbox_id == outbox_id), None)
        if source is None:
            return []
        source.acknowledge(seq)
        self._arrived(source.ledger)
        self._drop_finished()
        return self._ended() if source is self.current else []

    def next_frame(self, epoch: int) -> bytes | None:
        """The next Reports frame; None when there is nothing to send now."""
        if self._under_way_bytes >= WINDOW_BYTES:
            return None
        for source in self._sources() if self.old else (self.current,):
            unsent = source.ledger.unsent()
            if unsent:
                return self._frame(epoch, source, unsent)
        return None

    def close(self) -> None:
        """Write what is left of the current one."""
        self.current.close()

    def _frame(self, epoch: int, source: Source, unsent: range) -> bytes | None:
        payloads = source.read(unsent.start, min(FRAME_REPORTS_MAX, len(unsent)))
        if not payloads:
            _logger.error("outbox %s: seq %d cannot be read back", source.ledger.outbox_id, unsent.start)
            return None
        count = len(payloads)
        if sum(map(len, payloads)) > FRAME_BYTES_MAX:
            count = max(1, sum(1 for size in accumulate(map(len, payloads)) if size <= FRAME_BYTES_MAX))
        frame = wire.reports_frame(epoch, source.ledger.outbox_id, unsent.start, payloads[:count])
        last_seq = unsent.start + count - 1
        source.ledger.sent(last_seq)
        self._under_way.append((source.ledger, last_seq, len(frame)))
        self._under_way_bytes += len(frame)
        return frame

    def _arrived(self, ledger: Ledger) -> None:
        while self._under_way:
            first, last_seq, size_bytes = self._under_way[0]
            if first is not ledger or last_seq > ledger.acknowledged_seq:
                return
            self._under_way.popleft()
            self._under_way_bytes -= size_bytes

    def _ended(self) -> list[int]:
        keys = []
        while self._terminals and self._terminals[0][0] <= self.current.ledger.acknowledged_seq:
            keys.append(self._terminals.popleft()[1])
        return keys

    def _drop_finished(self) -> None:
        for outbox in [outbox for outbox in self.old if outbox.ledger.pending == 0]:
            self.old.remove(outbox)
            self.held.pop(outbox.ledger.outbox_id, None)

    def _sources(self) -> Iterable[Source]:
        return [*self.old, self.current]


def open_outboxes(
    directory: Path,
    outbox_id: str,
    loop: asyncio.AbstractEventLoop,
    on_synced: Callable[[], None],
    *,
    bytes_max: int,
    memory_bytes_max: int,
) -> Outboxes:
    """What earlier keepers left in ``directory``, and a new outbox there."""
    old = _find_old(directory)
    current = Outbox(directory, outbox_id, loop, on_synced, bytes_max=bytes_max, memory_bytes_max=memory_bytes_max)
    return Outboxes(old, current)


def _find_old(directory: Path) -> list[OldOutbox]:
    found, damages = spool.find(directory)
    for damage in damages:
        _logger.warning(
            "%s is readable up to byte %d of %d; the rest was never synced or is damaged, and is not sent",
            damage.path.name,
            damage.whole_bytes,
            damage.size_bytes,
        )
    old = [OldOutbox(directory, segments) for segments in found]
    for outbox in old:
        if outbox.ledger.pending == 0:
            outbox.delete()
    return [outbox for outbox in old if outbox.ledger.pending]
