"""The frame: a fixed header of 48 bytes, then the payload (DESIGN §3, C1).

Little-endian: magic 4s, version u16, channel u8, zero u8, kind u16, flags u16, payload length u32, stream u64,
sequence u64, XXH3-64 of the payload, XXH3-64 of the 40 bytes before. The checksums find damage, not deceit.

Law: this file does not know what a kind means nor which side we are. Every field of the header is checked before memory
is taken for the payload. After one refusal a decoder stays refused: nothing after a broken frame can be trusted to be
where it seems. Whether a sequence number is the next one is the session's to judge.
"""

import struct
from collections.abc import Callable
from enum import IntEnum, IntFlag
from typing import TypeAlias

import msgspec
import xxhash

from zeitgeist.core.descriptors.versions import SCHEMA_VERSIONS, require_version
from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError, ZeitgeistError, refuse
from zeitgeist.core.limits import (
    CHUNK_BYTES_MAX,
    CHUNK_RECORD_BYTES_MAX,
    CONTROL_BYTES_MAX,
    FRAME_HEADER_BYTES,
)

__all__ = [
    "MAGIC",
    "Channel",
    "Flag",
    "Frame",
    "FrameDecoder",
    "Head",
    "checked_frame",
    "copy_of",
    "encode_frame",
    "frame_header",
    "payload_bytes_max",
    "read_header",
]

MAGIC = b"ZGFR"
PROTOCOL = SCHEMA_VERSIONS["protocol"]
HEAD = struct.Struct("<4sHBBHHIQQQ")
CHECK = struct.Struct("<Q")
HEAD_BYTES = HEAD.size
HEADER = struct.Struct(HEAD.format + "Q")
LENGTH_AT = struct.calcsize("<4sHBBHH")
assert HEADER.size == FRAME_HEADER_BYTES
assert HEAD.size + CHECK.size == FRAME_HEADER_BYTES


class Channel(IntEnum):
    """The seven channels (G5). Tensor and cache carry bulk, the others control."""

    CONTROL = 0
    CAPABILITY = 1
    TENSOR = 2
    CACHE = 3
    JOB = 4
    METRICS = 5
    DEBUG = 6


class Flag(IntFlag):
    """REPLY answers the stream's request; ERROR makes the reply a refusal; LAST ends the stream;
    ATTACHED: one descriptor of shared memory travels beside the frame's first byte."""

    REPLY = 1
    ERROR = 2
    LAST = 4
    ATTACHED = 8


BULK = (Channel.TENSOR, Channel.CACHE)
FLAGS_KNOWN = int(Flag.REPLY | Flag.ERROR | Flag.LAST | Flag.ATTACHED)


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One frame. kind: the number of a record, 16 bits; stream, sequence: unsigned, 64 bits; payload: read-only."""

    channel: Channel
    kind: int
    stream: int = 0
    sequence: int = 0
    flags: Flag = Flag(0)
    payload: bytes | memoryview = b""


def payload_bytes_max(channel: Channel) -> int:
    """The largest payload a channel carries: a control record, or a chunk with its record."""
    return CHUNK_BYTES_MAX + CHUNK_RECORD_BYTES_MAX if channel in BULK else CONTROL_BYTES_MAX


CHANNELS: tuple[Channel, ...] = tuple(Channel)
FLAGS = tuple(Flag(bits) for bits in range(FLAGS_KNOWN + 1))
PAYLOAD_BYTES_MAX = tuple(payload_bytes_max(channel) for channel in CHANNELS)
"""By number: a lookup costs a tenth of making the member, and a decoder makes two for each frame."""


def frame_header(frame: Frame, *more: bytes | memoryview) -> bytes:
    """The 48 bytes before the payload, which is `frame.payload` and more, one after another: a sender need not join
    them. What a decoder would refuse is a `LocalProtocolError` here."""
    channel, first = frame.channel, frame.payload
    nbytes = len(first) if type(first) is bytes else bytes_of(first)
    for part in more:
        nbytes += bytes_of(part)
    if nbytes > PAYLOAD_BYTES_MAX[channel]:
        raise LocalProtocolError(
            "zg/wire/frame-too-large",
            f"got {nbytes} bytes, wanted at most {PAYLOAD_BYTES_MAX[channel]} on {channel.name.lower()}",
            "payload",
        )
    check = payload_check(first, more) if more else xxhash.xxh3_64_intdigest(first)
    try:
        head = HEAD.pack(
            MAGIC, PROTOCOL, channel, 0, frame.kind, frame.flags, nbytes, frame.stream, frame.sequence, check
        )
    except struct.error as error:
        raise LocalProtocolError("zg/wire/bad-header", str(error), "kind, stream, sequence") from error
    return head + CHECK.pack(xxhash.xxh3_64_intdigest(head))


def bytes_of(part: bytes | memoryview) -> int:
    """Length in bytes, whatever the view counts in."""
    return len(part) if type(part) is bytes else memoryview(part).nbytes


def payload_check(first: bytes | memoryview, more: tuple[bytes | memoryview, ...]) -> int:
    """XXH3-64 of the parts one after another."""
    hasher = xxhash.xxh3_64(first)
    for part in more:
        hasher.update(part)
    return hasher.intdigest()


def encode_frame(frame: Frame) -> bytes:
    """Header and payload as one buffer. For bulk send `frame_header(frame)` and the payload by themselves: no copy."""
    return frame_header(frame) + frame.payload


class FrameDecoder:
    """Bytes of one ordered stream in, whole and verified frames out; never holds more than one frame.

    Push: `feed(data)`. Without a copy: read into `target()` and call `advance(count)`, as `recv_into` and
    `BufferedProtocol` do. Each payload is a buffer of its own; later frames do not overwrite it, unless take says so.
    take: gives the memory of a payload, after its header was checked; may refuse.
    """

    def __init__(self, take: Callable[[int], bytearray] = bytearray) -> None:
        self.take = take
        self.buffer = bytearray(FRAME_HEADER_BYTES)
        self.filled = 0
        self.head: Head | None = None
        self.refusal: ZeitgeistError | None = None
        """A copy that is never raised: an error holds the frames it passed through, and so this decoder and its buffer.
        A circle of them would keep the memory of each refused link until the collector comes."""

    def target(self) -> memoryview:
        """Where the next bytes go: never empty, never past the frame in progress."""
        if self.refusal:
            raise copy_of(self.refusal)
        return memoryview(self.buffer)[self.filled :]

    def advance(self, count: int) -> Frame | None:
        """count bytes were written to `target()`; the frame, if that completed one."""
        assert 0 <= count <= len(self.buffer) - self.filled, f"{count} bytes are more than target() gave"
        if self.refusal:
            raise copy_of(self.refusal)
        self.filled += count
        if self.filled < len(self.buffer):
            return None
        try:
            return self.complete()
        except ZeitgeistError as error:
            self.refusal = copy_of(error)
            self.buffer, self.filled = bytearray(FRAME_HEADER_BYTES), 0
            raise

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Frames completed by data. A refusal loses the frames before it in the same call: the link ends anyway."""
        if (
            type(data) is bytes
            and not self.filled
            and self.head is None
            and self.take is bytearray
            and self.refusal is None
            and len(data) >= FRAME_HEADER_BYTES
            and int.from_bytes(data[LENGTH_AT : LENGTH_AT + 4], "little") == len(data) - FRAME_HEADER_BYTES
        ):  # One frame, as far as its length is true: it needs no memory but these bytes, which nobody can change.
            try:
                return [checked_frame(read_header(data), memoryview(data)[FRAME_HEADER_BYTES:])]
            except ZeitgeistError as error:
                self.refusal = copy_of(error)
                raise
        view = memoryview(data)
        frames: list[Frame] = []
        while view.nbytes:
            target = self.target()
            count = min(len(target), view.nbytes)
            target[:count] = view[:count]
            view = view[count:]
            if frame := self.advance(count):
                frames.append(frame)
        return frames

    def end(self) -> None:
        """The stream ended; inside a frame that is `zg/wire/truncated`."""
        if self.refusal:
            raise copy_of(self.refusal)
        if self.filled or self.head:
            raise refuse(
                "zg/wire/truncated", "payload" if self.head else "header", f"{self.filled} bytes", f"{len(self.buffer)}"
            )

    def complete(self) -> Frame | None:
        """The buffer is full: of a header, or of a payload."""
        if self.head is None:
            self.head = read_header(self.buffer)
            self.buffer, self.filled = self.take(self.head[3]), 0
            if self.head[3]:
                return None
        frame = checked_frame(self.head, memoryview(self.buffer).toreadonly())
        self.buffer, self.filled, self.head = bytearray(FRAME_HEADER_BYTES), 0, None
        return frame


def checked_frame(head: "Head", payload: memoryview, found: int | None = None) -> Frame:
    """The frame of a header that was read, once the payload has the checksum that it states. found: the XXH3-64 of
    payload, where it was made while the bytes came."""
    channel, kind, flags, _, stream, sequence, check = head
    if (xxhash.xxh3_64_intdigest(payload) if found is None else found) != check:
        raise refuse(
            "zg/wire/bad-payload-checksum",
            "payload",
            f"stream {stream} sequence {sequence}",
            "bytes with the checksum that the header states",
        )
    return Frame(
        channel=CHANNELS[channel], kind=kind, stream=stream, sequence=sequence, flags=FLAGS[flags], payload=payload
    )


def copy_of(error: ZeitgeistError) -> ZeitgeistError:
    """The same refusal without the way that it came."""
    return type(error)(error.id, error.detail, error.field)


Head: TypeAlias = tuple[int, int, int, int, int, int, int]
"""(channel, kind, flags, length, stream, sequence, check of the payload) of a header that has been checked."""


def read_header(raw: bytes | bytearray | memoryview) -> Head:
    """What the first 48 bytes of raw say; the first fault is refused by name.

    Magic and version come before the checksum: another version may compute it over other bytes.
    """
    magic, version, channel, zero, kind, flags, length, stream, sequence, check, own = HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise refuse("zg/wire/bad-magic", "magic", magic, MAGIC)
    if version != PROTOCOL:
        require_version("protocol", version)
    if own != xxhash.xxh3_64_intdigest(raw[:HEAD_BYTES]):
        raise RemoteProtocolError("zg/wire/bad-header-checksum", "the header was damaged on the way", "header")
    if zero:
        raise refuse("zg/wire/bad-header", "zero", zero, 0)
    if channel >= len(CHANNELS):
        raise refuse("zg/wire/unknown-channel", "channel", channel, f"0 to {len(CHANNELS) - 1}")
    if flags & ~FLAGS_KNOWN:
        raise refuse("zg/wire/unknown-flags", "flags", hex(flags), f"only bits of {hex(FLAGS_KNOWN)}")
    if length > PAYLOAD_BYTES_MAX[channel]:
        name = Channel(channel).name.lower()
        raise refuse("zg/wire/frame-too-large", "length", length, f"at most {PAYLOAD_BYTES_MAX[channel]} on {name}")
    return channel, kind, flags, length, stream, sequence, check
