"""Payload bytes of one simulated party, by handle; chunks judged by the assembler of the wire (DESIGN §2, C1).

Law: the core names content, this keeps it. Handles of ours are odd. A chunk without an `Expect` is unexpected, a
damaged one is corrupt, and the verdict is all that the core hears. Released means gone.
"""

from typing import Literal

from zeitgeist.core.effects import (
    ChunkArrived,
    Expect,
    Input,
    PayloadCorrupt,
    PayloadReady,
    PayloadRef,
    Release,
    SendChunk,
)
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import Handle, LinkId
from zeitgeist.core.wire.chunks import Assembler, chunk_head, pack_chunk, unpack_chunk
from zeitgeist.core.wire.frame import Frame
from zeitgeist.core.wire.messages import Reason

__all__ = ["Payloads", "reason_of"]

ChunkVerdict = Literal["accepted", "duplicate", "corrupt", "unexpected", "refused"]


def reason_of(error: ZeitgeistError) -> Reason:
    """An error as it travels."""
    return Reason(id=error.id, detail=error.detail[:1000], field=error.field[:200])


class Payloads:
    """bytes_max: the largest payload that this party takes."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.held: dict[int, bytes | memoryview] = {}
        self.assemblers: dict[int, Assembler] = {}
        self.expected: dict[tuple[LinkId, int], Handle] = {}
        self.last = -1

    def put(self, data: bytes | memoryview) -> PayloadRef:
        """Keep data under a new handle."""
        self.last += 2
        self.held[self.last] = data
        return PayloadRef(handle=Handle(self.last), length=len(data), digest=content_digest(data))

    def get(self, handle: Handle) -> bytes | memoryview:
        """The bytes behind handle. Asking for what was released is a fault of the core."""
        assert handle in self.held, f"handle {handle} is not held"
        return self.held[handle]

    def apply(self, op: Expect | Release) -> None:
        """Make room, or forget."""
        match op:
            case Expect():
                if op.handle not in self.assemblers:
                    self.assemblers[op.handle] = Assembler(op.envelope, self.bytes_max)
                for key in [k for k, handle in self.expected.items() if handle == op.handle and k[0] == op.link]:
                    del self.expected[key]  # offered again: the older number is of no use
                self.expected[(op.link, op.stream)] = op.handle
            case Release():
                self.held.pop(op.handle, None)
                if self.assemblers.pop(op.handle, None) is not None:
                    self.expected = {key: handle for key, handle in self.expected.items() if handle != op.handle}

    def arrived(self, link: LinkId, frame: Frame) -> ChunkArrived:
        """The verdict about a frame on tensor or cache."""
        verdict, index, length, reason = self.judge(link, frame)
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

    def judge(self, link: LinkId, frame: Frame) -> tuple[ChunkVerdict, int, int, Reason | None]:
        """(verdict, index, length, reason)."""
        try:
            head, raw = unpack_chunk(frame.payload)
        except ZeitgeistError as error:
            return "refused", 0, 0, reason_of(error)
        assembler = self.assemblers.get(self.expected.get((link, frame.stream), Handle(0)))
        if assembler is None:
            return "unexpected", head.index, head.length, None
        try:
            return assembler.accept(head, raw), head.index, head.length, None
        except ZeitgeistError as error:
            corrupt = error.id == "zg/tensor/corrupt-chunk"
            return "corrupt" if corrupt else "refused", head.index, head.length, reason_of(error)

    def whole(self, link: LinkId, stream: int) -> Input | None:
        """What to tell about the payload of this stream: ready, corrupt, or nothing yet."""
        handle = self.expected.get((link, stream))
        assembler = None if handle is None else self.assemblers.get(handle)
        if handle is None or assembler is None or not assembler.complete or handle in self.held:
            return None
        try:
            data = assembler.finish()
        except ZeitgeistError as error:
            return PayloadCorrupt(handle=handle, reason=reason_of(error))
        self.held[handle] = data
        envelope = assembler.envelope
        return PayloadReady(content=PayloadRef(handle=handle, length=envelope.length, digest=envelope.checksum))

    def cut(self, sending: SendChunk) -> bytes:
        """The payload of one chunk: its record, then its bytes."""
        view = memoryview(self.get(sending.handle)).cast("B")
        head = chunk_head(sending.envelope, view, sending.index)
        return pack_chunk(head) + view[head.offset : head.offset + head.length]
