"""Frames: any split of the bytes gives the same frames; any damage is refused by name and ends the link (C1)."""

import struct
from itertools import pairwise

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.limits import CONTROL_BYTES_MAX, FRAME_BYTES_MAX, FRAME_HEADER_BYTES
from zeitgeist.core.wire.frame import Channel, Flag, Frame, FrameDecoder, encode_frame, frame_header, payload_bytes_max

pytestmark = pytest.mark.requirement("C1")

wide = st.integers(0, (1 << 64) - 1)
frames = st.builds(
    Frame,
    channel=st.sampled_from(Channel),
    kind=st.integers(0, 65535),
    stream=wide,
    sequence=wide,
    flags=st.integers(0, 15).map(Flag),
    payload=st.binary(max_size=200),
)
SAMPLE = Frame(channel=Channel.JOB, kind=7, stream=3, sequence=9, flags=Flag.LAST, payload=b"payload")


def forged(**changes: int | bytes) -> bytes:
    """The sample's bytes with header fields changed and the header's checksum made right again."""
    names = ("magic", "version", "channel", "zero", "kind", "flags", "length", "stream", "sequence", "check")
    head = struct.Struct("<4sHBBHHIQQQ")
    values = dict(zip(names, head.unpack(encode_frame(SAMPLE)[: head.size]), strict=True)) | changes
    packed = head.pack(*values.values())
    return packed + struct.pack("<Q", xxhash.xxh3_64_intdigest(packed)) + SAMPLE.payload


@given(st.lists(frames, max_size=5), st.lists(st.integers(0, 1200), max_size=8))
def test_any_split_of_the_bytes_gives_the_same_frames(sent: list[Frame], cuts: list[int]) -> None:
    """Pushed in pieces of any size; nothing is left over."""
    data, decoder, got = b"".join(map(encode_frame, sent)), FrameDecoder(), []
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in pairwise(places):
        got += decoder.feed(data[start:stop])
    decoder.end()
    assert got == sent


@given(st.lists(frames, min_size=1, max_size=4), st.integers(1, 60))
def test_reading_into_the_target_gives_the_same_frames(sent: list[Frame], step: int) -> None:
    """The way of `recv_into`: at most step bytes at a time, written where the decoder wants them."""
    data, decoder, got = memoryview(b"".join(map(encode_frame, sent))), FrameDecoder(), []
    while data:
        count = min(step, len(decoder.target()), len(data))
        decoder.target()[:count] = data[:count]
        if frame := decoder.advance(count):
            got.append(frame)
        data = data[count:]
    assert got == sent and all(memoryview(frame.payload).readonly for frame in got)


@given(frames, st.data())
def test_a_changed_bit_is_refused_by_name(frame: Frame, data: st.DataObject) -> None:
    """Every bit of header and payload is under a checksum or an exact comparison."""
    raw = bytearray(encode_frame(frame))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ZeitgeistError) as caught:
        FrameDecoder().feed(raw)
    assert caught.value.id.startswith(("zg/wire/", "zg/version/")) and caught.value.field


@given(st.binary(min_size=FRAME_HEADER_BYTES, max_size=200))
def test_noise_is_refused_by_name(noise: bytes) -> None:
    """Bytes at random never make a frame nor another exception."""
    with pytest.raises(ZeitgeistError):
        FrameDecoder().feed(noise)


@pytest.mark.parametrize(
    ("changes", "id", "field"),
    [
        ({"magic": b"HTTP"}, "zg/wire/bad-magic", "magic"),
        ({"version": 2}, "zg/version/mismatch", "protocol_version"),
        ({"channel": 7}, "zg/wire/unknown-channel", "channel"),
        ({"zero": 1}, "zg/wire/bad-header", "zero"),
        ({"flags": 16}, "zg/wire/unknown-flags", "flags"),
        ({"length": CONTROL_BYTES_MAX + 1}, "zg/wire/frame-too-large", "length"),
        ({"length": 0xFFFFFFFF, "channel": 2}, "zg/wire/frame-too-large", "length"),
        ({"check": 0}, "zg/wire/bad-payload-checksum", "payload"),
    ],
)
def test_a_forged_header_is_refused_by_field(changes: dict[str, int | bytes], id: str, field: str) -> None:
    """Its checksum is right, its field is not; the version is named before anything that a version may change."""
    with pytest.raises(ZeitgeistError) as caught:
        FrameDecoder().feed(forged(**changes))
    assert (caught.value.id, caught.value.field) == (id, field)


@pytest.mark.requirement("A8")
def test_another_protocol_version_is_refused_even_where_its_header_differs() -> None:
    """The version is read before the checksum, whose place another version may have changed."""
    raw = bytearray(forged(version=9))
    raw[40:48] = b"\0" * 8
    with pytest.raises(ZeitgeistError, match=r"theirs is 9, ours is 1 \[zg/version/mismatch\]"):
        FrameDecoder().feed(raw)


def test_a_length_above_the_limit_takes_no_memory() -> None:
    """The decoder's buffer is still a header's when the refusal comes; then nothing more is taken in."""
    decoder = FrameDecoder()
    with pytest.raises(ZeitgeistError, match="zg/wire/frame-too-large"):
        decoder.feed(forged(length=0xFFFFFFFF, channel=int(Channel.CACHE)))
    assert len(decoder.buffer) == FRAME_HEADER_BYTES
    for again in (lambda: decoder.feed(encode_frame(SAMPLE)), decoder.target, decoder.end, lambda: decoder.advance(0)):
        with pytest.raises(ZeitgeistError, match="zg/wire/frame-too-large"):
            again()


@pytest.mark.parametrize("cut", [1, FRAME_HEADER_BYTES - 1, FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + 3])
def test_an_end_inside_a_frame_is_truncation(cut: int) -> None:
    """In the header, exactly after it, in the payload; between frames it is an end."""
    decoder = FrameDecoder()
    decoder.feed(encode_frame(SAMPLE)[:cut])
    with pytest.raises(ZeitgeistError, match="zg/wire/truncated"):
        decoder.end()


@settings(deadline=None, max_examples=7)
@given(st.sampled_from(Channel))
def test_the_largest_payload_of_each_channel_passes_and_one_more_byte_does_not(channel: Channel) -> None:
    """The caller that would send more is refused before anything is made."""
    largest = Frame(channel=channel, kind=0, payload=b"\0" * payload_bytes_max(channel))
    assert len(encode_frame(largest)) <= FRAME_BYTES_MAX
    assert FrameDecoder().feed(encode_frame(largest)) == [largest]
    with pytest.raises(LocalProtocolError, match="zg/wire/frame-too-large"):
        frame_header(Frame(channel=channel, kind=0, payload=b"\0" * (payload_bytes_max(channel) + 1)))


@pytest.mark.parametrize("wrong", [{"kind": 65536}, {"stream": 1 << 64}, {"sequence": -1}])
def test_a_number_that_does_not_fit_is_the_callers_fault(wrong: dict[str, int]) -> None:
    """Not wrapped."""
    with pytest.raises(LocalProtocolError, match="zg/wire/bad-header"):
        encode_frame(Frame(**{"channel": Channel.JOB, "kind": 1, **wrong}))


def test_frames_do_not_share_memory() -> None:
    """A payload stays as it is while later frames arrive."""
    decoder = FrameDecoder()
    (first,) = decoder.feed(encode_frame(SAMPLE))
    decoder.feed(encode_frame(Frame(channel=Channel.JOB, kind=1, payload=b"PAYLOAD")))
    assert bytes(first.payload) == b"payload"


def test_a_frame_that_comes_alone_is_read_by_the_same_laws() -> None:
    """DESIGN §3: one buffer with one frame is read in place. Damage refuses the decoder for good, take still decides
    about memory, and what is half read goes on where it was."""
    whole = encode_frame(SAMPLE)
    decoder = FrameDecoder()
    with pytest.raises(ZeitgeistError) as caught:
        decoder.feed(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert caught.value.id == "zg/wire/bad-payload-checksum"
    with pytest.raises(ZeitgeistError) as again:
        decoder.feed(whole)
    assert again.value.id == caught.value.id

    asked: list[int] = []

    def take(length: int) -> bytearray:
        asked.append(length)
        return bytearray(length)

    assert FrameDecoder(take).feed(whole) == [SAMPLE] and asked == [len(SAMPLE.payload)]

    half = FrameDecoder()
    assert half.feed(whole[:50]) == []
    with pytest.raises(ZeitgeistError):
        half.feed(whole)  # It stands where the payload's rest belongs.
