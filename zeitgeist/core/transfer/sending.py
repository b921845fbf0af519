"""The sender's half: queue, offer, send by credit, repeat what is asked for, offer again on another link (C1, E4, G4).

Law: a chunk goes out only for a credit, and only while fewer than `LINK_WINDOW` are in flight on its bulk link; the
transfers of a link take turns, one chunk each. What the receiver names is checked before it is used. Content is
released once, when the last transfer of it ends.
"""

from collections import deque

from zeitgeist.core.effects import SendCommand
from zeitgeist.core.errors import RemoteProtocolError, refuse
from zeitgeist.core.formats.tensor import check_envelope
from zeitgeist.core.ids import Handle, NodeId, TransferId
from zeitgeist.core.limits import TENSOR_BYTES_MAX
from zeitgeist.core.outbox import Outbox
from zeitgeist.core.trace import TransferEnded
from zeitgeist.core.transfer.desk import Desk, reason_of, why
from zeitgeist.core.transfer.ranges import ranges_outside, require_indices, require_ranges
from zeitgeist.core.transfer.records import CHANNELS, Key, Outgoing, Peering, key_of
from zeitgeist.core.transfer.states import (
    CREDIT_UNSPENT_MAX,
    LINK_WINDOW,
    OFFERED_MAX,
    OUTGOING_MAX,
    REPEAT_FACTOR,
    REPEATED_MAX,
    RESUME_NS,
    EventName,
)
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.frame import Channel
from zeitgeist.core.wire.messages import Accept, Credit, Declined, Offer, Reason, Received, Resend, Withdraw

__all__ = ["Sending"]


class Sending:
    """All transfers that this node sends."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.all: dict[int, Outgoing] = {}
        self.keys: dict[Key, Outgoing] = {}
        self.parked: dict[NodeId, deque[Outgoing]] = {}
        self.holds: dict[Handle, int] = {}

    # ---- from the application

    def command(self, command: SendCommand, now: Instant, out: Outbox) -> None:
        """Queue it, and offer it at once when there is a place. What cannot be sent ends here, by name."""
        peer, handle = NodeId(command.peer), command.content.handle
        self.holds[handle] = self.holds.get(handle, 0) + 1
        try:
            self.require(command, peer)
        except RemoteProtocolError as error:
            out.events.append(
                TransferEnded(
                    peer=peer,
                    transfer=TransferId(0),
                    tensor=command.envelope.tensor,
                    length=command.envelope.length,
                    handle=handle,
                    chunks=0,
                    resent=0,
                    reason=reason_of(error),
                )
            )
            self.let_go(handle, out)
            return
        transfer = Outgoing(
            serial=self.desk.serial(),
            peer=peer,
            channel=CHANNELS[command.channel],
            envelope=command.envelope,
            content=command.content,
            purpose=command.purpose,
        )
        self.all[transfer.serial] = self.keys[key_of(peer, command.envelope)] = transfer
        self.parked.setdefault(peer, deque()).append(transfer)
        transfer.parked = True
        self.desk.alarms.move(transfer.serial, Instant(now + RESUME_NS))
        self.place(peer, now, out)

    def require(self, command: SendCommand, peer: NodeId) -> None:
        """Refuse what could not be sent, whatever the peer says."""
        envelope, content = command.envelope, command.content
        check_envelope(envelope, TENSOR_BYTES_MAX)
        for field, got, wanted in (
            ("length", content.length, envelope.length),
            ("checksum", content.digest, envelope.checksum),
        ):
            if got != wanted:
                raise refuse("zg/transfer/wrong-content", field, got, f"{wanted}, as the envelope says")
        if self.desk.draining:
            raise refuse("zg/transfer/draining", "peer", peer, "nothing: this node starts nothing new")
        if len(self.all) >= OUTGOING_MAX:
            raise refuse("zg/transfer/too-many", "peer", peer, f"at most {OUTGOING_MAX} transfers to be sent")
        if key_of(peer, envelope) in self.keys:
            raise refuse("zg/transfer/duplicate", "tensor", envelope.tensor, "one that is not under way to this peer")
        sessions = self.desk.of(peer).values()
        if sessions and not any(session.trusts(CHANNELS[command.channel]) for session in sessions):
            raise refuse("zg/transfer/not-trusted", "peer", peer, f"a peer trusted with {command.channel}s")

    # ---- links

    def place(self, peer: NodeId, now: Instant, out: Outbox) -> None:
        """Offer what is parked for peer, as far as its sessions have a bulk link and a place."""
        parked = self.parked.get(peer)
        if not parked or self.desk.draining:
            return
        sessions = self.desk.of(peer).values()
        for session in sessions:
            if session.bulk is None or session.draining:
                continue
            others: list[Outgoing] = []
            while parked and session.offered < OFFERED_MAX:
                transfer = parked.popleft()
                transfer.parked = False
                if session.trusts(transfer.channel):
                    self.offer(transfer, session, now, out)
                elif any(other.trusts(transfer.channel) for other in sessions):
                    transfer.parked = True
                    others.append(transfer)
                else:
                    wanted = f"a peer trusted with {transfer.channel.name.lower()}s"
                    self.end(transfer, "give_up", why("zg/transfer/not-trusted", f"wanted {wanted}", "peer"), out)
            parked.extendleft(reversed(others))
        if not parked:
            self.parked.pop(peer, None)

    def offer(self, transfer: Outgoing, session: Peering, now: Instant, out: Outbox) -> None:
        """Under a new number, naming the old one."""
        self.detach(transfer)
        resumes, transfer.number = transfer.number, TransferId(session.next_number)
        session.next_number += 2
        transfer.control = session.link
        session.outgoing[transfer.number] = transfer
        session.offered += 1
        transfer.placed = True
        session.heard_at = now
        self.desk.move(transfer, "offer", out)
        offer = Offer(
            transfer=transfer.number,
            channel="cache" if transfer.channel is Channel.CACHE else "tensor",
            envelope=transfer.envelope,
            purpose=transfer.purpose,
            resumes=resumes,
        )
        out.frame(session.link, offer)
        self.desk.alarms.move(transfer.serial, Instant(now + RESUME_NS))

    def lost(self, session: Peering, now: Instant, out: Outbox, *, control: bool) -> None:
        """The bulk link of session went down, or all of it: suspend what was offered on it, oldest first again."""
        parked: list[Outgoing] = []
        for transfer in session.outgoing.values():
            if transfer.state != "suspended":
                self.desk.move(transfer, "link_lost", out)
                self.desk.alarms.move(transfer.serial, Instant(now + RESUME_NS))
                transfer.in_turn = transfer.placed = False
                transfer.parked = True
                parked.append(transfer)
            if control:
                transfer.control = None
        session.turn.clear()
        session.flight = session.offered = 0
        if control:
            session.outgoing.clear()
        if parked:
            self.parked.setdefault(session.peer, deque()).extendleft(reversed(parked))
            self.place(session.peer, now, out)

    def detach(self, transfer: Outgoing) -> None:
        """Forget the number and the place in its session."""
        session = self.desk.sessions.get(transfer.control) if transfer.control is not None else None
        if session is None or session.outgoing.pop(transfer.number, None) is None:
            return
        if transfer.in_turn:
            session.turn.remove(transfer.number)
            transfer.in_turn = False
        if transfer.placed:
            transfer.placed = False
            session.offered -= 1
            session.flight -= transfer.flight
        transfer.flight = 0

    def drain(self, out: Outbox) -> None:
        """Nothing new: what was not offered, or waits for a link, will not be."""
        for parked in list(self.parked.values()):
            while parked:
                transfer = parked.popleft()
                transfer.parked = False
                self.end(transfer, "give_up", why("zg/transfer/draining", "this node starts nothing new"), out)
        self.parked.clear()

    # ---- from the receiver

    def accepted(self, transfer: Outgoing, session: Peering, record: Accept, now: Instant, out: Outbox) -> None:
        """Send what it does not have."""
        count = transfer.envelope.chunk_count
        require_ranges(record.have, count)
        self.desk.move(transfer, "accept", out, peer_did=True)
        if transfer.state == "sending":
            transfer.load(ranges_outside(record.have, count), record.credit)
            self.proceed(transfer, session, now, out)

    def credited(self, transfer: Outgoing, session: Peering, record: Credit, now: Instant, out: Outbox) -> None:
        """Send as many more."""
        self.desk.move(transfer, "credit", out, peer_did=True)
        if transfer.state != "suspended":
            self.grant(transfer, session, record.count)
            self.proceed(transfer, session, now, out)

    def asked_again(self, transfer: Outgoing, session: Peering, record: Resend, now: Instant, out: Outbox) -> None:
        """Send these again; those that were not sent yet come in their turn."""
        require_indices(record.indices, transfer.envelope.chunk_count)
        self.desk.move(transfer, "resend", out, peer_did=True)
        if transfer.state == "suspended":
            return
        for index in record.indices:
            if not transfer.is_fresh(index):
                transfer.again[index] = None
        if transfer.resent + len(transfer.again) > REPEAT_FACTOR * transfer.envelope.chunk_count + REPEATED_MAX:
            raise refuse("zg/transfer/too-many-chunks", "indices", transfer.resent, "a link that damages less")
        self.grant(transfer, session, len(record.indices))
        self.proceed(transfer, session, now, out)

    def grant(self, transfer: Outgoing, session: Peering, count: int) -> None:
        """count chunks are known to be out of the way, and as many may follow."""
        transfer.credit += count
        if transfer.credit > CREDIT_UNSPENT_MAX:
            raise refuse("zg/transfer/bad-credit", "count", transfer.credit, f"at most {CREDIT_UNSPENT_MAX} unspent")
        landed = min(count, transfer.flight)
        transfer.flight -= landed
        session.flight -= landed

    def proceed(self, transfer: Outgoing, session: Peering, now: Instant, out: Outbox) -> None:
        """Take a turn if there is one to take, and let the link go on."""
        if not transfer.owes:
            if transfer.state == "sending":
                self.desk.move(transfer, "sent_all", out)
        elif transfer.credit and not transfer.in_turn:
            transfer.in_turn = True
            session.turn.append(transfer.number)
        self.pump(session, out)

    def pump(self, session: Peering, out: Outbox) -> None:
        """One chunk of each that may, in turns, until the link's window is full."""
        turn, bulk = session.turn, session.bulk
        if bulk is None:
            return
        while turn and session.flight < LINK_WINDOW:
            transfer = session.outgoing[turn.pop(0)]
            out.chunk(
                bulk, transfer.channel, transfer.number, transfer.content.handle, transfer.envelope, transfer.take()
            )
            transfer.credit -= 1
            transfer.sent += 1
            transfer.flight += 1
            session.flight += 1
            if transfer.owes and transfer.credit:
                turn.append(transfer.number)
                continue
            transfer.in_turn = False
            if not transfer.owes:
                self.desk.move(transfer, "sent_all", out)

    # ---- the end

    def heard_end(self, transfer: Outgoing, record: Received | Declined | Withdraw, now: Instant, out: Outbox) -> None:
        """The receiver's last word."""
        match record:
            case Received():
                self.end(transfer, "received", None, out, peer_did=True)
            case Declined(reasons=reasons):
                self.end(transfer, "decline", reasons[0], out, peer_did=True)
            case Withdraw(reason=reason):
                self.end(transfer, "withdraw", reason, out, peer_did=True)
        self.place(transfer.peer, now, out)

    def give_up(self, transfer: Outgoing, reason: Reason, now: Instant, out: Outbox) -> None:
        """Our decision: say so and end."""
        self.desk.withdraw(transfer.control, transfer.number, reason, out)
        self.end(transfer, "give_up", reason, out)
        self.place(transfer.peer, now, out)

    def end(
        self, transfer: Outgoing, event: EventName, reason: Reason | None, out: Outbox, *, peer_did: bool = False
    ) -> None:
        """Forget it, free the content, tell the application; others of its link may go on."""
        self.desk.move(transfer, event, out, peer_did=peer_did)
        session = self.desk.sessions.get(transfer.control) if transfer.control is not None else None
        if transfer.parked:
            self.parked[transfer.peer].remove(transfer)
            transfer.parked = False
            if not self.parked[transfer.peer]:
                del self.parked[transfer.peer]
        self.detach(transfer)
        del self.all[transfer.serial], self.keys[key_of(transfer.peer, transfer.envelope)]
        self.desk.ended(transfer, transfer.content.handle, reason, out)
        self.let_go(transfer.content.handle, out)
        if session is not None:
            self.pump(session, out)

    def let_go(self, handle: Handle, out: Outbox) -> None:
        """One transfer less needs the content."""
        self.holds[handle] -= 1
        if not self.holds[handle]:
            del self.holds[handle]
            self.desk.release(handle, out)

    def ring(self, transfer: Outgoing, now: Instant, out: Outbox) -> None:
        """Nothing for a while: look whether anything can still come."""
        session = self.desk.sessions.get(transfer.control) if transfer.control is not None else None
        if transfer.state in ("queued", "suspended"):
            if any(
                session.bulk is not None and not session.draining for session in self.desk.of(transfer.peer).values()
            ):
                self.desk.alarms.move(transfer.serial, Instant(now + RESUME_NS))  # it waits for a place only
                return
            self.give_up(transfer, why("zg/transfer/no-link", f"no bulk link to {transfer.peer} in time"), now, out)
        elif session is not None and session.heard_at + RESUME_NS > now:
            self.desk.alarms.move(transfer.serial, Instant(session.heard_at + RESUME_NS))
        else:
            self.give_up(transfer, why("zg/transfer/silent", f"no word of {transfer.peer} in time"), now, out)

    def snapshot(self) -> object:
        """All that it holds, as plain values in order."""
        return [
            [
                [t.serial, t.peer, t.channel, t.state, t.control, t.number, t.credit, t.flight, t.fresh, t.fresh_at],
                [
                    t.index,
                    list(t.again),
                    t.sent,
                    t.resent,
                    t.in_turn,
                    t.placed,
                    t.parked,
                    t.purpose,
                    t.content,
                    t.envelope,
                ],
            ]
            for t in self.all.values()
        ] + [[[peer, [t.serial for t in parked]] for peer, parked in self.parked.items()], list(self.holds.items())]
