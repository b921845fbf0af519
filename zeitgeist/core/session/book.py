"""What all sessions of a node share: its configuration, its links, who is here, which hellos were seen, what is due.

Law: nothing is decided here but the end of a link, which happens in one place: `leave`. Everything is in dictionaries
whose order the inputs alone decide.
"""

import heapq

import msgspec

from zeitgeist.core.auth.modes import modes_allowed
from zeitgeist.core.auth.trust import Clock
from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.node import ModelOffer, NodeDescriptor, Role
from zeitgeist.core.effects import Boot
from zeitgeist.core.errors import bounded
from zeitgeist.core.facts import BulkDown, LinkLost, PeerDown
from zeitgeist.core.formats.canonical import digest
from zeitgeist.core.ids import LinkId, NodeId, SessionId, Ticket
from zeitgeist.core.negotiate.declared import Side, own_versions
from zeitgeist.core.outbox import Outbox, Standing
from zeitgeist.core.session.link import NO_LINK, NOBODY, Link
from zeitgeist.core.session.states import LIVE, PHASES, EventName, next_state
from zeitgeist.core.trace import PeerGone, PeerRefused, SessionMoved
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import Reason, Refused

__all__ = ["DIALS_MAX", "SEEN_PER_LINK", "Book"]

SEEN_PER_LINK = 4
"""Hellos remembered for each link that may be up: a node that left is remembered while three others come and go."""
PARENT_ROLES: tuple[Role, ...] = ("coordinator",)
"""What a node is to its worker."""
DIALS_MAX = 4096
"""Dials whose connection has not come up. A dial that failed is never told to us; the oldest is forgotten."""


class Book:
    """Shared by the phases of `session/`."""

    def __init__(self, boot: Boot) -> None:
        self.boot = boot
        self.config = boot.config
        self.bundle_digest = digest(self.config.bundle) if self.config.bundle else ""
        self.bundle_version = self.config.bundle.bundle_version if self.config.bundle else 0
        self.clock: Clock | None = None
        self.settled = not self.config.workers
        self.draining = False
        self.hellos = 0
        self.links: dict[LinkId, Link] = {}
        self.standings: dict[LinkId, Standing] = {}
        self.peers: dict[NodeId, LinkId] = {}
        self.sessions: dict[SessionId, LinkId] = {}
        self.seen: dict[NodeId, tuple[int, int]] = {}
        self.waiting: dict[Ticket, LinkId] = {}
        self.control_dials: dict[Ticket, NodeId] = {}
        self.bulk_dials: dict[Ticket, LinkId] = {}
        self.due: list[tuple[Instant, LinkId]] = []

    # ---- what this node says of itself

    def wall(self, now: Instant) -> tuple[int, int] | None:
        """(earliest, latest) UTC that it may be, None before a clock was told."""
        return self.clock.interval(now) if self.clock else None

    def own_side(self, link: Link, now: Instant) -> Side:
        """Our declaration on this link. A worker learns of its node what it needs: that it coordinates."""
        local = link.lane == "local"
        held = [] if local else [self.links[worker] for worker in sorted(self.peers.values()) if self.is_worker(worker)]
        backends = list(self.boot.backends)
        models = [self.with_engine(offer) for offer in self.boot.models]
        for worker in sorted(held, key=lambda worker: worker.peer):
            assert worker.theirs is not None, "a ready session declared itself"
            backends += worker.theirs.descriptor.backends
            models += worker.theirs.models
        return Side(descriptor=self.descriptor(link, tuple(backends), bool(models)), models=tuple(models), local=local)

    def is_worker(self, link: LinkId) -> bool:
        """Is it the ready local link of a worker that we started?"""
        found = self.links[link]
        return found.lane == "local" and found.dialled and found.state in LIVE

    def with_engine(self, offer: ModelOffer) -> ModelOffer:
        """An offer of this process names its one engine."""
        if offer.engine or len(self.boot.backends) != 1:
            return offer
        return msgspec.structs.replace(offer, engine=digest(self.boot.backends[0]))

    def descriptor(self, link: Link, backends: tuple[BackendDescriptor, ...], serving: bool) -> NodeDescriptor:
        """Phase 2's record. Who configured an executor and has nothing to execute does not call itself one, unless
        that is all it is: then it is refused with the field named."""
        config = self.config
        roles: tuple[Role, ...] = config.roles
        starting = not self.settled
        missing = "executor" in roles and not serving
        if link.lane == "local" and link.dialled:
            roles, missing = PARENT_ROLES, False
        elif missing and len(roles) > 1 and link.lane != "local":
            roles = tuple(role for role in roles if role != "executor")
        schemes = [link.facts.transport, *(target.address.partition(":")[0] for target in config.dial)]
        return NodeDescriptor(
            node=config.node,
            cluster=config.cluster,
            roles=roles,
            versions=own_versions(),
            transports=tuple(sorted(dict.fromkeys(schemes))),
            hardware=config.hardware,
            memory=config.memory,
            auth=modes_allowed(config, link.lane, link.facts),
            bundle_version=self.bundle_version,
            health="draining" if self.draining else "starting" if starting else "degraded" if missing else "ready",
            backends=backends,
        )

    # ---- links

    def add(self, link: Link) -> None:
        """A connection came up; its handshake has to end in time. A worker loads its model before it answers: the
        supervisor and the kernel say when that takes too long."""
        self.links[link.link] = link
        self.refresh(link)
        if link.lane != "local":
            self.wake(link, Instant(link.started + self.config.times.handshake_ns))

    def wake(self, link: Link, at: Instant) -> None:
        """Look at link again at this instant, and not at an earlier one that was set before."""
        link.due = at
        heapq.heappush(self.due, (at, link.link))

    def refresh(self, link: Link) -> None:
        """What the gate asks for."""
        self.standings[link.link] = Standing(peer=link.peer, state=link.state, trust=link.trust, lane=link.lane)

    def move(self, link: Link, event: EventName, out: Outbox) -> None:
        """By the table, or refused."""
        before = link.state
        link.state = next_state(before, event, link.role, link.link, link.peer)
        out.events.append(
            SessionMoved(link=link.link, peer=link.peer or link.claimed, before=before, event=event, after=link.state)
        )
        self.refresh(link)

    def ask(self, link: Link, ticket: Ticket) -> None:
        """The handshake stands still until the host has answered ticket."""
        link.waiting = ticket
        self.waiting[ticket] = link.link

    def remember(self, link: Link) -> None:
        """The hello of link is proven: older ones of that node are replays from now on."""
        node = link.claimed
        self.seen[node] = max(self.seen.pop(node, (0, 0)), (link.dialler_epoch, link.counter))
        if len(self.seen) > SEEN_PER_LINK * self.config.links_max:
            del self.seen[next(iter(self.seen))]

    # ---- ends

    def refuse(self, link: Link, reasons: tuple[Reason, ...], out: Outbox) -> None:
        """We refuse: say why, note it, close."""
        phase = PHASES[link.state]
        out.frame(link.link, Refused(phase=phase, reasons=reasons))
        peer = link.peer or link.claimed
        out.events.append(PeerRefused(link=link.link, peer=peer, phase=phase, ours=True, reasons=reasons))
        self.leave(link, "refuse", str(reasons[0].id), out)

    def leave(self, link: Link, event: EventName, reason: str, out: Outbox, close: bool = True) -> None:
        """The end of a link, whoever wanted it. What hung on it goes with it."""
        live = link.state in LIVE
        if close:
            out.close(link.link, reason)
        self.move(link, event, out)
        del self.links[link.link], self.standings[link.link]
        self.waiting.pop(link.waiting, None)
        if live and link.lane == "bulk":
            self.leave_bulk(link, out)
        elif live:
            self.leave_control(link, bounded(reason, 200), out)
        elif close:  # a link that we close is never told as down; who dialled it, or started the worker, tries again
            out.facts.append(LinkLost(link=link.link, reason=bounded(reason, 200)))

    def leave_bulk(self, link: Link, out: Outbox) -> None:
        """The session goes on without, unless another bulk link took its place."""
        control = self.links.get(link.joins)
        if control is not None and control.bulk == link.link:
            control.bulk = NO_LINK
            out.facts.append(BulkDown(link=link.link, control=control.link, peer=link.peer))

    def leave_control(self, link: Link, reason: str, out: Outbox) -> None:
        """The session is over; its bulk link ends first."""
        bulk = self.links.get(link.bulk)
        if bulk is not None:
            link.bulk = NO_LINK
            self.leave(bulk, "lost", reason, out)
        if bulk is not None or link.lane == "local":
            out.facts.append(BulkDown(link=(bulk or link).link, control=link.link, peer=link.peer))
        self.sessions.pop(link.session, None)
        out.facts.append(PeerDown(link=link.link, peer=link.peer, reason=reason))
        if self.peers.get(link.peer) == link.link:
            del self.peers[link.peer]
            out.events.append(PeerGone(link=link.link, peer=link.peer, reason=reason))

    # ---- rank

    def rank(self, link: Link) -> tuple[bool, int, bool, int]:
        """Which of two links of one pair of nodes stays; both ends compute the same. No stranger takes the name of a
        worker; then, since epochs only grow, a greater sum is a link made after one of the two restarted; then the link
        that the smaller node id dialled; then the later one."""
        dialler = self.config.node if link.dialled else link.peer
        other = link.peer if link.dialled else self.config.node
        return link.lane == "local", link.dialler_epoch + link.acceptor_epoch, dialler < other, link.counter

    def rivals(self, link: Link) -> list[Link]:
        """Other control links whose far end has proven to be the same node."""
        return [
            other
            for other in self.links.values()
            if other.peer == link.peer and other.peer != NOBODY and other.link != link.link and other.lane != "bulk"
        ]
