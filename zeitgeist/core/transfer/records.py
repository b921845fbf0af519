"""What the machine keeps of each session and of each transfer on either side (E4).

Law: plain values that inputs alone decide; no clock, no link is asked here. One transfer costs its envelope, one bit a
chunk at the receiver, the ranges still to send at the sender; never a list of its chunks.
"""

from typing import TypeAlias

import msgspec

from zeitgeist.core.descriptors.trust import TrustLevel
from zeitgeist.core.effects import PayloadRef
from zeitgeist.core.formats.tensor import TensorEnvelope
from zeitgeist.core.ids import Digest, Handle, LinkId, NodeId, TransferId
from zeitgeist.core.transfer.ranges import ChunkSet
from zeitgeist.core.transfer.states import State
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.frame import Channel

__all__ = ["CHANNELS", "Incoming", "Key", "Outgoing", "Peering", "key_of"]

CHANNELS = {"tensor": Channel.TENSOR, "cache": Channel.CACHE}

Key: TypeAlias = tuple[NodeId, str, Digest]
"""Peer, tensor id, checksum: by these a transfer is known again on another link."""


def key_of(peer: NodeId, envelope: TensorEnvelope) -> Key:
    """What makes an interrupted transfer the same as one offered later."""
    return peer, envelope.tensor, envelope.checksum


class Outgoing(msgspec.Struct, kw_only=True):
    """One transfer at its sender. serial: its place among all transfers of this machine.

    control: link of the session it was last offered on, None when that is gone; number: under which. credit: chunks it
    may still send; flight: chunks sent and not yet granted again. fresh: (first, stop) ranges never sent under this
    number, fresh_at: how many of them are used up, index: the next of the current one; again: asked for once more.
    parked: in the queue of its peer; placed: offered on a session that lives; in_turn: among those that may send now.
    """

    serial: int
    peer: NodeId
    channel: Channel
    envelope: TensorEnvelope
    content: PayloadRef
    purpose: str
    state: State = "queued"
    control: LinkId | None = None
    number: TransferId = TransferId(0)
    credit: int = 0
    flight: int = 0
    fresh: list[tuple[int, int]] = []
    fresh_at: int = 0
    index: int = 0
    again: dict[int, None] = {}
    sent: int = 0
    resent: int = 0
    in_turn: bool = False
    placed: bool = False
    parked: bool = False

    @property
    def owes(self) -> bool:
        """Chunks are left to send."""
        return bool(self.again) or self.fresh_at < len(self.fresh)

    def load(self, fresh: list[tuple[int, int]], credit: int) -> None:
        """Begin with these ranges and this credit."""
        self.fresh, self.fresh_at, self.again, self.credit, self.flight = fresh, 0, {}, credit, 0
        self.index = fresh[0][0] if fresh else 0

    def take(self) -> int:
        """The next chunk to send: what was asked for again first, then the fresh ones in order."""
        if self.again:
            index = next(iter(self.again))
            del self.again[index]
            self.resent += 1
            return index
        index = self.index
        self.index += 1
        if self.index == self.fresh[self.fresh_at][1]:
            self.fresh_at += 1
            if self.fresh_at < len(self.fresh):
                self.index = self.fresh[self.fresh_at][0]
        return index

    def is_fresh(self, index: int) -> bool:
        """Chunk index will be sent anyway: it is in a fresh range, at or after the current place. By bisection."""
        low, high = self.fresh_at, len(self.fresh)
        while low < high:
            middle = (low + high) >> 1
            if self.fresh[middle][1] <= index:
                low = middle + 1
            else:
                high = middle
        return low < len(self.fresh) and max(self.fresh[low][0], self.index if low == self.fresh_at else 0) <= index


class Incoming(msgspec.Struct, kw_only=True):
    """One transfer at its receiver. handle: its memory in the driver, once it is expected.

    ungranted: chunks for which no credit was given yet; flight: granted and not arrived, as far as we know. asking:
    after a corrupt whole every grant is a `Resend` that names chunks from ask_at on. arrived, unsound: chunks in all,
    and those that were damaged or doubled; corrupt_wholes: times the whole had another digest. stalls: questions since
    something was accepted; asked_at: when the last was sent, or the transfer was accepted.
    """

    serial: int
    peer: NodeId
    channel: Channel
    envelope: TensorEnvelope
    purpose: str
    handle: Handle
    chunks: ChunkSet
    state: State = "waiting"
    expected: bool = False
    control: LinkId | None = None
    number: TransferId = TransferId(0)
    ungranted: int = 0
    flight: int = 0
    asking: bool = False
    ask_at: int = 0
    arrived: int = 0
    unsound: int = 0
    corrupt_wholes: int = 0
    stalls: int = 0
    asked_at: Instant = Instant(0)
    moved_at: Instant = Instant(0)


class Peering(msgspec.Struct, kw_only=True):
    """One session. link: its control link; bulk: its bulk link when there is one. next_number: of our next offer;
    heard_number: the highest that the peer offered. offered: transfers of ours under way; turn: numbers of those that
    may send a chunk now, in order; flight: chunks in flight of all. outgoing keeps suspended ones too, for what the
    peer said before it knew. heard_at: last word of the peer about any transfer; chunk_at: last sound chunk."""

    link: LinkId
    peer: NodeId
    dialled: bool
    trust: tuple[TrustLevel, ...]
    next_number: int
    heard_number: int = 0
    bulk: LinkId | None = None
    draining: bool = False
    outgoing: dict[TransferId, Outgoing] = {}
    incoming: dict[TransferId, Incoming] = {}
    offered: int = 0
    turn: list[TransferId] = []
    flight: int = 0
    heard_at: Instant = Instant(0)
    chunk_at: Instant = Instant(0)

    def is_ours(self, number: int) -> bool:
        """The dialler's numbers are odd, the acceptor's even."""
        return bool(number & 1) == self.dialled

    def trusts(self, channel: Channel) -> bool:
        """The peer may take part in transfers on channel (H2)."""
        needed: TrustLevel = "trusted_cache_peer" if channel is Channel.CACHE else "trusted_tensor_peer"
        return "trusted_executor" in self.trust or needed in self.trust
