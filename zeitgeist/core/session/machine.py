"""The sessions of one node: every link from its first byte to its end (B1, H1–H3, A7, A8).

Law: a refused handshake is answered by `Refused` with its reasons, and closed. Nobody but `leave` ends a link. What the
host answers late, for a link that is gone, is dropped.
"""

import heapq
from collections.abc import Mapping
from typing import TypeAlias, assert_never, cast

import msgspec

from zeitgeist.core.auth.modes import require_tls
from zeitgeist.core.auth.trust import Clock
from zeitgeist.core.effects import Boot, FrameRefused, Input, LinkDown, LinkUp, Result, Signed, WallClock
from zeitgeist.core.errors import ZeitgeistError, bounded, refuse
from zeitgeist.core.facts import (
    BulkDialled,
    BulkUp,
    ControlDialled,
    Draining,
    Fact,
    LinkLost,
    PeerUp,
    WorkersSettled,
)
from zeitgeist.core.formats.canonical import Record, digest
from zeitgeist.core.ids import LinkId, NodeId, Ticket
from zeitgeist.core.machine import Links
from zeitgeist.core.outbox import Heard, Outbox, Standing
from zeitgeist.core.session import handshake, phases
from zeitgeist.core.session.book import DIALS_MAX, Book
from zeitgeist.core.session.handshake import Unlike
from zeitgeist.core.session.link import NO_LINK, Link
from zeitgeist.core.session.states import LIVE, EventName, next_state
from zeitgeist.core.trace import PeerJoined, PeerRefused
from zeitgeist.core.units import Instant
from zeitgeist.core.wire import messages as m
from zeitgeist.core.wire.messages import Reason

__all__ = ["SessionRecord", "Sessions"]

SessionRecord: TypeAlias = (
    m.Hello
    | m.Challenge
    | m.Proof
    | m.Welcome
    | m.Refused
    | m.Goodbye
    | m.Ping
    | m.Pong
    | m.Capabilities
    | m.Models
    | m.Assessment
    | m.PlanProposal
    | m.PlanAgreed
)
"""Every record whose row names this machine."""

EVENT_OF: Mapping[type[Record], EventName] = {
    m.Hello: "hello",
    m.Challenge: "challenge",
    m.Proof: "proof",
    m.Welcome: "welcome",
    m.Capabilities: "capabilities",
    m.Models: "models",
    m.Assessment: "assessment",
    m.PlanProposal: "plan_proposal",
    m.PlanAgreed: "plan_agreed",
}
"""What a record means in the table. Whether it may be heard now, and by this role, is asked before it is read."""

ENCODER = msgspec.msgpack.Encoder(order="sorted")


class Sessions(Links):
    """The machine. Everything that outlives a step is in its book."""

    def __init__(self, boot: Boot) -> None:
        self.book = Book(boot)

    # ---- for the gate

    def standing(self, link: LinkId) -> Standing | None:
        """Where link stands; None when it is not up, or was closed by us."""
        return self.book.standings.get(link)

    def break_off(self, link: LinkId, reason: Reason, now: Instant, out: Outbox) -> None:
        """The gate refused a frame of a link, which cannot go on."""
        found = self.book.links.get(link)
        if found is not None:
            self.book.refuse(found, (reason,), out)

    # ---- inputs

    def told(self, input: Input, now: Instant, out: Outbox) -> None:
        """Connections and the clock."""
        match input:
            case LinkUp():
                self.link_up(input, now, out)
            case LinkDown():
                self.link_down(input, out)
            case FrameRefused(link=link, reason=reason):
                self.break_off(link, reason, now, out)
            case WallClock(utc_ns=utc_ns, error_ns=error_ns):
                self.book.clock = Clock(utc_ns=utc_ns, error_ns=error_ns, at=now)
            case _:
                pass

    def link_up(self, up: LinkUp, now: Instant, out: Outbox) -> None:
        """A connection stands: the dialler speaks first."""
        link = Link(
            link=up.link,
            lane=up.lane,
            role="acceptor" if up.facts.inbound else "dialler",
            facts=up.facts,
            started=now,
            heard_at=now,
        )
        self.book.add(link)
        try:
            if len(self.book.links) > self.book.config.links_max:
                raise refuse("zg/session/too-many-links", "links", len(self.book.links), self.book.config.links_max)
            require_tls(up.lane, up.facts)
            if link.dialled:
                handshake.greet(self.book, up, link, now, out)
        except ZeitgeistError as error:
            self.end(link, error, out)

    def link_down(self, down: LinkDown, out: Outbox) -> None:
        """A connection is gone."""
        link = self.book.links.get(down.link)
        if link is not None:
            self.book.leave(link, "lost", down.reason, out, close=False)
        out.facts.append(LinkLost(link=down.link, reason=bounded(down.reason, 200)))

    # ---- facts

    def fact(self, fact: Fact, now: Instant, out: Outbox) -> None:
        """What the supervisor knows of our dials and workers; the operator's wish to drain."""
        book = self.book
        match fact:
            case ControlDialled(ticket=ticket, node=node):
                book.control_dials[ticket] = node
                forget_oldest(book.control_dials)
            case BulkDialled(ticket=ticket, control=control):
                book.bulk_dials[ticket] = control
                forget_oldest(book.bulk_dials)
            case WorkersSettled():
                book.settled = True
                for link in [link for link in book.links.values() if link.held]:
                    self.attempt(link, now, out)
            case Draining(peer="", reason=reason):
                self.drain(reason, out)
            case _:
                pass

    def attempt(self, link: Link, now: Instant, out: Outbox) -> None:
        """Go on with a link that was held."""
        try:
            phases.resume(self.book, link, now, out)
        except ZeitgeistError as error:
            self.end(link, error, out)

    def drain(self, reason: str, out: Outbox) -> None:
        """Say goodbye to everyone; take nobody new."""
        self.book.draining = True
        for link in self.book.links.values():
            if link.state == "ready" and link.lane != "bulk":
                out.frame(link.link, m.Goodbye(reason=bounded(reason, 200)))
                self.book.move(link, "drain", out)

    def part(self, out: Outbox) -> None:
        """All work has ended: close what is still up. A bulk link goes with its control link."""
        for number in list(self.book.links):
            link = self.book.links.get(number)
            if link is not None:
                self.book.leave(link, "lost", "drained", out)

    # ---- answers of the host

    def answer(self, ticket: Ticket, result: Result | Reason | None, now: Instant, out: Outbox) -> None:
        """A signature, a verdict, or why there is none."""
        link = self.book.links.get(self.book.waiting.pop(ticket, NO_LINK))
        if link is None:
            return
        link.waiting = Ticket(0)
        try:
            if isinstance(result, Reason) or result is None:
                detail = result.detail if result else "no result"
                raise refuse("zg/auth/no-proof", "proof", detail, f"an answer of the host in mode {link.mode}")
            if isinstance(result, Signed):
                if handshake.signed(link, result, out):
                    self.authenticated(link, now, out)
            elif handshake.verified(self.book, link, result, out):
                self.authenticated(link, now, out)
        except ZeitgeistError as error:
            self.end(link, error, out)

    # ---- records

    def hear(self, frame: Heard, now: Instant, out: Outbox) -> None:
        """One record that the gate let through."""
        link = self.book.links.get(frame.link)
        if link is None:
            return
        link.heard_at = now
        try:
            if event := EVENT_OF.get(type(frame.record)):
                next_state(link.state, event, link.role, link.link, link.peer)
            self.match(link, cast(SessionRecord, frame.record), now, out)
        except ZeitgeistError as error:
            self.end(link, error, out)

    def match(self, link: Link, record: SessionRecord, now: Instant, out: Outbox) -> None:
        """One case a record."""
        book = self.book
        match record:
            case m.Hello():
                handshake.greeted(book, link, record, now, out)
            case m.Challenge():
                handshake.challenged(book, link, record, now, out)
            case m.Proof():
                if handshake.proven(book, link, record, out):
                    handshake.welcome(link, b"", out)
                    self.authenticated(link, now, out)
            case m.Welcome():
                if handshake.welcomed(book, link, record, out):
                    self.authenticated(link, now, out)
            case m.Capabilities():
                phases.described(book, link, record, now, out)
            case m.Models():
                phases.modelled(book, link, record, out)
            case m.Assessment():
                phases.assessed(book, link, record, out)
            case m.PlanProposal():
                phases.proposed(link, record)
                self.ready(link, now, out)
            case m.PlanAgreed():
                phases.agreed(link, record)
                self.ready(link, now, out)
            case m.Refused():
                self.refused(link, record, out)
            case m.Goodbye(reason=reason):
                self.goodbye(link, reason, out)
            case m.Ping(number=number):
                out.frame(link.link, m.Pong(number=number))
            case m.Pong():
                pass
            case _:
                assert_never(record)

    def refused(self, link: Link, said: m.Refused, out: Outbox) -> None:
        """The peer refuses us."""
        out.events.append(
            PeerRefused(
                link=link.link, peer=link.peer or link.claimed, phase=said.phase, ours=False, reasons=said.reasons
            )
        )
        self.book.leave(link, "refused", str(said.reasons[0].id), out)

    def goodbye(self, link: Link, reason: str, out: Outbox) -> None:
        """The peer drains. On a bulk link it means nothing: its control link says it."""
        self.book.move(link, "goodbye", out)
        if link.lane != "bulk":
            out.facts.append(Draining(peer=link.peer, reason=reason))

    # ---- milestones

    def authenticated(self, link: Link, now: Instant, out: Outbox) -> None:
        """The peer is who it says. Two links of one pair of nodes are one too many: the better rank goes on."""
        book = self.book
        if not link.dialled:
            handshake.require_new(book, link)
            book.remember(link)
        link.peer, link.trust = link.claimed, link.claimed_trust
        if link.lane == "bulk":
            self.joined(link, out)
            return
        book.move(link, "welcome" if link.dialled else "proof", out)
        for other in book.rivals(link):
            if book.rank(other) > book.rank(link):
                raise refuse("zg/session/duplicate", "link", link.link, f"link {other.link} to {link.peer} stays")
            if other.state not in LIVE:
                self.end(other, refuse("zg/session/duplicate", "link", other.link, f"link {link.link} stays"), out)
        phases.start(book, link, now, out)

    def joined(self, link: Link, out: Outbox) -> None:
        """A bulk link is proven: it serves its session, in the place of an older one."""
        book = self.book
        control = handshake.joinable(book, link)
        old = book.links.get(control.bulk)
        if old is not None:
            if book.rank(old) > book.rank(link):
                raise refuse("zg/session/duplicate", "link", link.link, f"bulk link {old.link} stays")
            book.leave(old, "lost", "a newer bulk link took its place", out)
        book.move(link, "joined", out)
        control.bulk = link.link
        out.facts.append(BulkUp(link=link.link, control=control.link, peer=link.peer))

    def ready(self, link: Link, now: Instant, out: Outbox) -> None:
        """Negotiation is over: tell everyone. A worse link of the same pair ends first, so that nobody sees two."""
        book = self.book
        for other in book.rivals(link):
            if other.state not in LIVE:
                continue
            if book.rank(other) > book.rank(link):
                raise refuse("zg/session/duplicate", "link", link.link, f"link {other.link} to {link.peer} stays")
            self.end(other, refuse("zg/session/duplicate", "link", other.link, f"link {link.link} stays"), out)
        assert link.agreement is not None and link.plan is not None and link.theirs is not None, "phase 5 is over"
        plan = digest(link.plan)
        if not link.dialled:
            out.frame(link.link, m.PlanAgreed(plan=plan))
        book.move(link, "plan_agreed" if link.dialled else "plan_proposal", out)
        book.peers[link.peer] = link.link
        book.sessions[link.session] = link.link
        self.announce(link, plan, out)
        link.pinged_at = now
        if link.lane == "control":
            book.wake(link, self.alive_until(link))
        if book.draining:
            out.frame(link.link, m.Goodbye(reason="draining"))
            book.move(link, "drain", out)

    def announce(self, link: Link, plan: str, out: Outbox) -> None:
        """The event, and the facts: the peer, and for a local link the bulk that it carries itself."""
        assert link.agreement is not None and link.plan is not None and link.theirs is not None, "phase 5 is over"
        out.events.append(
            PeerJoined(
                link=link.link,
                peer=link.peer,
                outcome=link.agreement.outcome,
                agreement=digest(link.agreement),
                plan=digest(link.plan),
                trust=link.trust,
            )
        )
        out.facts.append(
            PeerUp(
                link=link.link,
                peer=link.peer,
                local=link.lane == "local",
                dialled=link.dialled,
                outcome=link.agreement.outcome,
                trust=link.trust,
                descriptor=link.theirs.descriptor,
                models=link.theirs.models,
                plan=link.plan,
            )
        )
        if link.lane == "local":
            out.facts.append(BulkUp(link=link.link, control=link.link, peer=link.peer))

    def end(self, link: Link, error: ZeitgeistError, out: Outbox) -> None:
        """A refusal, in one or more reasons."""
        reasons = error.reasons if isinstance(error, Unlike) else (reason_of(error),)
        self.book.refuse(link, reasons, out)

    # ---- time

    def alive_until(self, link: Link) -> Instant:
        """When a ready control link is to be looked at next: for a ping, or because it has been silent too long."""
        times = self.book.config.times
        ping = max(link.heard_at, link.pinged_at) + times.heartbeat_ns
        return Instant(min(ping, link.heard_at + times.silence_ns))

    def deadline(self) -> Instant | None:
        """The top of the heap; it may be early, when a link has been heard since, or is gone."""
        return self.book.due[0][0] if self.book.due else None

    def expire(self, now: Instant, out: Outbox) -> None:
        """Handshakes that take too long, pings, and peers that are silent. Bulk follows its control link; of a worker
        the kernel says when it is gone."""
        due = self.book.due
        while due and due[0][0] <= now:
            at, number = heapq.heappop(due)
            link = self.book.links.get(number)
            if link is None or link.due != at:
                continue
            if link.state not in LIVE:
                self.late(link, now, out)
            elif link.lane == "control":
                self.check(link, now, out)

    def late(self, link: Link, now: Instant, out: Outbox) -> None:
        """Not ready in time."""
        took = now - link.started
        wanted = f"at most {self.book.config.times.handshake_ns} ns"
        self.end(link, refuse("zg/session/handshake-timeout", link.state, f"{took} ns", wanted), out)

    def check(self, link: Link, now: Instant, out: Outbox) -> None:
        """Ping a quiet peer, give up a silent one."""
        times = self.book.config.times
        if now - link.heard_at >= times.silence_ns:
            self.book.leave(link, "lost", f"zg/session/silent: {now - link.heard_at} ns", out)
            return
        if now - max(link.heard_at, link.pinged_at) >= times.heartbeat_ns:
            link.ping += 1
            link.pinged_at = now
            out.frame(link.link, m.Ping(number=link.ping))
        self.book.wake(link, self.alive_until(link))

    # ---- digest

    def state(self) -> bytes:
        """Canonical bytes of the book."""
        book = self.book
        return ENCODER.encode(
            (
                book.clock,
                book.settled,
                book.draining,
                book.hellos,
                list(book.links.values()),
                list(book.peers.items()),
                list(book.sessions.items()),
                list(book.seen.items()),
                list(book.waiting.items()),
                list(book.control_dials.items()),
                list(book.bulk_dials.items()),
                book.due,
            )
        )


def forget_oldest(dials: dict[Ticket, LinkId] | dict[Ticket, NodeId]) -> None:
    """Keep a bound on dials that never came up."""
    if len(dials) > DIALS_MAX:
        del dials[next(iter(dials))]


def reason_of(error: ZeitgeistError) -> Reason:
    """As it travels."""
    return Reason(id=error.id, detail=error.detail, field=error.field)
