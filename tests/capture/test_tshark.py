"""Two dissectors that share no code agree on each field: ours in Scapy, Wireshark's with the generated Lua (G4, G5).

tshark puts the streams together by itself, too. It must be installed: `apt-get install tshark`.
"""

import random
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from recorded_conversation import SEGMENT_BYTES, A, B, conversation, sent_frames
from scapy.utils import PcapReader, PcapWriter

from zeitgeist.capture.dissect import Sighting, read_capture
from zeitgeist.capture.layer import ZGFR
from zeitgeist.capture.write import Sent, write_capture
from zeitgeist.core.wire.frame import Channel, Flag, encode_frame
from zeitgeist.core.wire.payload import split_payload
from zeitgeist.core.wire.registry import REGISTRY

pytestmark = [pytest.mark.requirement("C1"), pytest.mark.requirement("G4"), pytest.mark.requirement("G5")]

LUA = Path(__file__).resolve().parents[2] / "docs" / "spec" / "zeitgeist.lua"
NUMBERS = (
    "version",
    "channel",
    "zero",
    "kind",
    "flags",
    "length",
    "stream",
    "sequence",
    "payload_check",
    "header_check",
)


def tshark(capture: Path) -> list[dict[str, Any]]:
    """Every Zeitgeist frame that tshark sees, as plain values."""
    command = ["tshark", "-r", str(capture), "-X", f"lua_script:{LUA}", "-Y", "zeitgeist", "-T", "pdml"]
    done = subprocess.run(
        [*command, "-o", "tcp.reassemble_out_of_order:TRUE"], capture_output=True, text=True, check=True
    )
    return [
        theirs(frame, packet)
        for packet in ElementTree.fromstring(done.stdout).iter("packet")
        for frame in packet.iter("proto")
        if frame.get("name") == "zeitgeist"
    ]


def theirs(frame: ElementTree.Element, packet: ElementTree.Element) -> dict[str, Any]:
    """One frame of tshark's."""
    shown = {str(field.get("name")): str(field.get("show")) for field in frame.iter("field")}
    around = {str(field.get("name")): str(field.get("show")) for field in packet.iter("field")}
    row: dict[str, Any] = {name: int(shown[f"zeitgeist.{name}"], 0) for name in NUMBERS}
    row["magic"] = shown["zeitgeist.magic"]
    row["bits"] = [
        flag.name for flag in Flag if int(shown[f"zeitgeist.flags.{str(flag.name).lower()}"] in ("1", "True"))
    ]
    row["from"] = f"{around['ip.src']}:{around['tcp.srcport']}"
    row["to"] = f"{around['ip.dst']}:{around['tcp.dstport']}"
    row["time"] = round(float(around["frame.time_epoch"]), 6)
    row["record"] = shown.get("zeitgeist.record", "").replace(":", "")
    row["content_length"] = int(shown.get("zeitgeist.content_length", "0"))
    return row


def ours(seen: Sighting) -> dict[str, Any]:
    """One frame of ours, said the same way."""
    frame = seen.frame
    row: dict[str, Any] = {name: int(frame.getfieldval(name)) for name in NUMBERS}
    record, content = split_payload(Channel(frame.channel), frame.body) if seen.payload == "ok" else (b"", b"")
    row["magic"] = bytes(frame.magic).decode()
    row["bits"] = [flag.name for flag in Flag if int(frame.flags) & flag]
    row["from"], row["to"], row["time"] = *seen.ends, round(seen.time, 6)
    row["record"], row["content_length"] = bytes(record).hex(), len(content)
    return row


def both(capture: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return [ours(seen) for seen in read_capture(capture) if isinstance(seen, Sighting)], tshark(capture)


@pytest.mark.parametrize("segment_bytes", [SEGMENT_BYTES, 1448])
def test_tshark_sees_every_frame_with_the_same_fields(tmp_path: Path, segment_bytes: int) -> None:
    """One frame of each kind of the registry, both directions, cut over segments that respect no frame."""
    write_capture(tmp_path / "talk.pcap", [*conversation()[1:]], segment_bytes)
    mine, other = both(tmp_path / "talk.pcap")
    assert mine == other
    assert len(mine) == len(sent_frames()) - 3 and {row["kind"] for row in mine} >= set(REGISTRY) - {1}
    assert sum(row["content_length"] > 0 for row in mine) == sum(
        len(row.channels) for row in REGISTRY.values() if row.content
    )


def test_tshark_sees_the_same_frames_where_segments_came_twice_or_out_of_order(tmp_path: Path) -> None:
    """Neighbours swapped and every fifth packet doubled; when a frame was whole, and in which order, may differ by the
    way each puts streams together, so frames are compared by direction, without their times."""
    write_capture(tmp_path / "talk.pcap", conversation()[1:], SEGMENT_BYTES)
    rng = random.Random(11)
    with PcapReader(str(tmp_path / "talk.pcap")) as packets:
        there, *rest = list(packets)
    handshake, data = [there, *rest[:2]], rest[2:]
    for place in range(1, len(data) - 1, 7):
        data[place], data[place + 1] = data[place + 1], data[place]
    for packet in rng.sample(data, len(data) // 5):
        data.insert(data.index(packet) + 1, packet)
    with PcapWriter(str(tmp_path / "mixed.pcap")) as writer:
        for number, packet in enumerate([*handshake, *data]):
            packet.time = 2_000 + number / 1_000
            writer.write(packet)
    mine, other = (
        sorted(
            ({key: value for key, value in row.items() if key != "time"} for row in rows),
            key=lambda row: (row["from"], row["sequence"], row["channel"]),
        )
        for rows in both(tmp_path / "mixed.pcap")
    )
    assert mine == other and len(mine) == len(sent_frames()) - 3


def test_tshark_shows_the_same_damage(tmp_path: Path) -> None:
    """Wrong checksums, another version, unknown channel, flags and kind: both show what stands there."""
    _, frame = sent_frames()[3]
    kept = {"channel": int(frame.channel), "kind": frame.kind, "sequence": 9, "body": bytes(frame.payload)}
    damaged = [
        ZGFR(**kept, payload_check=1),
        ZGFR(**kept | {"channel": 0, "body": b""}, header_check=2, payload_check=3),
        ZGFR(**kept, version=2),
        ZGFR(**kept | {"kind": 0x7777}, flags=0x8001, zero=3),
        ZGFR(**kept | {"channel": 0, "body": b""}, stream=(1 << 64) - 1),
    ]
    sent = [Sent(time=5.0, ends=(A, B), data=b"".join(map(bytes, damaged)))]
    write_capture(tmp_path / "bad.pcap", [Sent(time=4.0, ends=(A, B), data=encode_frame(frame)), *sent])
    mine, other = both(tmp_path / "bad.pcap")
    for rows in (mine, other):
        for row in rows:
            row.pop("record"), row.pop("content_length")
    assert mine == other and len(mine) == 6
