"""Captures made here: frames as the TCP segments they would travel in, so that any tool can be tried on them (G4).

Law: each conversation begins with its handshake, sequence numbers go on as TCP's do, and nothing is random: the same
input gives the same file.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapWriter

__all__ = ["Sent", "packets_of", "write_capture"]

SEGMENT_BYTES = 1448
"""What Ethernet carries of TCP with time stamps."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that one end sent. time: seconds since 1970; ends: ((address, port) of the sender, of the receiver)."""

    time: float
    ends: tuple[tuple[str, int], tuple[str, int]]
    data: bytes


def packets_of(sent: Iterable[Sent], segment_bytes: int = SEGMENT_BYTES) -> Iterator[Packet]:
    """Ethernet packets: a handshake when two ends first meet, then segments of at most segment_bytes."""
    next_byte: dict[tuple[tuple[str, int], tuple[str, int]], int] = {}
    for one in sent:
        there, back = one.ends, (one.ends[1], one.ends[0])
        if there not in next_byte:
            next_byte[there], next_byte[back] = 1001, 5001
            yield segment(one.time, there, 1000, 0, "S")
            yield segment(one.time, back, 5000, 1001, "SA")
            yield segment(one.time, there, 1001, 5001, "A")
        for start in range(0, len(one.data), segment_bytes):
            part = one.data[start : start + segment_bytes]
            yield segment(one.time, there, next_byte[there], next_byte[back], "PA", part)
            next_byte[there] = (next_byte[there] + len(part)) % (1 << 32)


def segment(
    time: float,
    ends: tuple[tuple[str, int], tuple[str, int]],
    sequence: int,
    acknowledged: int,
    flags: str,
    data: bytes = b"",
) -> Packet:
    """One packet; addresses of hardware say nothing."""
    (source, source_port), (target, target_port) = ends
    packet = (
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        / (IPv6 if ":" in source else IP)(src=source, dst=target)
        / TCP(sport=source_port, dport=target_port, seq=sequence, ack=acknowledged, flags=flags, window=65535)
    )
    packet = packet / Raw(data) if data else packet
    packet.time = time
    return packet


def write_capture(path: Path, sent: Iterable[Sent], segment_bytes: int = SEGMENT_BYTES) -> None:
    """A pcap file of what was sent."""
    with PcapWriter(str(path)) as writer:
        for packet in packets_of(sent, segment_bytes):
            writer.write(packet)
