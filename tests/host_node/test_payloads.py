"""Payloads: verdicts about chunks, one bound for all, nothing kept that was released (E4, C1)."""

import os

import pytest

from sim.payloads import Payloads as SimulatedPayloads
from zeitgeist.core.effects import Expect, PayloadCorrupt, PayloadReady, Release
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.formats.tensor import RowMajor, TensorEnvelope, chunk_count_for
from zeitgeist.core.ids import Handle, LinkId, TransferId
from zeitgeist.core.wire.chunks import chunks_of, pack_chunk
from zeitgeist.core.wire.frame import Channel, Frame
from zeitgeist.host.payloads import Payloads

pytestmark = pytest.mark.requirement("E4")
LINK = LinkId(1)


def envelope_of(data: bytes, chunk: int = 1000) -> TensorEnvelope:
    return TensorEnvelope(
        tensor="t",
        op="",
        model="",
        job="",
        session="",
        role="hidden",
        shape=(len(data),),
        dtype="u8",
        layout=RowMajor(),
        quant="",
        byte_order="little",
        framing="chunks",
        compression="none",
        length=len(data),
        checksum=content_digest(data),
        sequence=0,
        chunk_bytes=chunk,
        chunk_count=chunk_count_for(len(data), chunk),
    )


def frames_of(data: bytes) -> list[Frame]:
    return [
        Frame(channel=Channel.TENSOR, kind=47, stream=1, sequence=i, payload=pack_chunk(head) + raw)
        for i, (head, raw) in enumerate(chunks_of(envelope_of(data), data))
    ]


def expected(payloads: Payloads | SimulatedPayloads, data: bytes) -> None:
    op = Expect(handle=Handle(2), link=LINK, stream=TransferId(1), envelope=envelope_of(data))
    payloads.expect(op) if isinstance(payloads, Payloads) else payloads.apply(op)


def test_a_host_and_the_simulator_give_the_same_verdicts() -> None:
    """Chunks in order, twice, damaged, of another tensor, cut and unannounced: two implementations, one answer each."""
    data = os.urandom(4500)
    good = frames_of(data)
    other = bytearray(good[2].payload)
    other[-1] ^= 1
    stray = Frame(channel=Channel.TENSOR, kind=47, stream=9, sequence=0, payload=good[0].payload)
    damaged = Frame(channel=Channel.TENSOR, kind=47, stream=1, sequence=2, payload=bytes(other))
    short = Frame(channel=Channel.TENSOR, kind=47, stream=1, sequence=3, payload=bytes(good[3].payload)[:-7])
    told = []
    for payloads in (Payloads(1 << 20, 1 << 20), SimulatedPayloads(1 << 20)):
        expected(payloads, data)
        told.append([payloads.arrived(LINK, frame) for frame in (good[0], good[0], damaged, short, stray, *good[1:])])
    assert told[0] == told[1]
    verdicts = [chunk.verdict for chunk in told[0]]
    assert verdicts == ["accepted", "duplicate", "corrupt", "refused", "unexpected", *["accepted"] * 4]


def test_the_whole_is_judged_once_and_given_once() -> None:
    """After the last chunk; a second look finds nothing to judge; a wrong whole is corrupt."""
    data = os.urandom(2500)
    for lie in (False, True):
        payloads = Payloads(1 << 20, 1 << 20)
        said = envelope_of(data[::-1] if lie else data)
        payloads.expect(Expect(handle=Handle(2), link=LINK, stream=TransferId(1), envelope=said))
        for frame in frames_of(data):
            assert payloads.completed(LINK, 1) is None
            assert payloads.arrived(LINK, frame).verdict == "accepted"
        whole = payloads.completed(LINK, 1)
        assert whole is not None and payloads.completed(LINK, 1) is None
        handle, assembler = whole
        try:
            found = assembler.finish()
        except ZeitgeistError as error:
            found = error
        verdict = payloads.judged(handle, found)
        assert isinstance(verdict, PayloadCorrupt if lie else PayloadReady)
        if not lie:
            assert payloads.get(handle) == data
            assert payloads.completed(LINK, 1) is None


def test_everything_together_stays_below_the_bound() -> None:
    """Content and expectations count; what would exceed the bound is refused before memory is taken; a release gives
    the room back, to the byte."""
    payloads = Payloads(10_000, 8_000)
    held = payloads.put(bytes(4000))
    with pytest.raises(ZeitgeistError) as refusal:
        payloads.put(bytes(6001))
    assert refusal.value.id == "zg/transport/memory-full"
    data = bytes(7000)
    expected(payloads, data)
    told = payloads.arrived(LINK, frames_of(data)[0])
    assert told.verdict == "refused" and told.reason is not None
    assert told.reason.id == "zg/transport/memory-full"
    payloads.release(Release(handle=Handle(2)))
    payloads.release(Release(handle=held.handle))
    assert payloads.bytes == 0
    expected(payloads, data)
    assert payloads.bytes == 7000
    assert payloads.arrived(LINK, frames_of(data)[0]).verdict == "accepted"
    payloads.release(Release(handle=Handle(2)))
    assert (payloads.bytes, payloads.held, payloads.assemblers, payloads.expected) == (0, {}, {}, {})


def test_a_resumed_transfer_goes_on_over_another_link() -> None:
    """Two chunks on the first link, which goes down; the same handle on a second: the rest completes it."""
    data = os.urandom(4000)
    frames = frames_of(data)
    payloads = Payloads(1 << 20, 1 << 20)
    expected(payloads, data)
    for frame in frames[:2]:
        payloads.arrived(LINK, frame)
    payloads.link_down(LINK)
    assert payloads.arrived(LINK, frames[2]).verdict == "unexpected"
    again = LinkId(2)
    payloads.expect(Expect(handle=Handle(2), link=again, stream=TransferId(1), envelope=envelope_of(data)))
    assert [payloads.arrived(again, frame).verdict for frame in frames[2:]] == ["accepted", "accepted"]
    assert payloads.completed(again, 1) is not None


def test_a_tensor_that_is_offered_again_and_again_leaves_one_expectation() -> None:
    """A peer offers the same tensor under ever new numbers: the older ones are forgotten, in both implementations."""
    for payloads in (Payloads(1 << 20, 1 << 20), SimulatedPayloads(1 << 20)):
        for number in range(1, 50, 2):
            op = Expect(handle=Handle(2), link=LINK, stream=TransferId(number), envelope=envelope_of(b"data"))
            payloads.expect(op) if isinstance(payloads, Payloads) else payloads.apply(op)
        assert list(payloads.expected) == [(LINK, 49)]
