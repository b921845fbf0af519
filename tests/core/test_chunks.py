"""Chunked transfer: any order, doubles, damage, lies and interruptions (C1)."""

import tracemalloc

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.golden_engines import ENVELOPE
from zeitgeist.core.errors import RemoteProtocolError, ZeitgeistError
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.formats.tensor import TensorEnvelope, chunk_count_for
from zeitgeist.core.limits import CHUNK_BYTES_MAX, CHUNK_RECORD_BYTES_MAX, NAME_BYTES_MAX, TENSOR_BYTES_MAX
from zeitgeist.core.wire.chunks import Assembler, ChunkHead, chunks_of, pack_chunk, unpack_chunk
from zeitgeist.core.wire.frame import Channel, Frame, FrameDecoder, encode_frame

pytestmark = pytest.mark.requirement("C1")


def envelope_of(content: bytes, chunk_bytes: int) -> TensorEnvelope:
    return msgspec.structs.replace(
        ENVELOPE,
        shape=(len(content),),
        length=len(content),
        checksum=content_digest(content),
        chunk_bytes=chunk_bytes,
        chunk_count=chunk_count_for(len(content), chunk_bytes),
    )


CONTENT = bytes(range(95))
TENSOR = envelope_of(CONTENT, 10)
CHUNKS = list(chunks_of(TENSOR, CONTENT))


def refused(head: ChunkHead, raw: bytes | memoryview, assembler: Assembler | None = None) -> tuple[str, str]:
    with pytest.raises(RemoteProtocolError) as caught:
        (assembler or Assembler(TENSOR, 1000)).accept(head, raw)
    return caught.value.id.removeprefix("zg/tensor/"), caught.value.field


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 40), st.randoms(use_true_random=False), st.data())
def test_a_tensor_arrives_whole_by_any_order_with_doubles_and_damage(content, chunk_bytes, rng, data) -> None:
    """Through frames and a decoder: shuffled, some twice, some damaged; damaged ones are asked for and come again."""
    envelope = envelope_of(content, chunk_bytes)
    sent = list(chunks_of(envelope, content))
    sent += [chunk for chunk in sent if rng.random() < 0.3]
    rng.shuffle(sent)
    assembler, decoder, seen = Assembler(envelope, 300), FrameDecoder(), set()
    for head, raw in sent:
        if damaged := rng.random() < 0.2:
            raw = bytes([raw[0] ^ 1]) + bytes(raw[1:])
        (frame,) = decoder.feed(encode_frame(Frame(channel=Channel.TENSOR, kind=1, payload=pack_chunk(head) + raw)))
        if damaged:
            assert refused(*unpack_chunk(frame.payload), assembler) == ("corrupt-chunk", f"chunk {head.index}")
            assert (head.index in assembler.missing()) == (head.index not in seen)
        else:
            assert assembler.accept(*unpack_chunk(frame.payload)) == ("duplicate" if head.index in seen else "accepted")
            seen.add(head.index)
    assert set(assembler.missing()) == set(range(envelope.chunk_count)) - seen
    for head, raw in chunks_of(envelope, content, assembler.missing()):
        assembler.accept(head, raw)
    assert assembler.missing() == () and assembler.complete
    assert bytes(assembler.finish()) == content


def test_missing_chunks_are_named_corrupt_ones_first() -> None:
    """And no more than were asked for, so that a request has a bounded size."""
    assembler = Assembler(TENSOR, 1000)
    assembler.accept(*CHUNKS[0])
    refused(CHUNKS[7][0], b"\0" * 10, assembler)
    assert assembler.missing() == (7, 1, 2, 3, 4, 5, 6, 8, 9) and assembler.missing(2) == (7, 1)
    with pytest.raises(RemoteProtocolError, match=r"missing \(7, 1, 2.*zg/tensor/incomplete"):
        assembler.finish()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tensor": "other"}, ("foreign-chunk", "tensor")),
        ({"index": 10}, ("bad-chunk", "index")),
        ({"index": -1}, ("bad-chunk", "index")),
        ({"index": 4}, ("bad-chunk", "offset")),
        ({"offset": 35}, ("bad-chunk", "offset")),
        ({"offset": (1 << 64) - 10}, ("bad-chunk", "offset")),
        ({"length": 20}, ("bad-chunk", "length")),
        ({"xxh3": 0}, ("corrupt-chunk", "chunk 3")),
    ],
)
def test_a_head_that_lies_is_refused_by_field(change: dict[str, object], named: tuple[str, str]) -> None:
    """Nothing overlaps, nothing lands outside, nothing of another tensor is taken; and nothing was written."""
    head, raw = CHUNKS[3]
    assembler = Assembler(TENSOR, 1000)
    assert refused(msgspec.structs.replace(head, **change), raw, assembler) == named
    assert assembler.content is None and not assembler.received


def test_bytes_that_are_not_as_many_as_the_head_says_are_refused() -> None:
    """Short and long, also of the last chunk, which is shorter than the others."""
    assert refused(CHUNKS[3][0], CHUNKS[3][1][:9]) == ("bad-chunk", "payload")
    assert refused(CHUNKS[9][0], CONTENT[85:]) == ("bad-chunk", "payload")


def test_a_second_content_for_an_accepted_chunk_is_refused() -> None:
    """Each is sound by its own checksum; a sender that says two things is wrong, the first bytes stay."""
    assembler = Assembler(TENSOR, 1000)
    assembler.accept(*CHUNKS[3])
    (lie,) = chunks_of(TENSOR, CONTENT[::-1], [3])
    assert refused(*lie, assembler) == ("bad-chunk", "chunk 3")
    assert bytes(assembler.content[30:40]) == CONTENT[30:40]


def test_a_whole_that_differs_from_the_envelopes_digest_is_refused_and_asked_for_again() -> None:
    """Every chunk verifies, the tensor is another one. The right chunks are then taken."""
    assembler = Assembler(TENSOR, 1000)
    for chunk in chunks_of(TENSOR, CONTENT[::-1]):
        assembler.accept(*chunk)
    with pytest.raises(RemoteProtocolError, match=r"^checksum: .*zg/tensor/corrupt-content"):
        assembler.finish()
    for chunk in chunks_of(TENSOR, CONTENT, assembler.missing()):
        assembler.accept(*chunk)
    assert bytes(assembler.finish()) == CONTENT


def test_an_interrupted_transfer_resumes_with_what_the_memory_still_holds() -> None:
    """A chunk that was changed in the memory meanwhile is found and asked for; the others are not sent again."""
    memory = memoryview(bytearray(95))
    first = Assembler(TENSOR, 1000, into=memory)
    for chunk in CHUNKS[:6]:
        first.accept(*chunk)
    memory[25] ^= 1
    second = Assembler(TENSOR, 1000, into=memory, have=first.received)
    assert second.missing() == (2, 6, 7, 8, 9)
    for chunk in chunks_of(TENSOR, CONTENT, second.missing()):
        second.accept(*chunk)
    assert bytes(second.finish()) == CONTENT
    with pytest.raises(RemoteProtocolError, match="have"):
        Assembler(TENSOR, 1000, into=memory, have={99: 0})


def test_memory_to_receive_into_must_fit_exactly_and_be_writable() -> None:
    """Shared memory of another size would be read past its end or leave old bytes."""
    for memory in (bytearray(94), bytearray(96), bytes(95)):
        with pytest.raises(RemoteProtocolError, match="zg/tensor/bad-envelope"):
            Assembler(TENSOR, 1000, into=memoryview(memory))


def test_a_strangers_word_takes_no_memory() -> None:
    """64 GiB claimed: refused above the receiver's limit; below it nothing is taken until a sound chunk is there."""
    length = TENSOR_BYTES_MAX
    huge = msgspec.structs.replace(
        TENSOR, shape=(length,), length=length, chunk_bytes=1 << 20, chunk_count=length >> 20
    )
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match=r"^length: .*zg/tensor/too-large"):
        Assembler(huge, 1 << 30)
    assembler = Assembler(huge, length)
    with pytest.raises(RemoteProtocolError, match="zg/tensor/corrupt-chunk"):
        assembler.accept(ChunkHead(tensor=huge.tensor, index=0, offset=0, length=1 << 20, xxh3=0), b"\0" * (1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20 and len(assembler.missing()) == 1024


@given(st.binary(max_size=80))
def test_noise_as_a_payload_is_refused_by_name(noise: bytes) -> None:
    """Record length past the payload, no record, a record that is none."""
    with pytest.raises(ZeitgeistError):
        unpack_chunk(noise)


@given(st.data())
def test_a_mutated_payload_is_refused_or_is_another_sound_head(data: st.DataObject) -> None:
    """Whatever unpacks is then held to the envelope; no other exception comes out, and wrong bytes are never kept."""
    payload = bytearray(pack_chunk(CHUNKS[1][0]) + CHUNKS[1][1])
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    assembler = Assembler(TENSOR, 1000)
    try:
        assembler.accept(*unpack_chunk(bytes(payload)))
    except ZeitgeistError as error:
        assert error.id.startswith(("zg/tensor/", "zg/wire/"))
    else:
        assert bytes(assembler.content[10:20]) == CONTENT[10:20]


def test_the_longest_head_fits_its_limit_in_front_of_the_largest_chunk() -> None:
    """A name of the allowed length and the widest integers."""
    wide = (1 << 64) - 1
    head = ChunkHead(tensor="n" * NAME_BYTES_MAX, index=wide, offset=wide, length=CHUNK_BYTES_MAX, xxh3=wide)
    assert len(pack_chunk(head)) <= CHUNK_RECORD_BYTES_MAX
    payload = pack_chunk(head) + b"\0" * CHUNK_BYTES_MAX
    (frame,) = FrameDecoder().feed(encode_frame(Frame(channel=Channel.CACHE, kind=1, payload=payload)))
    assert unpack_chunk(frame.payload)[0] == head


def test_an_empty_tensor_is_complete_at_once() -> None:
    """No chunk, no memory, and still a digest."""
    assert bytes(Assembler(envelope_of(b"", 10), 0).finish()) == b""
