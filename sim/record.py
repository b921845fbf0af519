"""Recordings of simulated parties, and of any party as files: `<node>.zgtrace`, zstd blocks, hash-chained (V2).

Law: one format for simulated and real parties (`core/recording.py`); this file adds compression and the file. A trace
is read with bounds: a block unpacks to what it says and no more.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from zeitgeist.core.effects import Effects, Input
from zeitgeist.core.errors import LocalProtocolError, refuse
from zeitgeist.core.recording import BlockReader, BlockWriter, Content, End, Entry, Header, Recorder, Subject
from zeitgeist.core.units import Instant

__all__ = ["SUFFIX", "TraceFile", "TraceReader", "compress", "decompress", "parts_from"]

SUFFIX = ".zgtrace"
READ_BYTES = 1 << 16
LEVEL = 1
"""Fastest: a step's digests do not compress, and the rest is small."""

BATCH = 16
"""Steps encoded together. A party that is killed closes its file, so none is lost."""

COMPRESSOR = zstandard.ZstdCompressor(level=LEVEL)
DECOMPRESSOR = zstandard.ZstdDecompressor()


def compress(raw: bytes) -> bytes:
    """One block."""
    return COMPRESSOR.compress(raw)


def decompress(stored: bytes, length: int) -> bytes:
    """One block of exactly length bytes; anything else is a ValueError."""
    try:
        if zstandard.frame_content_size(stored) != length:
            raise ValueError(f"the block says another length than {length}")
        return DECOMPRESSOR.decompress(stored, max_output_size=length)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


class TraceFile:
    """The recording of one party, written as it runs."""

    def __init__(self, path: Path, subject: Subject, header: Header) -> None:
        self.path = path
        try:
            self.file: BinaryIO = path.open("wb")
        except OSError as error:
            raise LocalProtocolError("zg/sim/out-dir", f"{path}: {error}", "record") from error
        self.writer = BlockWriter(header, compress)
        self.recorder = Recorder(subject, self.writer, BATCH)
        self.file.write(self.writer.start())

    def note(self, now: Instant, input: Input, effects: Effects) -> None:
        """One step."""
        if block := self.recorder.note(now, input, effects):
            self.file.write(block)

    def crashed(self, now: Instant, input: Input, error: Exception) -> None:
        """The step raised: its input is the last entry."""
        self.file.write(self.recorder.crashed(now, input, error))

    def close(self) -> None:
        """The last item, and the file is whole."""
        self.file.write(self.recorder.settle() or b"")
        self.file.write(self.writer.end(self.recorder.trace))
        self.file.close()


class TraceReader:
    """A trace file, item by item. `header` is there from the start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reader = BlockReader(decompress)
        try:
            self.file: BinaryIO = path.open("rb")
        except OSError as error:
            raise refuse("zg/sim/no-trace", str(path), error.strerror, "a recording that can be read") from error
        self.pending: list[Entry | Content | End] = []
        while self.reader.header is None:
            data = self.file.read(READ_BYTES)
            if not data:
                self.reader.finish()
            self.pending += self.reader.feed(data)
        self.header: Header = self.reader.header

    def items(self) -> Iterator[Entry | Content | End]:
        """Entries and contents in order, then the end. A cut file is refused after its last whole block."""
        yield from self.pending
        while data := self.file.read(READ_BYTES):
            yield from self.reader.feed(data)
        self.file.close()
        self.reader.finish()


def parts_from(first: TraceReader) -> Iterator[Entry | Content | End]:
    """The items of a rotated recording: of `NAME`, then of `NAME.1`, `NAME.2` … beside it, each of which must go on
    where the one before ended (`zg/trace/broken-chain`)."""
    if first.header.part:
        detail = f"{first.path} is part {first.header.part} of a recording, wanted its first part"
        raise LocalProtocolError("zg/sim/bad-usage", detail, "FILE")
    reader = first
    yield from reader.items()
    part = 1
    while (path := first.path.with_name(f"{first.path.name}.{part}")).exists():
        chain, reader = reader.reader.chain, TraceReader(path)
        if reader.header.previous != chain or reader.header.part != part:
            got = f"part {reader.header.part} after {reader.header.previous.hex()[:16]}"
            raise refuse("zg/trace/broken-chain", str(path), got, f"part {part} after {chain.hex()[:16]}")
        yield from reader.items()
        part += 1
