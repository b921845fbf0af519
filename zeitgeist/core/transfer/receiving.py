"""The receiver's half: judge an offer, grant credit, ask for what is missing, keep what came when a link goes (C1, E4).

Law: memory is promised only for a checked envelope, to a bounded number of transfers and bytes; a chunk counts when the
driver's assembler took it; a tensor is delivered once, after the whole was digested. Whatever does not go on is given
up after a while, by name.
"""

from zeitgeist.core.effects import ChunkArrived, Expect, PayloadRef
from zeitgeist.core.errors import RemoteProtocolError, refuse
from zeitgeist.core.formats.tensor import TensorEnvelope, check_envelope
from zeitgeist.core.ids import Handle, TransferId
from zeitgeist.core.outbox import Outbox
from zeitgeist.core.transfer.desk import Desk, reason_of, why
from zeitgeist.core.transfer.ranges import ChunkSet
from zeitgeist.core.transfer.records import CHANNELS, Incoming, Key, Peering, key_of
from zeitgeist.core.transfer.states import (
    DELIVERED_MAX,
    INCOMING_BYTES_FACTOR,
    INCOMING_MAX,
    OFFERED_MAX,
    REPEAT_FACTOR,
    REPEATED_MAX,
    RESUME_NS,
    STALL_NS,
    EventName,
)
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import Accept, Credit, Declined, Offer, Reason, Received, Resend, Withdraw

__all__ = ["Receiving"]

CREDIT_MAX = 1024
"""The most that `Accept` and `Credit` can grant at once, and `Resend` can name."""


class Receiving:
    """All transfers that this node receives."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.window = max(1, min(desk.config.chunk_credit, CREDIT_MAX))
        self.batch = max(1, self.window // 2)
        self.all: dict[int, Incoming] = {}
        self.keys: dict[Key, Incoming] = {}
        self.handles: dict[Handle, Incoming] = {}
        self.delivered: dict[Key, tuple[TensorEnvelope, Instant]] = {}
        self.bytes_promised = 0

    # ---- the offer

    def offered(self, session: Peering, record: Offer, now: Instant, out: Outbox) -> Reason | None:
        """Take it, know it again, or decline it; the reason when it was declined."""
        try:
            self.judge(session, record, now, out)
        except RemoteProtocolError as error:
            reason = reason_of(error)
            declined = Declined(transfer=record.transfer, reasons=(reason,))
            out.frame(session.link, declined)
            return reason
        return None

    def judge(self, session: Peering, record: Offer, now: Instant, out: Outbox) -> None:
        """Refuse by name, or go on."""
        number, envelope, channel = record.transfer, record.envelope, CHANNELS[record.channel]
        if session.is_ours(number) or number <= session.heard_number:
            parity = "even" if session.dialled else "odd"
            raise refuse("zg/transfer/bad-number", "transfer", number, f"an {parity} one above {session.heard_number}")
        session.heard_number = number
        if not session.trusts(channel):
            raise refuse("zg/transfer/not-trusted", "channel", record.channel, f"what {session.peer} is trusted with")
        check_envelope(envelope, self.desk.config.transfer_bytes_max)
        if self.desk.draining:
            raise refuse("zg/transfer/draining", "transfer", number, "nothing: this node starts nothing new")
        key = key_of(session.peer, envelope)
        if record.resumes and self.was_delivered(key, envelope, now):
            out.frame(session.link, Received(transfer=TransferId(number)))
            return
        known = self.keys.get(key)
        if known is not None and (known.envelope != envelope or known.channel != channel):
            raise refuse("zg/transfer/bad-offer", "envelope", envelope.tensor, "the envelope that was offered before")
        transfer = known or self.take(session, record, key, now, out)
        if known is not None:
            self.detach(known)
            known.number = TransferId(number)
            self.desk.move(known, "offer", out, peer_did=True)
        transfer.control = session.link
        session.incoming[transfer.number] = transfer
        self.begin(transfer, session, now, out, accept=True)

    def take(self, session: Peering, record: Offer, key: Key, now: Instant, out: Outbox) -> Incoming:
        """A new one, if there is room for it."""
        envelope = record.envelope
        own = [transfer for transfer in self.all.values() if transfer.peer == session.peer]
        if len(own) >= OFFERED_MAX and (oldest := next((t for t in own if t.state == "interrupted"), None)):
            self.give_up(oldest, why("zg/transfer/too-many", "newer transfers of the peer need its place"), now, out)
            own.remove(oldest)
        if len(own) >= OFFERED_MAX or len(self.all) >= INCOMING_MAX:
            wanted = f"at most {OFFERED_MAX} of a peer, {INCOMING_MAX} in all"
            raise refuse("zg/transfer/too-many", "transfer", f"{len(own)} of {len(self.all)}", wanted)
        room = INCOMING_BYTES_FACTOR * self.desk.config.transfer_bytes_max - self.bytes_promised
        if envelope.length > room:
            raise refuse("zg/transfer/too-many", "length", envelope.length, f"at most {room} bytes besides the others")
        transfer = Incoming(
            serial=self.desk.serial(),
            peer=session.peer,
            channel=CHANNELS[record.channel],
            envelope=envelope,
            purpose=record.purpose,
            handle=out.handle(),
            chunks=ChunkSet.of(envelope.chunk_count),
            number=TransferId(record.transfer),
        )
        self.all[transfer.serial] = self.keys[key] = self.handles[transfer.handle] = transfer
        self.bytes_promised += envelope.length
        return transfer

    def was_delivered(self, key: Key, envelope: TensorEnvelope, now: Instant) -> bool:
        """The sender asks again because it did not hear that we had it."""
        entry = self.delivered.get(key)
        return entry is not None and entry[0] == envelope and entry[1] > now

    def begin(self, transfer: Incoming, session: Peering, now: Instant, out: Outbox, *, accept: bool) -> None:
        """Expect it on the session's bulk link, once there is one; accept: and say so to the sender."""
        self.desk.alarms.move(transfer.serial, Instant(now + RESUME_NS))
        if session.bulk is None:
            return
        expect = Expect(handle=transfer.handle, link=session.bulk, stream=transfer.number, envelope=transfer.envelope)
        out.payloads.append(expect)
        transfer.expected = True
        self.desk.move(transfer, "bulk_up", out)
        transfer.asked_at = transfer.moved_at = now
        transfer.stalls = 0
        if accept:
            have = transfer.chunks.ranges() if transfer.chunks.held else ()
            needed = transfer.envelope.chunk_count - sum(count for _, count in have)
            transfer.flight = min(needed, self.window)
            transfer.ungranted = needed - transfer.flight
            transfer.asking = False
            granted = Accept(transfer=transfer.number, credit=self.window, have=have)
            out.frame(session.link, granted)
        if transfer.chunks.complete:
            self.desk.move(transfer, "all_chunks", out)
        else:
            self.desk.alarms.move(transfer.serial, Instant(now + STALL_NS))

    # ---- links

    def bulk_up(self, session: Peering, now: Instant, out: Outbox) -> None:
        """Go on with what waits for a link. One that we called interrupted may be alive for the sender, who saw the
        links change in another order: expect it here too; a sender that did suspend it offers it again."""
        for transfer in session.incoming.values():
            if transfer.state in ("waiting", "interrupted"):
                self.begin(transfer, session, now, out, accept=transfer.state == "waiting")

    def lost(self, session: Peering, now: Instant, out: Outbox, *, control: bool) -> None:
        """Keep what we have for a while."""
        for transfer in session.incoming.values():
            if transfer.state in ("receiving", "checking") or (control and transfer.state == "waiting"):
                self.desk.move(transfer, "link_lost", out)
                self.desk.alarms.move(transfer.serial, Instant(now + RESUME_NS))
            if control:
                transfer.control = None
        if control:
            session.incoming.clear()

    def detach(self, transfer: Incoming) -> None:
        """Forget the number in its session."""
        session = self.desk.sessions.get(transfer.control) if transfer.control is not None else None
        if session is not None:
            session.incoming.pop(transfer.number, None)
        transfer.control = None

    # ---- chunks

    def chunk(self, transfer: Incoming, session: Peering, chunk: ChunkArrived, now: Instant, out: Outbox) -> None:
        """Count it by the driver's verdict; grant, ask again, or refuse."""
        if transfer.state not in ("receiving", "checking"):
            return
        if chunk.channel != transfer.channel:
            raise refuse("zg/transfer/wrong-channel", "channel", chunk.channel, int(transfer.channel))
        match chunk.verdict:
            case "unexpected" | "refused":
                reason = chunk.reason or why("zg/transfer/unexpected-chunk", f"chunk {chunk.index}", "index")
                raise RemoteProtocolError(reason.id, reason.detail, reason.field)
            case "accepted" | "duplicate" | "corrupt":
                pass
        transfer.arrived += 1
        if transfer.flight:
            transfer.flight -= 1
        if transfer.arrived > REPEAT_FACTOR * transfer.envelope.chunk_count + REPEATED_MAX:
            raise refuse("zg/transfer/too-many-chunks", "chunks", transfer.arrived, "a link that damages less")
        assert 0 <= chunk.index < transfer.envelope.chunk_count, "the driver's assembler knows the envelope"
        if chunk.verdict != "accepted":
            transfer.unsound += 1
        if chunk.verdict == "corrupt":
            if chunk.index not in transfer.chunks:
                self.ask(transfer, (chunk.index,), out)
                return
        elif transfer.chunks.add(chunk.index):
            session.chunk_at = transfer.moved_at = now
            transfer.stalls = 0
            if transfer.chunks.complete:
                self.desk.move(transfer, "all_chunks", out)
                self.desk.alarms.move(transfer.serial, Instant(now + RESUME_NS))
                return
        if transfer.state == "receiving" and transfer.flight + self.batch <= self.window:
            self.grant(transfer, out)

    def grant(self, transfer: Incoming, out: Outbox) -> None:
        """Half a window more: as credit, or, after a corrupt whole, by naming the chunks."""
        assert transfer.control is not None
        if transfer.asking:
            indices = transfer.chunks.missing(transfer.ask_at, self.batch)
            if indices:
                transfer.ask_at = indices[-1] + 1
                self.ask(transfer, indices, out)
        elif transfer.ungranted:
            count = min(self.batch, transfer.ungranted)
            transfer.ungranted -= count
            transfer.flight += count
            out.frame(transfer.control, Credit(transfer=transfer.number, count=count))

    def ask(self, transfer: Incoming, indices: tuple[int, ...], out: Outbox) -> None:
        """These again; each is also a credit."""
        assert transfer.control is not None and indices
        transfer.flight += len(indices)
        out.frame(transfer.control, Resend(transfer=transfer.number, indices=indices))

    def ring(self, transfer: Incoming, now: Instant, out: Outbox) -> None:
        """Nothing for a while: ask for what is missing, or give up."""
        session = self.desk.sessions.get(transfer.control) if transfer.control is not None else None
        if transfer.state != "receiving" or session is None:
            id = "zg/transfer/unjudged" if transfer.state == "checking" else "zg/transfer/no-link"
            self.give_up(transfer, why(id, f"in state {transfer.state} for too long"), now, out)
            return
        quiet_since = max(session.chunk_at, transfer.asked_at)
        due = quiet_since + (STALL_NS << min(transfer.stalls, 2))
        if due > now:
            self.desk.alarms.move(transfer.serial, Instant(due))
        elif max(session.chunk_at, transfer.moved_at) + RESUME_NS <= now:
            missing = transfer.envelope.chunk_count - transfer.chunks.held
            self.give_up(transfer, why("zg/transfer/stalled", f"{missing} chunks did not come in time"), now, out)
        else:
            transfer.stalls += 1
            transfer.asked_at = now
            transfer.flight = 0  # what was in flight is lost; if it is only late, it comes as a duplicate
            indices = transfer.chunks.missing(0, self.window)
            transfer.ask_at = indices[-1] + 1
            self.ask(transfer, indices, out)
            self.desk.alarms.move(transfer.serial, Instant(now + (STALL_NS << min(transfer.stalls, 2))))

    # ---- the whole

    def ready(self, content: PayloadRef, now: Instant, out: Outbox) -> None:
        """The driver digested it: it is the application's."""
        transfer = self.handles.get(content.handle)
        if transfer is None:
            return  # given up while the driver was digesting
        if transfer.control is not None:
            out.frame(transfer.control, Received(transfer=transfer.number))
        key = key_of(transfer.peer, transfer.envelope)
        self.delivered.pop(key, None)
        if len(self.delivered) >= DELIVERED_MAX:
            del self.delivered[next(iter(self.delivered))]
        self.delivered[key] = (transfer.envelope, Instant(now + RESUME_NS))
        self.forget(transfer, "payload_ready", None, out)

    def corrupt(self, handle: Handle, reason: Reason, now: Instant, out: Outbox) -> None:
        """Every chunk was sound and the whole is not: all again, once."""
        transfer = self.handles.get(handle)
        if transfer is None:
            return
        transfer.corrupt_wholes += 1
        if transfer.corrupt_wholes > 1:
            self.give_up(transfer, reason, now, out)
            return
        self.desk.move(transfer, "payload_corrupt", out)
        transfer.chunks.clear()
        transfer.ungranted = transfer.flight = transfer.ask_at = 0
        if transfer.state == "receiving":
            transfer.asking, transfer.asked_at, transfer.moved_at = True, now, now
            indices = transfer.chunks.missing(0, self.window)
            if not indices:  # a tensor of no bytes whose digest is not that of no bytes
                self.give_up(transfer, reason, now, out)
                return
            transfer.ask_at = indices[-1] + 1
            self.ask(transfer, indices, out)
            self.desk.alarms.move(transfer.serial, Instant(now + STALL_NS))

    # ---- the end

    def withdrawn(self, transfer: Incoming, record: Withdraw, out: Outbox) -> None:
        """The sender gave it up."""
        self.forget(transfer, "withdraw", record.reason, out, peer_did=True)

    def give_up(self, transfer: Incoming, reason: Reason, now: Instant, out: Outbox) -> None:
        """Our decision: say so and end."""
        self.desk.withdraw(transfer.control, transfer.number, reason, out)
        self.forget(transfer, "give_up", reason, out)

    def forget(
        self, transfer: Incoming, event: EventName, reason: Reason | None, out: Outbox, *, peer_did: bool = False
    ) -> None:
        """Free the memory unless it is delivered; tell the application."""
        self.desk.move(transfer, event, out, peer_did=peer_did)
        self.detach(transfer)
        self.bytes_promised -= transfer.envelope.length
        del self.all[transfer.serial], self.handles[transfer.handle]
        del self.keys[key_of(transfer.peer, transfer.envelope)]
        self.desk.ended(transfer, transfer.handle, reason, out)
        if reason is not None and transfer.expected:
            self.desk.release(transfer.handle, out)

    def snapshot(self) -> object:
        """All that it holds, as plain values in order."""
        return [
            [
                [t.serial, t.peer, t.channel, t.state, t.control, t.number, t.handle, bytes(t.chunks.bits)],
                [t.ungranted, t.flight, t.asking, t.ask_at, t.arrived, t.unsound, t.corrupt_wholes, t.stalls],
                [t.expected, t.asked_at, t.moved_at, t.purpose, t.envelope],
            ]
            for t in self.all.values()
        ] + [list(self.delivered.items())]
