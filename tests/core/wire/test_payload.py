"""What is inside a frame: a record, and content beside it where the channel carries content (C1, G4, G5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError
from zeitgeist.core.limits import CHUNK_RECORD_BYTES_MAX
from zeitgeist.core.wire.chunks import ChunkHead, pack_chunk, unpack_chunk
from zeitgeist.core.wire.frame import BULK, Channel
from zeitgeist.core.wire.payload import CONTENT_CHANNELS, join_payload, split_payload
from zeitgeist.core.wire.registry import REGISTRY

pytestmark = [pytest.mark.requirement("C1"), pytest.mark.requirement("G4"), pytest.mark.requirement("G5")]

channels = st.sampled_from(Channel)


@given(channels, st.binary(max_size=CHUNK_RECORD_BYTES_MAX - 2), st.binary(max_size=90))
def test_a_record_and_its_content_come_apart_as_they_were_joined(
    channel: Channel, record: bytes, content: bytes
) -> None:
    """On every channel; where none may follow there is none. Both are views of the payload, not copies."""
    content = content if channel in CONTENT_CHANNELS else b""
    payload = join_payload(channel, record) + content
    got_record, got_content = split_payload(channel, payload)
    assert (bytes(got_record), bytes(got_content)) == (record, content)
    assert got_record.obj is payload and got_content.obj is payload


@given(channels, st.binary(max_size=400))
def test_noise_as_a_payload_is_split_or_refused_by_name(channel: Channel, noise: bytes) -> None:
    """A length that points past the payload, or past what a chunk's record may take; nothing is read outside."""
    try:
        record, content = split_payload(channel, noise)
    except RemoteProtocolError as error:
        assert error.id == "zg/wire/bad-payload" and error.field in ("payload", "record")
    else:
        assert record.nbytes + content.nbytes == len(noise) - (2 if channel in CONTENT_CHANNELS else 0)
        assert channel not in BULK or record.nbytes <= CHUNK_RECORD_BYTES_MAX - 2


def test_a_chunk_is_a_payload_like_any_other() -> None:
    """One layout: what packs a chunk is what joins a payload, and each reads the other's bytes."""
    head = ChunkHead(tensor="layer.0.k", index=1, offset=10, length=3, xxh3=9)
    payload = pack_chunk(head) + b"raw"
    for channel in BULK:
        record, content = split_payload(channel, payload)
        assert join_payload(channel, bytes(record)) + content == payload
    assert unpack_chunk(payload) == (head, b"raw")


def test_a_record_too_long_for_its_length_is_the_callers_fault() -> None:
    """16 bits: the longest passes, one more does not; channels without content have no such length."""
    assert len(join_payload(Channel.JOB, bytes(0xFFFF))) == 0xFFFF + 2
    with pytest.raises(LocalProtocolError, match=r"^record: .*zg/wire/bad-payload"):
        join_payload(Channel.JOB, bytes(0x10000))
    assert len(join_payload(Channel.CONTROL, bytes(0x10000))) == 0x10000


def test_rows_that_carry_content_travel_on_channels_that_can() -> None:
    """And bulk channels carry nothing but chunks, so that a big tensor never stands before a control record."""
    for row in REGISTRY.values():
        assert not row.content or all(channel in CONTENT_CHANNELS for channel in row.channels)
        assert (row.record is ChunkHead) == any(channel in BULK for channel in row.channels)
