"""docs/spec/wire.md is enough for a stranger: its table and its example give our bytes, its numbers are ours (G5)."""

import re
import struct
from pathlib import Path

import pytest
import xxhash

from zeitgeist.core.formats.canonical import encode
from zeitgeist.core.wire.frame import Channel, Frame, encode_frame
from zeitgeist.core.wire.messages import Ping
from zeitgeist.core.wire.payload import CONTENT_CHANNELS

pytestmark = [pytest.mark.requirement("C1"), pytest.mark.requirement("G5")]

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "spec" / "wire.md").read_text()
PING = Frame(channel=Channel.CONTROL, kind=7, sequence=6, payload=encode(Ping(number=300)))


def test_the_example_on_the_page_is_the_frame_that_we_send() -> None:
    """Every byte of it."""
    block = re.search(r"\*\*Example.*?```\n(.*?)```", PAGE, re.DOTALL)
    assert block and bytes.fromhex(block[1]) == encode_frame(PING)


def test_the_table_of_the_header_lays_out_our_header() -> None:
    """A header packed from the page's offsets and sizes alone, in the order of its rows, is ours."""
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([a-z ]+) \|", PAGE, re.MULTILINE)
    payload = bytes(PING.payload)
    values = {
        "magic": int.from_bytes(b"ZGFR", "little"),
        "version": 1,
        "kind": 7,
        "length": len(payload),
        "sequence": 6,
    }
    values["payload check"] = xxhash.xxh3_64_intdigest(payload)
    made, forms = bytearray(), {"1": "B", "2": "<H", "4": "<I", "8": "<Q"}
    for offset, size, name in rows:
        assert len(made) == int(offset)
        value = xxhash.xxh3_64_intdigest(made) if name == "header check" else values.pop(name, 0)
        made += struct.pack(forms[size], value)
    assert not values and bytes(made) + payload == encode_frame(PING)


def test_the_channels_of_the_page_are_the_channels_of_the_code() -> None:
    """By number and name; and those that carry content are said to."""
    rows = {int(number): name for number, name in re.findall(r"^\| (\d) \| ([a-z]+) \| [a-z]", PAGE, re.MULTILINE)}
    assert rows == {channel.value: channel.name.lower() for channel in Channel}
    assert (
        ", ".join(str(channel.value) for channel in sorted(CONTENT_CHANNELS)) == "2, 3, 4"
        and "On 2, 3, 4 it is" in PAGE
    )
    assert f"{xxhash.xxh3_64_intdigest(b''):016x}" in PAGE
