"""Payload bytes of one node by handle, and the verdicts about chunks that arrive (DESIGN §2, C1).

Law: the core names content, this keeps it; handles of ours are odd. All that is held and all that is expected stays
below bytes_max: what would exceed it is refused before memory is taken. Released means gone; a view that somebody still
sends from keeps its own memory alive. `sim/payloads.py` gives the same verdicts.
"""

import mmap

from zeitgeist.core.effects import (
    ChunkArrived,
    Expect,
    PayloadCorrupt,
    PayloadReady,
    PayloadRef,
    Release,
    SendChunk,
)
from zeitgeist.core.errors import LocalProtocolError, ZeitgeistError
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import Digest, Handle, LinkId
from zeitgeist.core.wire.chunks import Assembler, chunk_head, pack_chunk, unpack_chunk
from zeitgeist.core.wire.frame import Frame
from zeitgeist.core.wire.messages import Reason

__all__ = ["Payloads", "reason_of"]

PAGED_BYTES = 1 << 20
"""From 1 MiB on the kernel gives pages as chunks fill them: to zero 64 MiB at once kept control waiting for 50 ms."""


def reason_of(error: ZeitgeistError) -> Reason:
    """An error as it travels."""
    return Reason(id=error.id, detail=error.detail, field=error.field)


def fresh_memory(length: int) -> memoryview | None:
    """Room for a payload, taken page by page; None where it is small enough to be taken at once."""
    if length < PAGED_BYTES:
        return None
    return memoryview(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class Payloads:
    """bytes_max: of all payloads together; payload_bytes_max: of one that is expected."""

    def __init__(self, bytes_max: int, payload_bytes_max: int) -> None:
        self.bytes_max, self.payload_bytes_max = bytes_max, payload_bytes_max
        self.held: dict[Handle, memoryview] = {}
        self.assemblers: dict[Handle, Assembler] = {}
        self.refused: dict[Handle, Reason] = {}
        self.expected: dict[tuple[LinkId, int], Handle] = {}
        self.judging: set[Handle] = set()
        self.bytes = 0
        self.last = -1

    def put(self, data: bytes | memoryview, digest: Digest | None = None) -> PayloadRef:
        """Keep data under a new handle. digest: of it, where the caller knows. `zg/transport/memory-full` when there is
        no room."""
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        self.take(view.nbytes)
        self.last += 2
        handle = Handle(self.last)
        self.held[handle] = view
        return PayloadRef(handle=handle, length=view.nbytes, digest=digest or content_digest(view))

    def get(self, handle: Handle) -> memoryview:
        """The bytes behind handle. Asking for what was released is a fault of the core."""
        assert handle in self.held, f"handle {handle} is not held"
        return self.held[handle]

    def take(self, count: int) -> None:
        if self.bytes + count > self.bytes_max:
            detail = f"got {count} bytes beside {self.bytes}, wanted at most {self.bytes_max} together"
            raise LocalProtocolError("zg/transport/memory-full", detail, "payload")
        self.bytes += count

    def expect(self, op: Expect) -> None:
        """Make room for chunks of a stream. Where there is none, each of its chunks is refused with that reason."""
        if op.handle not in self.assemblers and op.handle not in self.held:
            try:
                assembler = Assembler(op.envelope, self.payload_bytes_max, fresh_memory(op.envelope.length))
                self.take(op.envelope.length)
                self.assemblers[op.handle] = assembler
            except ZeitgeistError as error:
                self.refused[op.handle] = reason_of(error)
        self.forget_streams(op.handle, op.link)  # offered again: the older number is of no use
        self.expected[(op.link, op.stream)] = op.handle

    def release(self, op: Release) -> None:
        """Nobody needs it any more."""
        self.refused.pop(op.handle, None)
        assembler = self.assemblers.pop(op.handle, None)
        view = self.held.pop(op.handle, None)
        if assembler is not None:
            self.bytes -= assembler.envelope.length
        elif view is not None:
            self.bytes -= view.nbytes
        self.forget_streams(op.handle)

    def forget_streams(self, handle: Handle, link: LinkId | None = None) -> None:
        """Nothing more is expected for handle, on link or on any."""
        for key in [key for key, other in self.expected.items() if other == handle and link in (None, key[0])]:
            del self.expected[key]

    def link_down(self, link: LinkId) -> None:
        """Nothing more comes on link. What it brought so far is kept for a resume."""
        for key in [key for key in self.expected if key[0] == link]:
            del self.expected[key]

    # ---- chunks in

    def arrived(self, link: LinkId, frame: Frame) -> ChunkArrived:
        """The verdict about a frame on tensor or cache."""
        index = length = 0
        reason: Reason | None = None
        try:
            head, raw = unpack_chunk(frame.payload)
            index, length = head.index, head.length
            handle = self.expected.get((link, frame.stream), Handle(0))
            assembler = self.assemblers.get(handle)
            if assembler is not None:
                verdict = assembler.accept(head, raw)
            else:
                reason = self.refused.get(handle)
                verdict = "refused" if reason else "unexpected"
        except ZeitgeistError as error:
            verdict = "corrupt" if error.id == "zg/tensor/corrupt-chunk" else "refused"
            reason = reason_of(error)
        return ChunkArrived(
            link=link,
            channel=int(frame.channel),
            stream=frame.stream,
            sequence=frame.sequence,
            index=index,
            length=length,
            verdict=verdict,
            reason=reason,
        )

    def completed(self, link: LinkId, stream: int) -> tuple[Handle, Assembler] | None:
        """The stream's payload, when it has just become whole and nobody judges it yet."""
        handle = self.expected.get((link, stream), Handle(0))
        assembler = self.assemblers.get(handle)
        if assembler is None or not assembler.complete or handle in self.held or handle in self.judging:
            return None
        self.judging.add(handle)
        return handle, assembler

    def judged(self, handle: Handle, found: memoryview | ZeitgeistError) -> PayloadReady | PayloadCorrupt | None:
        """`assembler.finish()` gave this, here or in another thread. None: it was released meanwhile."""
        self.judging.discard(handle)
        assembler = self.assemblers.get(handle)
        if assembler is None:
            return None
        if isinstance(found, ZeitgeistError):
            return PayloadCorrupt(handle=handle, reason=reason_of(found))
        self.held[handle] = found
        envelope = assembler.envelope
        return PayloadReady(content=PayloadRef(handle=handle, length=envelope.length, digest=envelope.checksum))

    # ---- chunks out

    def cut(self, sending: SendChunk) -> tuple[bytes, memoryview]:
        """(record, bytes) of one chunk; the bytes are a view."""
        view = self.get(sending.handle)
        head = chunk_head(sending.envelope, view, sending.index)
        return pack_chunk(head), view[head.offset : head.offset + head.length]
