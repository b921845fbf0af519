"""One transfer machine, one session, and everything that it ever did: a stand for transcripts."""

import msgspec
from transfer_pump import boot_of, envelope_of, peer_up

from fixtures.golden_parties import NODE_A, NODE_B
from zeitgeist.core.effects import (
    ChunkArrived,
    Effects,
    PayloadRef,
    Send,
    SendChunk,
    SendCommand,
)
from zeitgeist.core.facts import BulkUp
from zeitgeist.core.formats.canonical import decode
from zeitgeist.core.ids import Handle, LinkId
from zeitgeist.core.outbox import Counters, Heard, Outbox
from zeitgeist.core.trace import MessageRefused, TransferEnded
from zeitgeist.core.transfer.machine import Transfers
from zeitgeist.core.units import Instant
from zeitgeist.core.wire import messages as m
from zeitgeist.core.wire.frame import Channel
from zeitgeist.core.wire.registry import REGISTRY

__all__ = ["BULK", "CONTROL", "REASON", "Stand", "chunks", "ends", "offer", "refusals", "said"]

CONTROL, BULK = LinkId(1), LinkId(2)
REASON = m.Reason(id="zg/transfer/silent", detail="why not")


class Stand:
    """A machine with one session and one bulk link, and everything it ever did."""

    def __init__(self, *, dialled: bool = True, trust=("trusted_executor",), bulk: bool = True, **config) -> None:
        self.machine = Transfers(boot_of(NODE_A, **config))
        self.counters = Counters()
        self.now = Instant(0)
        self.log: list[Effects] = []
        self.fact(peer_up(CONTROL, NODE_B, dialled, trust))
        if bulk:
            self.fact(BulkUp(link=BULK, control=CONTROL, peer=NODE_B))

    def step(self, act) -> Effects:
        out = Outbox(self.counters)
        act(out)
        effects = out.effects(self.machine.deadline())
        self.log.append(effects)
        return effects

    def fact(self, fact) -> Effects:
        return self.step(lambda out: self.machine.fact(fact, self.now, out))

    def hear(self, record, link: LinkId = CONTROL) -> Effects:
        heard = Heard(link=link, peer=NODE_B, stream=record.transfer, flags=0, record=record)
        return self.step(lambda out: self.machine.hear(heard, self.now, out))

    def send(self, length: int = 300, tensor: str = "t", channel="tensor", **change) -> Effects:
        content = bytes(length)
        envelope = envelope_of(content, 10, tensor)
        command = SendCommand(
            peer=NODE_B,
            channel=channel,
            envelope=envelope,
            content=PayloadRef(handle=Handle(1), length=length, digest=envelope.checksum),
        )
        command = msgspec.structs.replace(command, **change)
        return self.step(lambda out: self.machine.told(command, self.now, out))

    def chunk(self, index: int, verdict="accepted", stream: int = 2, channel=Channel.TENSOR, link=BULK) -> Effects:
        arrived = ChunkArrived(
            link=link, channel=int(channel), stream=stream, sequence=0, index=index, length=10, verdict=verdict
        )
        return self.step(lambda out: self.machine.told(arrived, self.now, out))

    def later(self, ns: int) -> Effects:
        self.now = Instant(self.now + ns)
        return self.step(lambda out: self.machine.expire(self.now, out))


def said(effects: Effects) -> list[m.Record]:
    """The records sent."""
    return [decode(s.record, REGISTRY[s.kind].record) for s in effects.send if isinstance(s, Send)]


def chunks(effects: Effects) -> list[int]:
    return [sending.index for sending in effects.send if isinstance(sending, SendChunk)]


def refusals(effects: Effects) -> list[str]:
    return [event.reason.id for event in effects.events if isinstance(event, MessageRefused)]


def ends(effects: Effects) -> list[str | None]:
    return [event.reason and event.reason.id for event in effects.events if isinstance(event, TransferEnded)]


def offer(number: int, length: int = 300, tensor: str = "t", **change) -> m.Offer:
    made = m.Offer(transfer=number, channel="tensor", envelope=envelope_of(bytes(length), 10, tensor))
    return msgspec.structs.replace(made, **change)
