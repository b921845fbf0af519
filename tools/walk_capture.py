"""A walk's capture, opened and dissected: frames by kind and channel.

Law: the frames are read by the product's own dissector from the file, not from anything that the walk remembers.
"""

from collections import Counter
from pathlib import Path

import msgspec
from walk_tls import open_capture

from zeitgeist.capture.dissect import Sighting, read_capture
from zeitgeist.core.wire.frame import Channel

__all__ = ["Captured", "Kind", "dissected"]


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """Frames of one kind on one channel, their bytes with header and content."""

    record: str
    channel: str
    frames: int
    data: int


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """frames_out: from whoever called, frames_in: to it. faults: bytes or frames that are not as they should be, and
    numbers that are missing in a direction. why: it could not be read, or not all is well."""

    kinds: tuple[Kind, ...] = ()
    frames_out: int = 0
    frames_in: int = 0
    faults: int = 0
    why: str = ""


def dissected(tls: Path, keys: Path) -> Captured:
    """Open tls with keys, write `walk.pcap` beside it, read that."""
    clear = tls.with_name("walk.pcap")
    try:
        opened = open_capture(tls, keys, clear)
    except ValueError as error:
        return Captured(why=str(error))
    frames: Counter[tuple[str, str]] = Counter()
    data: Counter[tuple[str, str]] = Counter()
    directions: Counter[bool] = Counter()
    numbers: Counter[tuple[str, str]] = Counter()
    faults = opened.closed
    blind = sum(isinstance(seen, Sighting) for seen in read_capture(tls))
    callers: set[str] = set()
    answerers: set[str] = set()
    for seen in read_capture(clear):
        if not isinstance(seen, Sighting) or seen.header != "ok" or seen.payload != "ok" or seen.refusal:
            faults += 1
            continue
        faults += seen.frame.sequence != numbers[seen.ends]
        numbers[seen.ends] += 1
        kind = seen.record, Channel(seen.frame.channel).name.lower()
        frames[kind] += 1
        data[kind] += 48 + int(seen.frame.length)
        if seen.record == "Hello":
            callers.add(seen.ends[0])
            answerers.add(seen.ends[1])
        directions[seen.ends[0] in callers and seen.ends[1] in answerers] += 1
    kinds = tuple(
        Kind(record=record, channel=channel, frames=count, data=data[(record, channel)])
        for (record, channel), count in sorted(frames.items(), key=lambda item: (-item[1], item[0]))
    )
    why = f"{blind} frames were seen without the keys" if blind else f"{faults} faults" if faults else ""
    return Captured(kinds=kinds, frames_out=directions[True], frames_in=directions[False], faults=faults, why=why)
