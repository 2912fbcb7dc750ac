"""What has been written, synced, sent and acknowledged of one outbox.

Owns the numbers and nothing else; seqs count from 1. Invariant: acknowledged <= sent <= synced <= written, so nothing
is sent that a crash could undo, and nothing is dropped that the coordinator does not have.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Ledger:
    """Progress of one outbox; each field is the highest seq that came this far."""

    outbox_id: str
    written_seq: int = 0
    synced_seq: int = 0
    sent_seq: int = 0
    acknowledged_seq: int = 0

    @property
    def pending(self) -> int:
        """Reports that are not acknowledged."""
        return self.written_seq - self.acknowledged_seq

    @property
    def first_seq(self) -> int:
        """First report still held; one past the last when none is."""
        return self.acknowledged_seq + 1

    def write(self) -> int:
        """Number the next report."""
        self.written_seq += 1
        return self.written_seq

    def synced(self, seq: int) -> None:
        """Everything up to ``seq`` survives a crash."""
        assert self.synced_seq <= seq <= self.written_seq, "synced what was not written"
        self.synced_seq = seq

    def sent(self, seq: int) -> None:
        """Everything up to ``seq`` went to the current session."""
        assert self.sent_seq < seq <= self.synced_seq, "sent what is not synced"
        self.sent_seq = seq

    def unsent(self) -> range:
        """Seqs that may be sent now."""
        return range(self.sent_seq + 1, self.synced_seq + 1)

    def acknowledge(self, seq: int) -> bool:
        """The coordinator has everything up to ``seq``; False when that is nothing new, or never was written here."""
        if not self.acknowledged_seq < seq <= self.written_seq:
            return False
        self.acknowledged_seq = seq
        self.sent_seq = max(self.sent_seq, seq)
        return True

    def rewind(self, applied_seq: int) -> None:
        """A new session has begun and the coordinator has everything up to ``applied_seq``: send what follows again."""
        self.acknowledge(applied_seq)
        self.sent_seq = self.acknowledged_seq
