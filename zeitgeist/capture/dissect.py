"""A capture's frames, in the order in which they became whole, with what a reader must know of each (C1, G4, G5).

Law: content is never shown, only its length; the record is. A header that is not sound says nothing reliable about
where the next frame begins: it is shown, then the stream is searched for the next sound header, and what was passed
over is told.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet
from scapy.utils import PcapReader

from zeitgeist.capture.layer import ZGFR, Verdict, header_verdict, payload_verdict
from zeitgeist.capture.streams import Direction, Piece, Segment
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.canonical import decode
from zeitgeist.core.limits import FRAME_BYTES_MAX, FRAME_HEADER_BYTES
from zeitgeist.core.wire.frame import MAGIC, Channel, payload_bytes_max
from zeitgeist.core.wire.payload import split_payload
from zeitgeist.core.wire.registry import REGISTRY

__all__ = ["Noise", "Sighting", "dissect", "read_capture", "segments_of"]


class Sighting(msgspec.Struct, frozen=True, kw_only=True, tag="frame"):
    """One frame as seen. time: seconds since 1970, of the segment that completed it; frame: all its fields, with the
    payload in `body`; record: the name of the record, "" for an unknown kind; refusal: why the record does not decode,
    "" when it does; content_length: bytes beside the record, -1 when they cannot be told from it."""

    time: float
    ends: tuple[str, str]
    frame: Packet
    record: str
    header: Verdict
    payload: Verdict
    value: dict[str, Any] | None
    refusal: str
    content_length: int


class Noise(msgspec.Struct, frozen=True, kw_only=True, tag="noise"):
    """Bytes that are no frame: passed over in search of the next, or lost by whoever captured."""

    time: float
    ends: tuple[str, str]
    length: int
    lost: bool


class Reader:
    """One direction's bytes in, frames out. in_step: the next byte is where a frame should begin; while it is not, only
    a sound header counts, for the magic's four letters may stand in anybody's content."""

    def __init__(self, ends: tuple[str, str]) -> None:
        self.ends = ends
        self.held = bytearray()
        self.in_step = True
        self.passed = 0

    def take(self, piece: Piece) -> Iterator[Sighting | Noise]:
        """What piece completes."""
        if piece.lost:
            yield from self.end(piece.time)
            yield Noise(time=piece.time, ends=self.ends, length=piece.lost, lost=True)
            self.in_step = False
        self.held += piece.data
        while len(self.held) >= FRAME_HEADER_BYTES:
            if not self.begins_a_frame():
                if not self.skip():
                    return
                continue
            size = FRAME_HEADER_BYTES + self.body_length()
            if len(self.held) < size:
                return
            yield from self.told(piece.time)
            yield self.frame(piece.time, self.cut(size))

    def begins_a_frame(self) -> bool:
        """Is there a header here, sound or, where one is due, at least with its magic?"""
        return self.held[:4] == MAGIC and (self.in_step or header_verdict(self.held[:FRAME_HEADER_BYTES]) == "ok")

    def body_length(self) -> int:
        """Of the frame at the front; none when its header cannot be believed, and then we are out of step."""
        length = int.from_bytes(self.held[12:16], "little")
        channel = self.held[6]
        most = payload_bytes_max(Channel(channel)) if channel < len(Channel) else FRAME_BYTES_MAX
        self.in_step = header_verdict(self.held[:FRAME_HEADER_BYTES]) == "ok" and length <= most
        return length if self.in_step else 0

    def skip(self) -> bool:
        """Pass over what is no frame, up to the next magic; True when there is one. Three bytes may begin it."""
        self.in_step = False
        found = self.held.find(MAGIC, 1)
        self.passed += len(self.cut(found if found >= 0 else len(self.held) - len(MAGIC) + 1))
        return found >= 0

    def cut(self, size: int) -> bytes:
        """Take size bytes from the front."""
        raw = bytes(self.held[:size])
        del self.held[:size]
        return raw

    def frame(self, time: float, raw: bytes) -> Sighting:
        """Dissect one frame, whole or not."""
        packet = ZGFR(raw[:FRAME_HEADER_BYTES])
        sound = header_verdict(raw)
        packet.body = raw[FRAME_HEADER_BYTES:] if sound == "ok" else b""
        payload = payload_verdict(raw, packet.body) if sound == "ok" else "cut"
        record, value, refusal, content = read_record(packet) if payload == "ok" else (name_of(packet), None, "", -1)
        return Sighting(
            time=time,
            ends=self.ends,
            frame=packet,
            record=record,
            header=sound,
            payload=payload,
            value=value,
            refusal=refusal,
            content_length=content,
        )

    def told(self, time: float) -> Iterator[Noise]:
        """What was passed over, once."""
        if self.passed:
            yield Noise(time=time, ends=self.ends, length=self.passed, lost=False)
            self.passed = 0

    def end(self, time: float) -> Iterator[Sighting | Noise]:
        """Nothing follows: a frame that is begun is shown as cut."""
        raw = self.cut(len(self.held))
        if len(raw) >= FRAME_HEADER_BYTES and raw[:4] == MAGIC:
            yield from self.told(time)
            yield self.frame(time, raw)
        else:
            self.passed += len(raw)
            yield from self.told(time)


def name_of(packet: Packet) -> str:
    """The record's name by the registry."""
    row = REGISTRY.get(packet.kind)
    return row.record.__name__ if row else ""


def read_record(packet: Packet) -> tuple[str, dict[str, Any] | None, str, int]:
    """(name, fields, why not, content's length) of a sound frame's payload."""
    row = REGISTRY.get(packet.kind)
    if row is None:
        return "", None, "", -1
    try:
        record, content = split_payload(Channel(packet.channel), packet.body)
        value = decode(record, row.record)
    except (ZeitgeistError, ValueError) as error:
        return row.record.__name__, None, str(error), -1
    return row.record.__name__, msgspec.to_builtins(value), "", content.nbytes


def segments_of(path: Path) -> Iterator[Segment]:
    """TCP segments of a capture file (pcap or pcapng), IPv4 and IPv6, that carry data or begin a connection."""
    with PcapReader(str(path)) as packets:
        for packet in packets:
            if TCP not in packet or not (IP in packet or IPv6 in packet):
                continue
            ip, tcp = packet[IP] if IP in packet else packet[IPv6], packet[TCP]
            # As captured, not as Scapy reads it by port; IP has already cut off what fills up a short packet.
            data, start = tcp.original[tcp.dataofs * 4 :], bool(tcp.flags & 2)
            if data or start:
                ends = (end(ip.src, tcp.sport), end(ip.dst, tcp.dport))
                yield Segment(time=float(packet.time), ends=ends, sequence=tcp.seq, start=start, data=data)


def end(address: str, port: int) -> str:
    """`10.0.0.2:7420`, `[::1]:7420`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def dissect(segments: Iterable[Segment]) -> Iterator[Sighting | Noise]:
    """Frames of all streams, each when it became whole; at the end what was begun. Streams without a sound header are
    no streams of ours and give nothing."""
    directions: dict[tuple[str, str], tuple[Direction, Reader]] = {}
    last = 0.0
    for segment in segments:
        last = segment.time
        stream, reader = directions.setdefault(segment.ends, (Direction(), Reader(segment.ends)))
        for piece in stream.take(segment):
            yield from reader.take(piece)
    for stream, reader in directions.values():
        for piece in stream.rest():
            yield from reader.take(piece)
        yield from reader.end(last)


def read_capture(path: Path) -> Iterator[Sighting | Noise]:
    """Frames of a capture file; streams in which no frame was found are left out."""
    found: set[tuple[str, str]] = set()
    held: dict[tuple[str, str], list[Noise]] = {}
    for seen in dissect(segments_of(path)):
        if isinstance(seen, Sighting):
            found.add(seen.ends)
            yield from held.pop(seen.ends, [])
            yield seen
        elif seen.ends in found:
            yield seen
        else:
            held.setdefault(seen.ends, []).append(seen)
