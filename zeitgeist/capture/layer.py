"""The frame as a Scapy layer: every header field by name, any of them may be wrong (C1, G4).

Law: it describes bytes and judges none of them away. What our decoder would refuse is still dissected, with verdicts,
for a capture is read to see what went wrong. Length and checksums that were not given are filled in when built.
"""

import struct
from typing import Any, Literal

import xxhash
from scapy.fields import (
    ByteEnumField,
    ByteField,
    FlagsField,
    LEIntField,
    LELongField,
    LEShortEnumField,
    LEShortField,
    StrFixedLenField,
    XLELongField,
    XStrLenField,
)
from scapy.packet import Packet

from zeitgeist.core.descriptors.versions import SCHEMA_VERSIONS
from zeitgeist.core.limits import FRAME_HEADER_BYTES
from zeitgeist.core.wire.frame import MAGIC, Channel, Flag
from zeitgeist.core.wire.registry import REGISTRY

__all__ = ["ZGFR", "Verdict", "header_verdict", "payload_verdict"]

Verdict = Literal["ok", "bad", "cut"]
"""Of a checksum: right, wrong, or not to be told because the capture lacks bytes."""

CHECKED = FRAME_HEADER_BYTES - 8
"""Bytes under the header's checksum."""
LENGTH_AT, PAYLOAD_CHECK_AT = 12, 32
FLAG_NAMES = [str(flag.name).lower() for flag in Flag]


class ZGFR(Packet):
    """One frame. `body` holds the payload; `length`, `payload_check`, `header_check` None: as they should be."""

    name = "Zeitgeist frame"
    fields_desc = [  # noqa: RUF012 - Scapy's own way to declare a layer
        StrFixedLenField("magic", MAGIC, 4),
        LEShortField("version", SCHEMA_VERSIONS["protocol"]),
        ByteEnumField("channel", 0, {channel.value: channel.name.lower() for channel in Channel}),
        ByteField("zero", 0),
        LEShortEnumField("kind", 0, {row.kind: row.record.__name__ for row in REGISTRY.values()}),
        FlagsField("flags", 0, -16, FLAG_NAMES),
        LEIntField("length", None),
        LELongField("stream", 0),
        LELongField("sequence", 0),
        XLELongField("payload_check", None),
        XLELongField("header_check", None),
        XStrLenField("body", b"", length_from=lambda packet: packet.length),
    ]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in length and checksums that were left open; what was given stays, right or wrong."""
        raw, body = bytearray(pkt), memoryview(pkt)[FRAME_HEADER_BYTES:]
        if self.length is None:
            struct.pack_into("<I", raw, LENGTH_AT, len(body))
        if self.payload_check is None:
            struct.pack_into("<Q", raw, PAYLOAD_CHECK_AT, xxhash.xxh3_64_intdigest(body))
        if self.header_check is None:
            struct.pack_into("<Q", raw, CHECKED, xxhash.xxh3_64_intdigest(raw[:CHECKED]))
        return bytes(raw) + pay

    def guess_payload_class(self, payload: bytes) -> Any:
        """What follows a frame in a stream is the next frame."""
        return ZGFR if len(payload) >= FRAME_HEADER_BYTES else super().guess_payload_class(payload)

    def mysummary(self) -> str:
        """One line, as Scapy shows layers."""
        return self.sprintf("ZGFR %channel% %kind% stream %stream% sequence %sequence% length %length%")


def header_verdict(header: bytes | bytearray | memoryview) -> Verdict:
    """Is the header's checksum the one of its first 40 bytes?"""
    if len(header) < FRAME_HEADER_BYTES:
        return "cut"
    stated = struct.unpack_from("<Q", header, CHECKED)[0]
    return "ok" if xxhash.xxh3_64_intdigest(header[:CHECKED]) == stated else "bad"


def payload_verdict(header: bytes | bytearray | memoryview, body: bytes | bytearray | memoryview) -> Verdict:
    """Is the payload as long as the header says, and of its checksum?"""
    length = struct.unpack_from("<I", header, LENGTH_AT)[0]
    if len(body) < length:
        return "cut"
    stated = struct.unpack_from("<Q", header, PAYLOAD_CHECK_AT)[0]
    return "ok" if xxhash.xxh3_64_intdigest(body) == stated else "bad"
