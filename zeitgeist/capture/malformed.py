"""Every way for a frame to be wrong, each with the refusal it must meet. Tests feed them to whoever decodes (C1, G4).

Law: one thing is wrong in each variant and the rest is right, checksums too, so that only the check that is meant can
find it.
"""

from collections.abc import Iterator

import msgspec
from scapy.packet import Packet

from zeitgeist.capture.layer import ZGFR
from zeitgeist.core.limits import FRAME_HEADER_BYTES
from zeitgeist.core.wire.frame import FLAGS_KNOWN, Channel, payload_bytes_max

__all__ = ["Variant", "variants"]


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that are wrong, what is wrong with them, and the id and field that a decoder must answer with."""

    name: str
    data: bytes
    id: str
    field: str


def variants(sound: Packet) -> Iterator[Variant]:
    """All broken relatives of a sound frame."""
    raw = bytes(sound)
    channel = Channel(sound.channel)
    fields = {
        "magic": ("zg/wire/bad-magic", {"magic": b"ZGFS"}),
        "protocol_version": ("zg/version/mismatch", {"version": sound.version + 1}),
        "channel": ("zg/wire/unknown-channel", {"channel": len(Channel)}),
        "zero": ("zg/wire/bad-header", {"zero": 1}),
        "flags": ("zg/wire/unknown-flags", {"flags": FLAGS_KNOWN + 1}),
        "length": ("zg/wire/frame-too-large", {"length": payload_bytes_max(channel) + 1}),
        "header": ("zg/wire/bad-header-checksum", {"header_check": 0}),
        "payload": ("zg/wire/bad-payload-checksum", {"payload_check": 0}),
    }
    for field, (id, change) in fields.items():
        yield Variant(name=f"another {field}", data=bytes(changed(sound, change)), id=id, field=field)
    yield Variant(name="cut in the header", data=raw[: FRAME_HEADER_BYTES - 1], id="zg/wire/truncated", field="header")
    if len(raw) > FRAME_HEADER_BYTES:
        yield Variant(name="cut in the payload", data=raw[:-1], id="zg/wire/truncated", field="payload")
        flipped = raw[:-1] + bytes([raw[-1] ^ 1])
        yield Variant(name="a flipped bit", data=flipped, id="zg/wire/bad-payload-checksum", field="payload")


def changed(sound: Packet, change: dict[str, object]) -> Packet:
    """The frame with fields set; checksums over what was changed are made right again unless they are what is set."""
    kept = {
        name: sound.getfieldval(name) for name in ("version", "channel", "kind", "flags", "stream", "sequence", "body")
    }
    return ZGFR(**kept | change)
