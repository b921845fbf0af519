"""The transfers of one party: who hears what, and what becomes of a peer that breaks the rules (C1, E4, G4, H2).

Law: a record is judged against the session that it came by and the number that it names, before either half of the
machine acts on it. Nonsense is refused by name, the transfer it is about is withdrawn, and the session goes on. What is
about a transfer that has ended is no nonsense: it crossed the end on its way.
"""

from typing import assert_never

import msgspec

from zeitgeist.core.effects import (
    Boot,
    ChunkArrived,
    Input,
    PayloadCorrupt,
    PayloadReady,
    SendCommand,
)
from zeitgeist.core.errors import RemoteProtocolError
from zeitgeist.core.facts import BulkDown, BulkUp, Draining, Fact, PeerDown, PeerUp
from zeitgeist.core.ids import LinkId, NodeId, TransferId
from zeitgeist.core.machine import Machine
from zeitgeist.core.outbox import Heard, Outbox
from zeitgeist.core.trace import MessageRefused
from zeitgeist.core.transfer.desk import Desk, reason_of, why
from zeitgeist.core.transfer.receiving import Receiving
from zeitgeist.core.transfer.records import Incoming, Outgoing, Peering
from zeitgeist.core.transfer.sending import Sending
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import Accept, Credit, Declined, Offer, Reason, Received, Resend, Withdraw
from zeitgeist.core.wire.registry import CHUNK_KIND, KINDS

__all__ = ["Transfers"]

Answer = Accept | Credit | Resend | Received | Declined


class Transfers(Machine):
    """The machine of records `transfer`: two halves over one desk."""

    def __init__(self, boot: Boot) -> None:
        self.desk = Desk(boot)
        self.sending = Sending(self.desk)
        self.receiving = Receiving(self.desk)

    # ---- inputs

    def told(self, input: Input, now: Instant, out: Outbox) -> None:
        """Commands of the application, and what the driver says of chunks and wholes."""
        match input:
            case SendCommand():
                self.command(input, now, out)
            case ChunkArrived():
                self.chunk(input, now, out)
            case PayloadReady():
                self.payload_ready(input, now, out)
            case PayloadCorrupt():
                self.payload_corrupt(input, now, out)
            case _:
                pass

    def command(self, command: SendCommand, now: Instant, out: Outbox) -> None:
        """Send a tensor."""
        self.sending.command(command, now, out)

    def chunk(self, chunk: ChunkArrived, now: Instant, out: Outbox) -> None:
        """A chunk came; its bytes are in the driver's hands."""
        session = self.desk.bulks.get(chunk.link)
        if session is None:
            return  # read before the driver knew that the session is over
        transfer = session.incoming.get(TransferId(chunk.stream))
        if transfer is None:
            if session.is_ours(chunk.stream) or chunk.stream > session.heard_number:
                detail = f"no transfer {chunk.stream} was offered"
                self.refused(session, CHUNK_KIND, chunk.link, why("zg/transfer/unknown", detail, "stream"), out)
            return
        try:
            self.receiving.chunk(transfer, session, chunk, now, out)
        except RemoteProtocolError as error:
            reason = reason_of(error)
            self.refused(session, CHUNK_KIND, chunk.link, reason, out)
            self.receiving.give_up(transfer, reason, now, out)

    def payload_ready(self, ready: PayloadReady, now: Instant, out: Outbox) -> None:
        """A whole is sound."""
        self.receiving.ready(ready.content, now, out)

    def payload_corrupt(self, corrupt: PayloadCorrupt, now: Instant, out: Outbox) -> None:
        """A whole is not what its envelope says."""
        self.receiving.corrupt(corrupt.handle, corrupt.reason, now, out)

    # ---- records

    def hear(self, frame: Heard, now: Instant, out: Outbox) -> None:
        """One record of the peer."""
        record = frame.record
        assert isinstance(record, Offer | Withdraw | Answer), f"{type(record).__name__} is not of this machine"
        session = self.desk.sessions.get(frame.link)
        if session is None:
            return  # the session ended in this step
        session.heard_at = now
        kind = KINDS[type(record)].kind
        if isinstance(record, Offer):
            reason = self.receiving.offered(session, record, now, out)
            if reason is not None:
                self.refused(session, kind, frame.link, reason, out)
            return
        number = TransferId(record.transfer)
        if isinstance(record, Withdraw) and not session.is_ours(number):
            incoming = session.incoming.get(number)
            if incoming is not None:
                self.receiving.withdrawn(incoming, record, out)
            elif number > session.heard_number:
                self.unknown(session, kind, number, out)
            return
        outgoing = session.outgoing.get(number)
        if outgoing is not None:
            self.answered(session, outgoing, record, now, out)
        elif not (session.is_ours(number) and number < session.next_number):
            self.unknown(session, kind, number, out)

    def answered(
        self, session: Peering, transfer: Outgoing, record: Answer | Withdraw, now: Instant, out: Outbox
    ) -> None:
        """What the receiver says of a transfer of ours."""
        try:
            match record:
                case Accept():
                    self.sending.accepted(transfer, session, record, now, out)
                case Credit():
                    self.sending.credited(transfer, session, record, now, out)
                case Resend():
                    self.sending.asked_again(transfer, session, record, now, out)
                case Received() | Declined() | Withdraw():
                    self.sending.heard_end(transfer, record, now, out)
                case _:
                    assert_never(record)
        except RemoteProtocolError as error:
            reason = reason_of(error)
            self.refused(session, KINDS[type(record)].kind, session.link, reason, out)
            self.sending.give_up(transfer, reason, now, out)

    def unknown(self, session: Peering, kind: int, number: int, out: Outbox) -> None:
        """About a number that nobody offered."""
        reason = why("zg/transfer/unknown", f"no transfer {number} was offered", "transfer")
        self.refused(session, kind, session.link, reason, out)

    def refused(self, session: Peering, kind: int, link: LinkId, reason: Reason, out: Outbox) -> None:
        """Note it in the trace."""
        out.events.append(MessageRefused(link=link, peer=session.peer, kind=kind, reason=reason))

    # ---- facts

    def fact(self, fact: Fact, now: Instant, out: Outbox) -> None:
        """Sessions and their bulk links come and go."""
        match fact:
            case PeerUp():
                self.peer_up(fact)
            case PeerDown():
                self.peer_down(fact, now, out)
            case BulkUp():
                self.bulk_up(fact, now, out)
            case BulkDown():
                session = self.desk.bulks.get(fact.link)
                if session is not None:
                    self.bulk_down(session, now, out)
            case Draining():
                self.drain(fact.peer, out)
            case _:
                pass

    def peer_up(self, fact: PeerUp) -> None:
        """A session to offer on, once it has a bulk link."""
        session = Peering(
            link=fact.link,
            peer=fact.peer,
            dialled=fact.dialled,
            trust=fact.trust,
            next_number=1 if fact.dialled else 2,
        )
        self.desk.sessions[fact.link] = session
        self.desk.peers.setdefault(fact.peer, {})[fact.link] = session

    def peer_down(self, fact: PeerDown, now: Instant, out: Outbox) -> None:
        """Its transfers are suspended on this side, interrupted on the other."""
        session = self.desk.sessions.pop(fact.link, None)
        if session is None:
            return
        sessions = self.desk.peers[session.peer]
        del sessions[fact.link]
        if not sessions:
            del self.desk.peers[session.peer]
        if session.bulk is not None:
            del self.desk.bulks[session.bulk]
            session.bulk = None
        self.receiving.lost(session, now, out, control=True)
        self.sending.lost(session, now, out, control=True)

    def bulk_up(self, fact: BulkUp, now: Instant, out: Outbox) -> None:
        """Go on there. A second bulk link takes the place of the first."""
        session = self.desk.sessions.get(fact.control)
        if session is None:
            return
        if session.bulk is not None:
            self.bulk_down(session, now, out)
        session.bulk = fact.link
        self.desk.bulks[fact.link] = session
        self.receiving.bulk_up(session, now, out)
        self.sending.place(session.peer, now, out)

    def bulk_down(self, session: Peering, now: Instant, out: Outbox) -> None:
        """Chunks that were on it are lost."""
        assert session.bulk is not None
        del self.desk.bulks[session.bulk]
        session.bulk = None
        self.receiving.lost(session, now, out, control=False)
        self.sending.lost(session, now, out, control=False)

    def drain(self, peer: NodeId, out: Outbox) -> None:
        """Nothing new, from us or to the peer; what is under way goes on."""
        if peer:
            for session in self.desk.of(peer).values():
                session.draining = True
        else:
            self.desk.draining = True
            self.sending.drain(out)

    # ---- time

    def expire(self, now: Instant, out: Outbox) -> None:
        """Look at each transfer whose alarm rings."""
        for serial in self.desk.alarms.ringing(now):
            transfer: Outgoing | Incoming | None = self.sending.all.get(serial)
            if transfer is not None:
                self.sending.ring(transfer, now, out)
            elif (incoming := self.receiving.all.get(serial)) is not None:
                self.receiving.ring(incoming, now, out)

    def deadline(self) -> Instant | None:
        """When to look next at the latest."""
        return self.desk.alarms.least()

    def idle(self) -> bool:
        """No transfer in either direction."""
        return not (self.sending.all or self.receiving.all)

    def state(self) -> bytes:
        """All that it holds."""
        sessions = [
            [
                [p.link, p.peer, p.dialled, p.trust, p.bulk, p.draining, p.next_number, p.heard_number],
                [list(p.outgoing), list(p.incoming), p.offered, p.turn, p.flight, p.heard_at, p.chunk_at],
            ]
            for p in self.desk.sessions.values()
        ]
        own = [self.desk.last_serial, self.desk.draining, list(self.desk.alarms.wanted.items())]
        return msgspec.msgpack.encode(
            [own, sessions, self.sending.snapshot(), self.receiving.snapshot()], order="sorted"
        )
