"""A large tensor as chunks: cut on one side, put together on the other, in any order (C1).

The payload of a bulk frame is the record `ChunkHead`, then raw bytes, as `payload.py` lays them out. Law: a byte
counts only after its chunk's index, offset, length and XXH3-64 were checked against a checked envelope; the assembler
takes memory once, for the envelope's length, which its caller's own limit bounds. It decides nothing about time.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import xxhash

from zeitgeist.core.errors import refuse
from zeitgeist.core.formats.canonical import Record, decode, encode
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.formats.tensor import TensorEnvelope, check_envelope, chunk_span
from zeitgeist.core.limits import CHUNK_RECORD_BYTES_MAX
from zeitgeist.core.wire.frame import Channel
from zeitgeist.core.wire.payload import join_payload, split_payload

__all__ = ["Assembler", "ChunkHead", "chunk_head", "chunks_of", "pack_chunk", "unpack_chunk"]

ANY_BULK = Channel.TENSOR
"""Tensor and cache have one layout, so that a chunk is packed before it is known on which of them it goes."""


class ChunkHead(Record, frozen=True, kw_only=True):
    """Which bytes follow: chunk index of tensor, at offset, length bytes, with this XXH3-64."""

    tensor: str
    index: int
    offset: int
    length: int
    xxh3: int


def chunk_head(envelope: TensorEnvelope, content: memoryview, index: int) -> ChunkHead:
    """The head of one chunk of content, which is the tensor's bytes (`B` format, envelope.length long)."""
    offset, length = chunk_span(envelope, index)
    return ChunkHead(
        tensor=envelope.tensor,
        index=index,
        offset=offset,
        length=length,
        xxh3=xxhash.xxh3_64_intdigest(content[offset : offset + length]),
    )


def chunks_of(
    envelope: TensorEnvelope,
    content: bytes | memoryview,
    indices: Iterable[int] | None = None,
) -> Iterator[tuple[ChunkHead, memoryview]]:
    """Heads and views of content (no copy): all chunks in order, or those that a receiver asked for again."""
    view = memoryview(content).cast("B")
    assert view.nbytes == envelope.length, f"content has {view.nbytes} bytes, the envelope says {envelope.length}"
    for index in range(envelope.chunk_count) if indices is None else indices:
        if not 0 <= index < envelope.chunk_count:
            raise refuse("zg/tensor/bad-chunk", "index", index, f"0 to {envelope.chunk_count - 1}")
        head = chunk_head(envelope, view, index)
        yield head, view[head.offset : head.offset + head.length]


def pack_chunk(head: ChunkHead) -> bytes:
    """What stands before the raw bytes in the payload."""
    return join_payload(ANY_BULK, encode(head))


def unpack_chunk(payload: bytes | memoryview) -> tuple[ChunkHead, memoryview]:
    """(head, raw bytes as a view) of a bulk payload. Length and canonical form are checked, the checksum is not yet."""
    record, raw = split_payload(ANY_BULK, payload)
    head = decode(record, ChunkHead, CHUNK_RECORD_BYTES_MAX)
    if raw.nbytes != head.length:
        raise refuse("zg/tensor/bad-chunk", "length", raw.nbytes, f"{head.length} as the record says")
    return head, raw


class Assembler:
    """One tensor on its way in. Chunks may come in any order, twice, damaged, or over several links.

    bytes_max: what this receiver is ready to hold. into: memory of exactly the envelope's length, for instance shared;
    without it a bytearray is taken at the first sound chunk. have: checksums by index of chunks already in `into`, from
    `received` before an interruption; each is verified again against the memory, and asked for again when it fails.
    """

    def __init__(
        self,
        envelope: TensorEnvelope,
        bytes_max: int,
        into: memoryview | None = None,
        have: dict[int, int] | None = None,
    ) -> None:
        check_envelope(envelope, bytes_max)
        self.envelope = envelope
        self.content = None if into is None else into.cast("B")
        if self.content is not None and (self.content.nbytes != envelope.length or self.content.readonly):
            raise refuse(
                "zg/tensor/bad-envelope",
                "length",
                self.content.nbytes,
                f"{envelope.length} writable bytes to receive into",
            )
        self.received: dict[int, int] = {}
        self.corrupt: set[int] = set()
        for index, check in sorted((have or {}).items()):
            self.resume(index, check)

    def accept(self, head: ChunkHead, raw: bytes | memoryview) -> Literal["accepted", "duplicate"]:
        """Check one chunk and keep its bytes. A corrupt one is refused by index and stays in `missing()`."""
        self.check_place(head, memoryview(raw).nbytes)
        if xxhash.xxh3_64_intdigest(raw) != head.xxh3:
            if head.index not in self.received:
                self.corrupt.add(head.index)
            raise refuse(
                "zg/tensor/corrupt-chunk", f"chunk {head.index}", "other bytes", "bytes with the head's checksum"
            )
        known = self.received.get(head.index)  # once: `finish`, in another thread, may forget them all
        if known is not None:
            if known != head.xxh3:
                raise refuse(
                    "zg/tensor/bad-chunk", f"chunk {head.index}", "a second content", "the one that was accepted"
                )
            return "duplicate"
        if self.content is None:
            self.content = memoryview(bytearray(self.envelope.length))
        self.content[head.offset : head.offset + head.length] = memoryview(raw).cast("B")
        self.received[head.index] = head.xxh3
        self.corrupt.discard(head.index)
        return "accepted"

    def check_place(self, head: ChunkHead, nbytes: int) -> None:
        """The head names this tensor, and the place that the envelope gives its index: no overlap, nothing outside."""
        if head.tensor != self.envelope.tensor:
            raise refuse("zg/tensor/foreign-chunk", "tensor", head.tensor, self.envelope.tensor)
        if not 0 <= head.index < self.envelope.chunk_count:
            raise refuse("zg/tensor/bad-chunk", "index", head.index, f"0 to {self.envelope.chunk_count - 1}")
        offset, length = chunk_span(self.envelope, head.index)
        for field, got, wanted in (
            ("offset", head.offset, offset),
            ("length", head.length, length),
            ("payload", nbytes, length),
        ):
            if got != wanted:
                raise refuse("zg/tensor/bad-chunk", field, got, f"{wanted} for chunk {head.index}")

    def resume(self, index: int, check: int) -> None:
        """Count a chunk as received when the memory still has its bytes."""
        if self.content is None or not 0 <= index < self.envelope.chunk_count:
            raise refuse("zg/tensor/bad-chunk", "have", index, "chunks of this tensor, and the memory that holds them")
        offset, length = chunk_span(self.envelope, index)
        if xxhash.xxh3_64_intdigest(self.content[offset : offset + length]) == check:
            self.received[index] = check
        else:
            self.corrupt.add(index)

    def missing(self, count_max: int = 1024) -> tuple[int, ...]:
        """Chunks to ask for, corrupt ones first, at most count_max: 1,024 keep a link busy for a gigabyte."""
        wanted = sorted(self.corrupt)[:count_max]
        for index in range(self.envelope.chunk_count):
            if len(wanted) >= count_max:
                break
            if index not in self.received and index not in self.corrupt:
                wanted.append(index)
        return tuple(wanted)

    @property
    def complete(self) -> bool:
        """True when every chunk was accepted; `finish` still has to agree."""
        return len(self.received) == self.envelope.chunk_count

    def finish(self) -> memoryview:
        """The tensor's bytes, read-only, once the whole has the envelope's digest. Else all are asked for again."""
        if not self.complete:
            raise refuse(
                "zg/tensor/incomplete",
                "chunks",
                f"{len(self.received)}, missing {self.missing(8)}",
                self.envelope.chunk_count,
            )
        content = self.content if self.content is not None else memoryview(b"")
        if content_digest(content) != self.envelope.checksum:
            self.received.clear()
            raise refuse("zg/tensor/corrupt-content", "checksum", content_digest(content), self.envelope.checksum)
        return content.toreadonly()
