"""Reports put together by hand are what the generated classes would have written; the outbox's files read back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outrider.v1 import agent_service_pb2, worker_message_pb2
from outrider.worker import messages
from outrider_agent import spool, wire
from outrider_agent.link_frames import FrameBuffer, Kind, encode
from outrider_agent.reports import Narrator

UNSIGNED = st.integers(0, 2**64 - 1)
TIME_NS = st.integers(0, 4_000_000_000_000_000_000)
TEXT = st.text(max_size=40)
PAYLOADS = st.lists(st.binary(max_size=60), max_size=12)


@given(TEXT, st.integers(0, 2**32 - 1), UNSIGNED, TIME_NS, st.binary(max_size=300), TEXT, st.lists(TEXT, max_size=3))
def test_a_completed_report_reads_back(
    task_id: str, attempt: int, fence: int, time_ns: int, data: bytes, summary: str, remaining: list[str]
) -> None:
    """Every field of a Completed survives the encoding by hand."""
    narrator = Narrator(task_id, attempt, fence, "")
    encoded = narrator.tell(messages.Completed(1, time_ns, data, "text/plain", summary, remaining))
    read = worker_message_pb2.WorkerMessage.FromString(encoded)
    assert (read.task_id, read.attempt, read.fence, read.number, read.terminal) == (task_id, attempt, fence, 1, True)
    assert read.event_time.ToNanoseconds() == time_ns
    assert (read.completed.result.data, read.completed.result.content_type) == (data, "text/plain")
    assert (read.completed.summary, list(read.completed.remaining_issues)) == (summary, remaining)


@given(TIME_NS, TIME_NS, st.integers(0, 2**31), st.booleans(), TEXT)
def test_a_start_that_travels_with_the_end_reads_back(
    began_ns: int, ended_ns: int, worker_pid: int, has_failed: bool, traceparent: str
) -> None:
    """A terminal message with a start equals the one the generated classes make."""
    narrator = Narrator("t", 1, 7, traceparent)
    narrator.worker_pid = worker_pid
    narrator.held_start = messages.Started(1, began_ns)
    end = messages.Failed(1, ended_ns, 3, "why", True) if has_failed else messages.Completed(1, ended_ns, b"42")
    encoded = narrator.tell(end)
    read = worker_message_pb2.WorkerMessage.FromString(encoded)
    assert (read.number, read.terminal, read.WhichOneof("message")) == (
        1,
        True,
        "failed" if has_failed else "completed",
    )
    assert (read.start.event_time.ToNanoseconds(), read.start.started.worker_pid) == (began_ns, worker_pid)
    assert read.event_time.ToNanoseconds() == ended_ns
    assert read.trace.traceparent == traceparent


@given(UNSIGNED, st.integers(1, 2**63), TEXT, PAYLOADS)
def test_a_reports_frame_reads_back(epoch: int, first_seq: int, outbox_id: str, payloads: list[bytes]) -> None:
    """A Reports frame around encoded messages equals the one the generated classes make."""
    encoded = [
        worker_message_pb2.WorkerMessage(task_id="t", log=worker_message_pb2.Log(data=one)).SerializeToString()
        for one in payloads
    ]
    frame = agent_service_pb2.SessionRequest.FromString(wire.reports_frame(epoch, outbox_id, first_seq, encoded))
    reports = agent_service_pb2.Reports(
        outbox_id=outbox_id,
        first_seq=first_seq,
        messages=map(worker_message_pb2.WorkerMessage.FromString, encoded),
    )
    assert frame == agent_service_pb2.SessionRequest(session_epoch=epoch, reports=reports)


@given(st.lists(st.tuples(st.sampled_from(list(Kind)), st.binary(max_size=50)), max_size=8), st.data())
def test_link_frames_survive_any_cut(frames: list[tuple[Kind, bytes]], data: st.DataObject) -> None:
    """However the stream is cut into pieces, the same frames come out."""
    stream = b"".join(encode(kind, body) for kind, body in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    buffer = FrameBuffer()
    read = [frame for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) for frame in buffer.feed(stream[a:b])]
    assert read == frames


@given(st.lists(st.lists(st.binary(max_size=50), max_size=3), max_size=6), st.data())
def test_worker_frames_survive_any_cut(frames: list[list[bytes]], data: st.DataObject) -> None:
    """However a worker's stream is cut into pieces, the same messages come out, in order."""
    said = [[messages.Completed(1, 2, payload) for payload in frame] for frame in frames]
    stream = b"".join(messages.encode(frame) for frame in said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader = messages.reader_in_keeper()
    read = [one for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) for one in reader.feed(stream[a:b])]
    assert read == [one for frame in said for one in frame]


@given(PAYLOADS, st.integers(1, 1000), st.data())
def test_a_torn_segment_keeps_everything_before_the_tear(
    payloads: list[bytes], first_seq: int, data: st.DataObject
) -> None:
    """A file cut anywhere gives back whole records, in order, and nothing else."""
    records = [spool.encode_records(first_seq + index, [payload]) for index, payload in enumerate(payloads)]
    whole = spool.MARK + spool.encode_records(first_seq, payloads)
    assert whole == spool.MARK + b"".join(records)
    cut = data.draw(st.integers(0, len(whole)))
    read, size = spool.decode_records(whole[:cut], first_seq)
    assert read == payloads[: len(read)]
    if cut >= len(spool.MARK):
        assert size == len(spool.MARK) + sum(map(len, records[: len(read)]))
    assert len(read) == len(payloads) or cut < len(whole)


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=8), st.data())
def test_a_flipped_bit_is_never_read_as_a_report(payloads: list[bytes], data: st.DataObject) -> None:
    """Whatever single bit of a file changes, every record that is still read is one that was written there."""
    whole = bytearray(spool.MARK + spool.encode_records(1, payloads))
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    read, _ = spool.decode_records(bytes(whole), 1)
    assert read == payloads[: len(read)]
    assert len(read) < len(payloads)
