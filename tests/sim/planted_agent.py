"""Bugs planted into the agent: name, the promise it breaks, and (where, attribute, replacement of the original)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from outrider_agent import conversation, outboxes
from outrider_agent.core import board, ledger, session
from outrider_agent.core import lease as agent_lease
from sim import workers


def _reused(original: Any) -> Any:
    """Now and then a seq is used twice."""

    def write(known: Any) -> int:
        seq = original(known)
        if seq % 15 == 0 and known.synced_seq < seq - 1:
            known.written_seq -= 1
        return int(seq)

    return write


def _dropped_when_sent(original: Any) -> Any:
    def frame(known: Any, epoch: int, source: Any, unsent: Any) -> Any:
        made = original(known, epoch, source, unsent)
        source.acknowledge(source.ledger.sent_seq)
        return made

    return frame


def _dropped_on_welcome(original: Any) -> Any:
    def rewind(known: Any, applied: Any) -> Any:
        everything = {source.ledger.outbox_id: source.ledger.synced_seq for source in known._sources()}
        return original(known, everything)

    return rewind


def _sent_unsynced(original: Any) -> Any:
    return lambda known: range(known.sent_seq + 1, known.written_seq + 1)


def _sent(original: Any) -> Any:
    def sent(known: Any, seq: int) -> None:
        known.sent_seq = seq

    return sent


def _more_slots(original: Any) -> Any:
    def start(known: Any, plan: Any, used: int, now_us: int) -> Any:
        return original(known, plan, min(used, max(0, used - 1)), now_us)

    return start


def _parked_all(original: Any) -> Any:
    """Whoever waits is parked, however many do."""

    def park(known: Any, attempt: Any) -> Any:
        known.limits = replace(known.limits, parked_max=1_000)
        return original(known, attempt)

    return park


def _kept_anyway(original: Any) -> Any:
    """Fenced attempts run on."""
    return lambda verdict, attempt: False


def _any_epoch(original: Any) -> Any:
    def heard(known: Any, epoch: int, now_us: int) -> bool:
        return bool(original(known, known.epoch, now_us))

    return heard


def _held_forever(original: Any) -> Any:
    return lambda known, now_us: []


def _nothing(original: Any) -> Any:
    return lambda *arguments, **named: None


def _nothing_held(original: Any) -> Any:
    """Hello lists nothing."""

    def hello(identity: Any, store_id: str, epoch: int, held: Any, *rest: Any) -> Any:
        return original(identity, store_id, epoch, [], *rest)

    return hello


BUGS: tuple[tuple[Any, ...], ...] = (
    ("reuse an outbox seq", "I5", (ledger.Ledger, "write", _reused)),
    ("drop a report when it is sent", "I8", (outboxes.Outboxes, "_frame", _dropped_when_sent)),
    ("drop everything on Welcome", "I8", (outboxes.Outboxes, "rewind", _dropped_on_welcome)),
    (
        "send what is not synced",
        "I8",
        (ledger.Ledger, "unsent", _sent_unsynced),
        (ledger.Ledger, "sent", _sent),
    ),
    ("park without end", "I16", (board.Board, "_park", _parked_all)),
    ("use one slot too many", "I11", (board.Board, "_start_on_idle", _more_slots)),
    (
        "let the lease run on",
        "I13",
        (agent_lease.Lease, "ended", _held_forever),
        (workers.ModelWorker, "_watch_lease", _nothing),
    ),
    ("let fenced attempts run on", "quiet", (conversation, "_is_unwanted", _kept_anyway)),
    ("send nothing again in a new session", "empty", (ledger.Ledger, "rewind", _nothing)),
    ("list nothing in Hello", "I2", (conversation.frames, "hello", _nothing_held)),
    ("notice no silent coordinator", "online", (session.Session, "tick", lambda original: _only_open(original))),
)


def _only_open(original: Any) -> Any:
    """Streams that hang are never closed."""

    def tick(known: Any, now_us: int) -> str:
        if known.phase not in (session.Phase.WAITING, session.Phase.ENDED):
            return ""
        return str(original(known, now_us))

    return tick
