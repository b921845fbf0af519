"""Frames out of captures: whatever TCP did with them, and whatever is wrong with them (C1, G4, G5)."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_conversation import SEGMENT_BYTES, A, B, conversation, sent_frames
from scapy.packet import Padding
from scapy.utils import PcapReader, PcapWriter

from zeitgeist.capture.dissect import Noise, Sighting, dissect, read_capture, segments_of
from zeitgeist.capture.layer import ZGFR
from zeitgeist.capture.malformed import variants
from zeitgeist.capture.streams import Segment
from zeitgeist.capture.write import Sent, packets_of, write_capture
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.limits import FRAME_BYTES_MAX
from zeitgeist.core.wire.frame import Frame, FrameDecoder, encode_frame

pytestmark = [pytest.mark.requirement("C1"), pytest.mark.requirement("G4"), pytest.mark.requirement("G5")]

FIELDS = ("channel", "kind", "stream", "sequence")
THERE, BACK = ("10.0.0.1:40000", "10.0.0.2:7420"), ("10.0.0.2:7420", "10.0.0.1:40000")


def fields(seen: Sighting) -> tuple[Any, ...]:
    """What must be as it was sent."""
    return (seen.ends, *(getattr(seen.frame, name) for name in FIELDS), int(seen.frame.flags), bytes(seen.frame.body))


def wanted() -> list[tuple[Any, ...]]:
    return [
        (THERE if ends == (A, B) else BACK, *(getattr(frame, name) for name in FIELDS), int(frame.flags), frame.payload)
        for ends, frame in sent_frames()
    ]


def captured(tmp_path: Path, segment_bytes: int = SEGMENT_BYTES) -> list[Segment]:
    write_capture(tmp_path / "sent.pcap", conversation(), segment_bytes)
    return list(segments_of(tmp_path / "sent.pcap"))


def by_ends(rows: list[tuple[Any, ...]], ends: tuple[str, str]) -> list[tuple[Any, ...]]:
    return [row for row in rows if row[0] == ends]


@pytest.mark.parametrize("segment_bytes", [7, SEGMENT_BYTES, 1448, 60_000])
def test_frames_come_out_of_a_capture_as_they_were_sent(tmp_path: Path, segment_bytes: int) -> None:
    """Cut over segments and several in one, both directions, in order of completion; every checksum is right, and
    every record decodes, but for the two frames that carry none of the registry's records."""
    segments = captured(tmp_path, segment_bytes)
    seen = list(dissect(segments))
    assert all(isinstance(one, Sighting) and (one.header, one.payload) == ("ok", "ok") for one in seen)
    assert [fields(one) for one in seen] == wanted()
    assert [one.record for one in seen if one.refusal or not one.record] == ["Hello", ""]
    assert [one.time for one in seen] == sorted(one.time for one in seen)


def test_segments_out_of_order_and_repeated_give_the_same_frames(tmp_path: Path) -> None:
    """Shuffled within a window, a third of them twice, some cut in two that overlap: each byte counts once."""
    rng = random.Random(5)
    segments = captured(tmp_path)
    starts, data = [s for s in segments if s.start], [s for s in segments if not s.start]
    data += rng.sample(data, len(data) // 3)
    for segment in rng.sample(data, len(data) // 4):
        middle = len(segment.data) // 2
        tail = (segment.sequence + middle) % (1 << 32)
        data.append(msgspec.structs.replace(segment, sequence=tail, data=segment.data[middle:]))
    rng.shuffle(data)
    seen = [one for one in dissect([*starts, *data]) if isinstance(one, Sighting)]
    for ends in (THERE, BACK):
        assert by_ends([fields(one) for one in seen], ends) == by_ends(wanted(), ends)


def test_sequence_numbers_that_run_round_change_nothing(tmp_path: Path) -> None:
    """The numbers of both ways are moved to end a few bytes into the conversation."""
    turned = [
        msgspec.structs.replace(segment, sequence=(segment.sequence - 1100) % (1 << 32))
        for segment in captured(tmp_path)
    ]
    assert [fields(one) for one in dissect(turned) if isinstance(one, Sighting)] == wanted()


def test_a_second_connection_of_the_same_ends_starts_afresh(tmp_path: Path) -> None:
    """A port used again, with other sequence numbers: the frames of both connections are there."""
    first = captured(tmp_path)
    second = [msgspec.structs.replace(s, sequence=(s.sequence + 77_777_777) % (1 << 32)) for s in first]
    assert [fields(one) for one in dissect([*first, *second])] == wanted() * 2


def test_a_segment_that_the_capture_lacks_is_told_with_its_size(tmp_path: Path) -> None:
    """Frames before and after it are there; what stood around it is shown as cut, or passed over and counted."""
    segments = captured(tmp_path)
    ours = [s for s in segments if s.ends == THERE and s.data]
    gone = ours[len(ours) // 2]
    seen = list(dissect(s for s in segments if s is not gone))
    lost = [one for one in seen if isinstance(one, Noise) and one.lost]
    assert [(one.ends, one.length) for one in lost] == [(THERE, len(gone.data))]
    rows = [fields(one) for one in seen if isinstance(one, Sighting) and one.payload == "ok"]
    assert by_ends(rows, BACK) == by_ends(wanted(), BACK)
    intact = by_ends(rows, THERE)
    assert len(by_ends(wanted(), THERE)) - 4 <= len(intact) < len(by_ends(wanted(), THERE))
    assert all(row in wanted() for row in intact)


def test_a_capture_that_begins_in_the_middle_finds_the_next_frame(tmp_path: Path) -> None:
    """Without the handshake and the first bytes: what cannot be placed is counted, the rest is read."""
    segments = [s for s in captured(tmp_path) if s.ends == THERE and s.data][1:]
    first, *rest = dissect(segments)
    assert isinstance(first, Noise) and not first.lost
    rows = by_ends(wanted(), THERE)
    assert [fields(one) for one in rest if isinstance(one, Sighting)] == rows[-len(rest) :]
    assert len(rest) >= len(rows) - 3


def test_other_traffic_is_not_shown(tmp_path: Path) -> None:
    """A web request beside our streams, IPv4, and packets that are no TCP."""
    web = Sent(time=1.0, ends=(("10.0.0.3", 5), ("10.0.0.4", 80)), data=b"GET / HTTP/1.1\r\n" * 9)
    write_capture(tmp_path / "mixed.pcap", [web, *conversation()])
    assert [fields(one) for one in read_capture(tmp_path / "mixed.pcap")] == wanted()


def test_addresses_of_either_kind_are_read(tmp_path: Path) -> None:
    """IPv6 beside IPv4 in one file."""
    data = encode_frame(sent_frames()[2][1])
    six = Sent(time=1.0, ends=(("::1", 9), ("fe80::2", 7_420)), data=data)
    write_capture(tmp_path / "six.pcap", [six, Sent(time=2.0, ends=(A, B), data=data)], SEGMENT_BYTES)
    first, second = read_capture(tmp_path / "six.pcap")
    assert (first.ends, second.ends) == (("[::1]:9", "[fe80::2]:7420"), THERE)
    assert isinstance(first, Sighting) and bytes(first.frame) == data


def test_a_capture_written_again_is_the_same_file(tmp_path: Path) -> None:
    """Read by Scapy and written by Scapy; and two writings of one conversation agree byte for byte."""
    write_capture(tmp_path / "a.pcap", conversation())
    write_capture(tmp_path / "b.pcap", conversation())
    with PcapReader(str(tmp_path / "a.pcap")) as packets, PcapWriter(str(tmp_path / "c.pcap")) as copy:
        for packet in packets:
            copy.write(packet)
    assert (tmp_path / "a.pcap").read_bytes() == (tmp_path / "b.pcap").read_bytes()
    assert [fields(one) for one in read_capture(tmp_path / "c.pcap")] == wanted()


def test_the_magic_inside_of_content_is_no_frame_while_we_are_out_of_step() -> None:
    """A capture that begins inside a tensor which holds the four letters many times."""
    sound = encode_frame(sent_frames()[2][1])
    data = b"x" * 50 + b"ZGFR" * 30 + sound
    noise, frame = dissect([Segment(time=1.0, ends=THERE, sequence=9, start=False, data=data)])
    assert isinstance(noise, Noise) and noise.length == 170
    assert isinstance(frame, Sighting) and bytes(frame.frame) == sound


def test_what_fills_up_a_short_packet_is_not_data(tmp_path: Path) -> None:
    """Ethernet sends no packet below 60 bytes; segments of two bytes come with four of filling."""
    ends = (A, B)
    data = encode_frame(sent_frames()[2][1])
    with PcapWriter(str(tmp_path / "short.pcap")) as writer:
        for packet in packets_of([Sent(time=1.0, ends=ends, data=data)], 2):
            padded = packet / Padding(b"\xee" * max(0, 60 - len(packet)))
            padded.time = packet.time
            writer.write(padded)
    (frame,) = read_capture(tmp_path / "short.pcap")
    assert isinstance(frame, Sighting) and bytes(frame.frame) == data


@given(
    st.builds(
        Frame,
        channel=st.sampled_from([frame.channel for _, frame in sent_frames()]),
        kind=st.integers(0, 65535),
        stream=st.integers(0, (1 << 64) - 1),
        sequence=st.integers(0, (1 << 64) - 1),
        payload=st.binary(max_size=90),
    )
)
@settings(deadline=None)
def test_the_layer_builds_what_our_encoder_builds(frame: Frame) -> None:
    """Byte for byte, lengths and checksums filled in; and it reads its own bytes back."""
    built = bytes(
        ZGFR(
            channel=frame.channel,
            kind=frame.kind,
            stream=frame.stream,
            sequence=frame.sequence,
            flags=int(frame.flags),
            body=frame.payload,
        )
    )
    assert built == encode_frame(frame) and bytes(ZGFR(built)) == built


@pytest.mark.parametrize("place", range(0, len(sent_frames()), 5))
def test_every_malformed_variant_is_refused_by_the_name_it_must_have(place: int) -> None:
    """Made by Scapy, refused by our decoder: one thing wrong in each, and no other check finds it."""
    for variant in variants(ZGFR(encode_frame(sent_frames()[place][1]))):
        decoder = FrameDecoder()
        with pytest.raises(ZeitgeistError) as caught:
            decoder.feed(variant.data)
            decoder.end()
        assert (variant.name, caught.value.id, caught.value.field) == (variant.name, variant.id, variant.field)


@pytest.mark.parametrize("place", [2, 30])
def test_a_malformed_frame_in_a_capture_is_shown_and_the_next_is_found(place: int) -> None:
    """Whatever is wrong with one frame, the one after it is read; and the wrong one never looks right."""
    sound = encode_frame(sent_frames()[place][1])
    for variant in variants(ZGFR(sound)):
        data = variant.data + sound + sound
        segment = Segment(time=1.0, ends=THERE, sequence=0, start=False, data=data)
        seen = list(dissect([segment]))
        good = [one for one in seen if isinstance(one, Sighting) and bytes(one.frame) == sound]
        if variant.field in ("zero", "flags", "channel", "protocol_version"):
            assert len(seen) == 3 and len(good) == 2, "sound checksums: shown as it is"
        else:
            assert 1 <= len(good) <= 2 and len(seen) > len(good), variant.name
        assert sum(one.length for one in seen if isinstance(one, Noise)) <= len(data) <= FRAME_BYTES_MAX
