"""Where machines put what they want done during one step, and how a draw is made.

Law: an outbox lives for one step. Tickets, handles and frame sequences are numbered here, in order of use, so that the
same inputs give the same numbers. A draw is keyed by what it is about, never by how many came before (DESIGN §8).
"""

import blake3
import msgspec

from zeitgeist.core.descriptors.link import Lane
from zeitgeist.core.descriptors.trust import TrustLevel
from zeitgeist.core.effects import Call, Close, Effects, PayloadOp, PayloadRef, Persist, Send, SendChunk, Sending
from zeitgeist.core.facts import Fact
from zeitgeist.core.formats.canonical import Record, encode
from zeitgeist.core.formats.tensor import TensorEnvelope
from zeitgeist.core.ids import Handle, LinkId, NodeId, Ticket, TransferId
from zeitgeist.core.trace import Event
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.frame import Channel, Flag
from zeitgeist.core.wire.registry import KINDS, SessionState

__all__ = ["Counters", "Heard", "Outbox", "Standing", "draw"]


def draw(seed: bytes, *about: str | int | bytes, size: int = 32) -> bytes:
    """size bytes that depend on seed (32 bytes) and on what they are for, and on nothing else."""
    hasher = blake3.blake3(key=seed)
    for part in about:
        raw = part if isinstance(part, bytes) else str(part).encode()
        hasher.update(len(raw).to_bytes(4, "little") + raw)
    return hasher.digest(length=size)


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that passed the gate: its record is decoded, and its sender may say it."""

    link: LinkId
    peer: NodeId
    stream: int
    flags: int
    record: Record
    content: PayloadRef | None = None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate asks about a link that is up: who is there ("" until proven), where its session stands, what the
    peer is trusted with (nothing until proven)."""

    peer: NodeId
    state: SessionState
    trust: tuple[TrustLevel, ...]
    lane: Lane


class Counters:
    """Numbers that outlive a step: the last ticket, the last handle of ours, the next sequence of each link."""

    def __init__(self) -> None:
        self.ticket = 0
        self.handle = 0
        self.sequences: dict[LinkId, int] = {}


FIRST_CHANNEL = {row.kind: int(row.channels[0]) for row in KINDS.values()}
"""By kind: the channel on which a record is sent, as the number that it has in a header."""


class Outbox:
    """One step's wishes. Machines append; the node makes `Effects` of it."""

    __slots__ = (
        "calls",
        "claimed_calls",
        "claimed_persists",
        "closes",
        "counters",
        "events",
        "facts",
        "payloads",
        "persists",
        "sends",
    )

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self.persists: list[Persist] = []
        self.payloads: list[PayloadOp] = []
        self.sends: list[Sending] = []
        self.closes: list[Close] = []
        self.calls: list[Call] = []
        self.events: list[Event] = []
        self.facts: list[Fact] = []
        self.claimed_calls = 0
        self.claimed_persists = 0

    def ticket(self) -> Ticket:
        """A new ticket."""
        self.counters.ticket += 1
        return Ticket(self.counters.ticket)

    def handle(self) -> Handle:
        """A new handle of ours: even."""
        self.counters.handle += 2
        return Handle(self.counters.handle)

    def sequence(self, link: LinkId) -> int:
        """The number of the next frame on link, from 0."""
        number = self.counters.sequences.get(link, 0)
        self.counters.sequences[link] = number + 1
        return number

    def frame(
        self,
        link: LinkId,
        record: Record,
        *,
        stream: int = 0,
        flags: Flag = Flag(0),  # noqa: B008 - a constant
        content: PayloadRef | None = None,
    ) -> None:
        """Send record on the first channel of its row, with content where the row allows it."""
        row = KINDS[type(record)]
        assert content is None or row.content, f"{type(record).__name__} carries no content"
        sequences = self.counters.sequences
        sequences[link] = (sequence := sequences.get(link, 0)) + 1
        self.sends.append(
            Send(
                link=link,
                channel=FIRST_CHANNEL[row.kind],
                kind=row.kind,
                stream=stream,
                sequence=sequence,
                record=encode(record),
                flags=int(flags) if flags else 0,
                content=content,
            )
        )

    def chunk(
        self, link: LinkId, channel: Channel, stream: TransferId, handle: Handle, envelope: TensorEnvelope, index: int
    ) -> None:
        """Send one chunk of the payload behind handle."""
        sequence = self.sequence(link)
        self.sends.append(
            SendChunk(
                link=link,
                channel=int(channel),
                stream=stream,
                sequence=sequence,
                handle=handle,
                envelope=envelope,
                index=index,
            )
        )

    def close(self, link: LinkId, reason: str) -> None:
        """Close link after everything sent on it so far."""
        self.closes.append(Close(link=link, reason=reason[:200]))

    def effects(self, wake_at: Instant | None) -> Effects:
        """What is to be done. Most steps send and release, and nothing else."""
        payloads, send = tuple(self.payloads), tuple(self.sends)
        if not (self.persists or self.closes or self.calls or self.events):
            return Effects(payloads=payloads, send=send, wake_at=wake_at)
        return Effects(
            persist=tuple(self.persists),
            payloads=payloads,
            send=send,
            close=tuple(self.closes),
            calls=tuple(self.calls),
            events=tuple(self.events),
            wake_at=wake_at,
        )
