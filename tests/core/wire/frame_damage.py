"""Broken frames by the million, made in one buffer that is there before anyone measures memory.

Every way to be wrong: flipped bits, a cut, lost bytes, noise, a forged header and a forged record whose checksums are
right. Sound frames come from the golden vectors, with one of each bulk channel at its largest among them.
"""

import random
import struct
from collections.abc import Callable

import xxhash

from fixtures.golden_messages import frames
from zeitgeist.core.formats.canonical import decode
from zeitgeist.core.limits import CHUNK_BYTES_MAX, FRAME_BYTES_MAX, FRAME_HEADER_BYTES
from zeitgeist.core.wire.chunks import ChunkHead, pack_chunk, unpack_chunk
from zeitgeist.core.wire.frame import BULK, FrameDecoder, encode_frame
from zeitgeist.core.wire.payload import CONTENT_CHANNELS, split_payload
from zeitgeist.core.wire.registry import KINDS, REGISTRY

__all__ = ["Damage", "read"]

LARGE_EVERY = 500
"""One frame in so many has the largest payload there is."""
HEAD = struct.Struct("<4sHBBHHIQQQ")
FIELDS = {"version": (4, "<H"), "channel": (6, "<B"), "zero": (7, "<B"), "flags": (10, "<H"), "length": (12, "<I")}


def read(data: memoryview) -> None:
    """What a reader does with one link's bytes: frames, then their records. A refusal is a `ZeitgeistError`."""
    decoder = FrameDecoder()
    for frame in decoder.feed(data):
        row = REGISTRY.get(frame.kind)
        if row is None or frame.channel not in row.channels:
            continue
        if frame.channel in BULK:
            unpack_chunk(frame.payload)
        else:
            decode(split_payload(frame.channel, frame.payload)[0], row.record)
    decoder.end()


class Damage:
    """Damaged frames, one after another, in one buffer. The same seed gives the same frames."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        small = [encode_frame(frame) for frame in frames() if frame.payload and frame.kind in REGISTRY]
        self.small = small
        head = ChunkHead(tensor="layer.0.k", index=0, offset=0, length=CHUNK_BYTES_MAX, xxh3=0)
        chunk = next(frame for frame in frames() if frame.kind == KINDS[ChunkHead].kind)
        self.header = encode_frame(chunk)[:FRAME_HEADER_BYTES]
        self.payload = pack_chunk(head)
        self.arena = bytearray(FRAME_BYTES_MAX)
        self.view = memoryview(self.arena)
        self.large_length = FRAME_HEADER_BYTES + len(self.payload) + CHUNK_BYTES_MAX
        self.ways: tuple[Callable[[int], int], ...] = (
            self.flip,
            self.flip,
            self.cut,
            self.lose,
            self.noise,
            self.forge_header,
            self.forge_record,
        )
        self.number = 0

    def next(self) -> memoryview:
        """One damaged frame; valid until the next."""
        self.number += 1
        if self.number % LARGE_EVERY == 0:
            size = self.load_large()
            way = self.rng.choice((self.flip, self.cut, self.lose, self.forge_header))
        else:
            sound = self.rng.choice(self.small)
            size = len(sound)
            self.view[:size] = sound
            way = self.rng.choice(self.ways)
        return self.view[: way(size)]

    def load_large(self) -> int:
        """A sound frame of the largest payload; its content is whatever the buffer holds."""
        start = FRAME_HEADER_BYTES
        self.view[:start] = self.header
        self.view[start : start + len(self.payload)] = self.payload
        self.sign(self.large_length)
        return self.large_length

    def sign(self, size: int) -> None:
        """Make length and both checksums right."""
        struct.pack_into("<I", self.arena, 12, size - FRAME_HEADER_BYTES)
        struct.pack_into("<Q", self.arena, 32, xxhash.xxh3_64_intdigest(self.view[FRAME_HEADER_BYTES:size]))
        self.sign_header()

    def sign_header(self) -> None:
        """Make the header's checksum right, whatever its fields say."""
        struct.pack_into("<Q", self.arena, HEAD.size, xxhash.xxh3_64_intdigest(self.view[: HEAD.size]))

    def flip(self, size: int) -> int:
        """One to four bits, all different."""
        for place in self.rng.sample(range(size * 8), self.rng.randint(1, 4)):
            self.arena[place // 8] ^= 1 << place % 8
        return size

    def cut(self, size: int) -> int:
        """The end is missing."""
        return self.rng.randrange(1, size)

    def lose(self, size: int) -> int:
        """Bytes in the middle are missing; the rest moves up."""
        start = self.rng.randrange(size)
        count = min(self.rng.randint(1, 9), size - start)
        if start + count == size and start == 0:
            return self.cut(size)
        self.view[start : size - count] = (
            bytes(self.view[start + count : size]) if size < 1 << 16 else b"\1" * (size - count - start)
        )
        return size - count

    def noise(self, size: int) -> int:
        """Anything, at times behind the right magic."""
        keep = self.rng.choice((0, 4, 6))
        self.view[keep:size] = self.rng.randbytes(size - keep)
        return size

    def forge_header(self, size: int) -> int:
        """One field wrong, the checksum right: only the field itself can be refused."""
        name = self.rng.choice(sorted(FIELDS))
        offset, form = FIELDS[name]
        (old,) = struct.unpack_from(form, self.arena, offset)
        top = (1 << 8 * struct.calcsize(form)) - 1
        wrong = {"channel": 7 + self.rng.randrange(249), "flags": 16 << self.rng.randrange(12)}
        new = wrong.get(name, old + 1 + self.rng.randrange(top - old))
        struct.pack_into(form, self.arena, offset, new)
        self.sign_header()
        return size

    def forge_record(self, size: int) -> int:
        """One byte of the record wrong, the checksums right: only the record's decoder can refuse it."""
        prefix = 2 if self.arena[6] in CONTENT_CHANNELS else 0
        start = FRAME_HEADER_BYTES
        length = struct.unpack_from("<H", self.arena, start)[0] + 2 if prefix else size - start
        place = start + self.rng.randrange(length)
        self.arena[place] ^= 1 + self.rng.randrange(255)
        self.sign(size)
        return size
