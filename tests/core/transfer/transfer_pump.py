"""Two transfer machines, real assemblers and real bytes between them: what a driver does, with every choice given.

Law: a connection keeps the order of control and may lose, double, shuffle and damage chunks; each side learns of a cut
and of a new connection at its own time, but hears nothing on a connection before it knows of it, or after its end.
Credit is asserted at each chunk: never more sent than was granted to the sender's knowledge.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from fixtures.golden_engines import ENVELOPE
from fixtures.golden_parties import NODE, NODE_A, NODE_B, PLAN
from zeitgeist.core.descriptors.node import NodeConfig
from zeitgeist.core.descriptors.trust import AuthConfig
from zeitgeist.core.effects import (
    Boot,
    ChunkArrived,
    Expect,
    PayloadCorrupt,
    PayloadReady,
    PayloadRef,
    Release,
    Send,
    SendChunk,
    SendCommand,
)
from zeitgeist.core.errors import ZeitgeistError
from zeitgeist.core.facts import BulkDown, BulkUp, Fact, PeerDown, PeerUp
from zeitgeist.core.formats.canonical import decode
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.formats.tensor import TensorEnvelope, chunk_count_for
from zeitgeist.core.ids import Digest, Handle, LinkId, NodeId
from zeitgeist.core.outbox import Counters, Heard, Outbox
from zeitgeist.core.trace import Event, TransferEnded
from zeitgeist.core.transfer.machine import Transfers
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.chunks import Assembler, chunks_of, pack_chunk, unpack_chunk
from zeitgeist.core.wire.frame import Channel, Frame, FrameDecoder, encode_frame
from zeitgeist.core.wire.messages import Accept, Credit, Reason, Resend
from zeitgeist.core.wire.payload import join_payload, split_payload
from zeitgeist.core.wire.registry import CHUNK_KIND, REGISTRY

__all__ = ["BULK_TRUST", "Pump", "Side", "boot_of", "envelope_of", "peer_up"]

BULK_TRUST = ("trusted_cache_peer", "trusted_tensor_peer")


def envelope_of(content: bytes, chunk_bytes: int, tensor: str = "t") -> TensorEnvelope:
    """An envelope for these bytes."""
    return msgspec.structs.replace(
        ENVELOPE,
        tensor=tensor,
        shape=(len(content),),
        dtype="u8",
        length=len(content),
        checksum=content_digest(content),
        chunk_bytes=chunk_bytes,
        chunk_count=chunk_count_for(len(content), chunk_bytes),
    )


def boot_of(node: NodeId, credit: int = 8, bytes_max: int = 1 << 20) -> Boot:
    """A boot with what transfers read of it."""
    config = NodeConfig(
        node=node,
        cluster="home",
        roles=("executor",),
        auth=AuthConfig(modes=("none",)),
        chunk_credit=credit,
        transfer_bytes_max=bytes_max,
    )
    return Boot(core=Digest("blake3:" + "0" * 64), config=config, epoch=1, seed=bytes(32))


def peer_up(link: int, peer: NodeId, dialled: bool, trust: tuple[str, ...] = BULK_TRUST) -> PeerUp:
    """A ready session."""
    return PeerUp(
        link=LinkId(link),
        peer=peer,
        local=False,
        dialled=dialled,
        outcome="compatible",
        trust=trust,  # pyright: ignore[reportArgumentType]
        descriptor=NODE,
        models=(),
        plan=PLAN,
    )


@dataclass
class Wire:
    """One connection. toward: frames on their way to side 0 and to side 1; knows, over: which side knows that it is
    there, that it is gone; cut: nothing put on it arrives any more."""

    link: LinkId
    bulk: bool
    toward: tuple[deque[bytes], deque[bytes]] = field(default_factory=lambda: (deque(), deque()))
    knows: list[bool] = field(default_factory=lambda: [False, False])
    over: list[bool] = field(default_factory=lambda: [False, False])
    cut: bool = False


class Side:
    """One machine with its driver's payloads."""

    def __init__(self, name: NodeId, credit: int = 8, bytes_max: int = 1 << 20) -> None:
        self.name = name
        self.machine = Transfers(boot_of(name, credit, bytes_max))
        self.counters = Counters()
        self.contents: dict[Handle, bytes] = {}
        self.assemblers: dict[Handle, Assembler] = {}
        self.bound: dict[tuple[LinkId, int], Handle] = {}
        self.events: list[Event] = []
        self.released: list[Handle] = []
        self.granted: dict[tuple[LinkId, int], int] = {}
        self.sent: dict[tuple[LinkId, int], int] = {}
        self.chunks_sent: list[int] = []
        self.bytes_max = bytes_max
        self.next_handle = 1
        self.whole: list[Handle] = []
        self.waker: list[Instant] = []

    def ends(self) -> list[TransferEnded]:
        """How transfers ended here."""
        return [event for event in self.events if isinstance(event, TransferEnded)]


class Pump:
    """Two sides, the wires between them, and the time. pick(count): a number below count decides each choice."""

    def __init__(self, pick: Callable[[int], int], credit: int = 8, bytes_max: int = 1 << 20) -> None:
        self.pick = pick
        self.sides = (Side(NODE_A, credit, bytes_max), Side(NODE_B, credit, bytes_max))
        self.now = Instant(0)
        self.links = 0
        self.wires: list[Wire] = []
        self.notices: tuple[deque[tuple[Wire, Wire | None, bool]], ...] = (deque(), deque())
        self.lose = self.double = self.damage = self.swap = 0  # of 100
        self.steps = 0
        self.control: Wire | None = None
        self.bulk: Wire | None = None

    # ---- wires

    def wire(self, bulk: bool) -> Wire:
        self.links += 1
        wire = Wire(link=LinkId(self.links), bulk=bulk)
        self.wires.append(wire)
        return wire

    def reconnect(self, control: bool) -> None:
        """A cut, and new wires; a side may hear of the new ones before it hears that the old ones are gone."""
        marks = [len(notices) for notices in self.notices]
        self.cut(control)
        downs = [len(notices) - mark for notices, mark in zip(self.notices, marks, strict=True)]
        self.connect(control=control)
        for side in (0, 1):
            if self.pick(3) == 2:
                news = [self.notices[side].pop() for _ in range(len(self.notices[side]) - marks[side])][::-1]
                self.notices[side].extend(news[downs[side] :] + news[: downs[side]])

    def connect(self, control: bool = True, bulk: bool = True) -> None:
        """New wires; both sides will hear of them."""
        if control:
            self.control = self.wire(False)
            for side in (0, 1):
                self.notices[side].append((self.control, None, True))
        if bulk:
            assert self.control is not None
            self.bulk = self.wire(True)
            for side in (0, 1):
                self.notices[side].append((self.bulk, self.control, True))

    def cut(self, control: bool) -> None:
        """The bulk wire goes, or both; a part of what was on them still arrives."""
        for wire in (self.bulk, self.control) if control else (self.bulk,):
            if wire is None or wire.cut:
                continue
            wire.cut = True
            for side in (0, 1):
                keep = self.pick(len(wire.toward[side]) + 1)
                while len(wire.toward[side]) > keep:
                    wire.toward[side].pop()
                self.notices[side].append((wire, self.control if wire.bulk else None, False))
        self.bulk = None
        if control:
            self.control = None

    def notice(self, side: int) -> None:
        """Tell side what it did not know of its wires."""
        wire, control, up = self.notices[side].popleft()
        peer = self.sides[1 - side].name
        fact: Fact
        if up:
            wire.knows[side] = True
            if control is None:
                fact = peer_up(wire.link, peer, dialled=side == 0)
            else:
                fact = BulkUp(link=wire.link, control=control.link, peer=peer)
        else:
            wire.over[side] = True
            wire.toward[side].clear()
            if control is None:
                fact = PeerDown(link=wire.link, peer=peer, reason="cut")
            else:
                fact = BulkDown(link=wire.link, control=control.link, peer=peer)
        self.run(side, lambda out: self.sides[side].machine.fact(fact, self.now, out))

    # ---- one step of a side

    def run(self, side: int, act: Callable[[Outbox], None]) -> None:
        """One step: act, then do what the outbox says."""
        me = self.sides[side]
        out = Outbox(me.counters)
        act(out)
        assert not out.facts and not out.calls and not out.persists
        effects = out.effects(me.machine.deadline())
        me.events += effects.events
        for op in effects.payloads:
            match op:
                case Expect():
                    me.bound[op.link, op.stream] = op.handle
                    if op.handle not in me.assemblers:
                        me.assemblers[op.handle] = Assembler(op.envelope, me.bytes_max)
                    if me.assemblers[op.handle].complete:
                        self.judge(side, op.handle)
                case Release():
                    assert op.handle in me.contents or op.handle in me.assemblers, "released twice or never held"
                    me.contents.pop(op.handle, None)
                    me.assemblers.pop(op.handle, None)
                    me.released.append(op.handle)
        for sending in effects.send:
            match sending:
                case Send():
                    raw = encode_frame(
                        Frame(
                            channel=Channel(sending.channel),
                            kind=sending.kind,
                            stream=sending.stream,
                            sequence=sending.sequence,
                            payload=join_payload(Channel(sending.channel), sending.record),
                        )
                    )
                    self.put(side, sending.link, raw)
                case SendChunk():
                    self.put(side, sending.link, self.cut_chunk(side, sending))

    def cut_chunk(self, side: int, sending: SendChunk) -> bytes:
        """The chunk's frame, by the envelope; and the law of credit."""
        me = self.sides[side]
        key = self.session_of(sending.link), sending.stream
        me.sent[key] = me.sent.get(key, 0) + 1
        me.chunks_sent.append(sending.index)
        assert me.sent[key] <= me.granted.get(key, 0), f"more chunks than credit in {key}"
        ((head, raw),) = chunks_of(sending.envelope, me.contents[sending.handle], [sending.index])
        body = bytearray(pack_chunk(head) + bytes(raw))
        if raw.nbytes and self.chance(self.damage):
            body[-1 - self.pick(raw.nbytes)] ^= 1
        return encode_frame(
            Frame(
                channel=Channel(sending.channel),
                kind=CHUNK_KIND,
                stream=sending.stream,
                sequence=sending.sequence,
                payload=bytes(body),
            )
        )

    def session_of(self, link: LinkId) -> LinkId:
        """The control link that was up when this bulk link came up: wires are numbered in order."""
        return max(wire.link for wire in self.wires if not wire.bulk and wire.link < link)

    def put(self, side: int, link: LinkId, raw: bytes) -> None:
        wire = self.wires[link - 1]
        assert wire.knows[side] and not wire.over[side], "a frame on a link that is not up"
        if wire.cut or (wire.bulk and self.chance(self.lose)):
            return
        wire.toward[1 - side].append(raw)
        if wire.bulk and self.chance(self.double):
            wire.toward[1 - side].append(raw)

    def chance(self, percent: int) -> bool:
        return percent > 0 and self.pick(100) < percent

    # ---- what arrives

    def deliver(self, side: int, wire: Wire) -> None:
        """The next frame on wire; a chunk may overtake others."""
        queue = wire.toward[side]
        if wire.bulk and len(queue) > 1 and self.chance(self.swap):
            queue.rotate(-self.pick(len(queue)))
        (frame,) = FrameDecoder().feed(queue.popleft())
        if frame.kind == CHUNK_KIND:
            self.arrive(side, wire.link, frame)
            return
        record_bytes, _ = split_payload(frame.channel, frame.payload)
        record = decode(record_bytes, REGISTRY[frame.kind].record)
        if isinstance(record, Accept | Credit | Resend):
            count = {Accept: "credit", Credit: "count"}.get(type(record))
            more = getattr(record, count) if count else len(record.indices)
            granted = self.sides[side].granted
            key = wire.link, record.transfer
            granted[key] = granted.get(key, 0) + more
        heard = Heard(link=wire.link, peer=self.sides[1 - side].name, stream=frame.stream, flags=0, record=record)
        self.run(side, lambda out: self.sides[side].machine.hear(heard, self.now, out))

    def arrive(self, side: int, link: LinkId, frame: Frame) -> None:
        """A chunk: judged by the assembler of its stream, told, and the whole judged once nothing is missing."""
        me = self.sides[side]
        head, raw = unpack_chunk(frame.payload)
        handle = me.bound.get((link, frame.stream))
        assembler = None if handle is None else me.assemblers.get(handle)
        reason: Reason | None = None
        if assembler is None:
            verdict = "unexpected"
        else:
            try:
                verdict = assembler.accept(head, raw)
            except ZeitgeistError as error:
                verdict = "corrupt" if error.id == "zg/tensor/corrupt-chunk" else "refused"
                reason = Reason(id=error.id, detail=error.detail, field=error.field)
        chunk = ChunkArrived(
            link=link,
            channel=int(frame.channel),
            stream=frame.stream,
            sequence=frame.sequence,
            index=head.index,
            length=head.length,
            verdict=verdict,
            reason=reason,
        )
        self.run(side, lambda out: me.machine.chunk(chunk, self.now, out))
        if handle in me.assemblers and verdict == "accepted" and me.assemblers[handle].complete:
            self.judge(side, handle)

    def judge(self, side: int, handle: Handle) -> None:
        """Digesting takes its time: the verdict comes as an event of its own, once."""
        if handle not in self.sides[side].whole:
            self.sides[side].whole.append(handle)

    def verdict(self, side: int) -> None:
        me = self.sides[side]
        handle = me.whole.pop(0)
        assembler = me.assemblers.get(handle)
        if assembler is None:
            return
        try:
            content = bytes(assembler.finish())
        except ZeitgeistError as error:
            reason = Reason(id=error.id, detail=error.detail, field=error.field)
            told = PayloadCorrupt(handle=handle, reason=reason)
            self.run(side, lambda out: me.machine.payload_corrupt(told, self.now, out))
            return
        me.contents[handle] = content
        ready = PayloadReady(content=PayloadRef(handle=handle, length=len(content), digest=assembler.envelope.checksum))
        self.run(side, lambda out: me.machine.payload_ready(ready, self.now, out))

    # ---- running

    def send(
        self,
        content: bytes,
        chunk_bytes: int = 10,
        tensor: str = "t",
        side: int = 0,
        channel: str = "tensor",
        true_content: bytes | None = None,
    ) -> TensorEnvelope:
        """A command at side. true_content: what the driver really holds, when its digest is to be a lie."""
        me = self.sides[side]
        envelope = envelope_of(content, chunk_bytes, tensor)
        handle = Handle(me.next_handle)
        me.next_handle += 2
        me.contents[handle] = content if true_content is None else true_content
        command = SendCommand(
            peer=self.sides[1 - side].name,
            channel=channel,  # pyright: ignore[reportArgumentType]
            envelope=envelope,
            content=PayloadRef(handle=handle, length=len(content), digest=envelope.checksum),
        )
        self.run(side, lambda out: me.machine.command(command, self.now, out))
        return envelope

    def ready_acts(self) -> list[Callable[[], None]]:
        """What can happen next."""
        acts: list[Callable[[], None]] = []
        for side in (0, 1):
            if self.notices[side]:
                acts.append(lambda side=side: self.notice(side))
            if self.sides[side].whole:
                acts.append(lambda side=side: self.verdict(side))
            for wire in self.wires:
                if wire.toward[side] and wire.knows[side] and not wire.over[side]:
                    acts.append(lambda side=side, wire=wire: self.deliver(side, wire))
        return acts

    def step(self) -> bool:
        """One thing that can happen, by choice; else the time passes to the next deadline. False when all is over."""
        self.steps += 1
        acts = self.ready_acts()
        if acts:
            acts[self.pick(len(acts))]()
            self.now = Instant(self.now + 1_000_000)
            return True
        dues = [due for side in self.sides if (due := side.machine.deadline()) is not None]
        if not dues:
            return False
        self.now = Instant(max(self.now, min(dues)))
        for side in (0, 1):
            self.run(side, lambda out, side=side: self.sides[side].machine.expire(self.now, out))
        return True

    def settle(self, steps_max: int = 20_000, cuts: Iterable[tuple[int, bool]] = ()) -> None:
        """Run until nothing is left to happen. cuts: (after how many steps, control too); new wires follow each."""
        planned = sorted(cuts)
        start = self.steps
        while True:
            while planned and self.steps - start >= planned[0][0]:
                _, control = planned.pop(0)
                self.reconnect(control or self.control is None)
            if not self.step() and not planned:
                return
            assert self.steps - start < steps_max, f"no end after {steps_max} steps"
            if self.steps - start > steps_max // 2:
                planned.clear()

    def empty(self) -> bool:
        """Neither side remembers a transfer under way."""
        return not any(
            side.machine.sending.all or side.machine.receiving.all or side.machine.sending.holds for side in self.sides
        )
