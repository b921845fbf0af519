"""One link: everything that a session remembers of a connection, from its first byte to its end."""

import msgspec

from zeitgeist.core.auth.transcript import Prover
from zeitgeist.core.descriptors.link import Lane, LinkFacts
from zeitgeist.core.descriptors.node import NodeDescriptor
from zeitgeist.core.descriptors.plan import Plan
from zeitgeist.core.descriptors.trust import AuthMode, TrustLevel
from zeitgeist.core.ids import KeyId, LinkId, NodeId, SessionId, Ticket
from zeitgeist.core.negotiate.agreement import Agreement
from zeitgeist.core.negotiate.declared import Side
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.registry import SessionState

__all__ = ["NOBODY", "NO_LINK", "Link"]

NOBODY = NodeId("")
NO_LINK = LinkId(0)


class Link(msgspec.Struct, kw_only=True):
    """Mutable; its canonical bytes are part of the machine's state.

    started: when it came up; due: when to look at it again; heard_at, pinged_at: of the last word of its session, and
    of our last ping. expected: who must answer a dial; claimed: who says it is there; peer: who has proven it; key,
    public: what the proof is verified by; hello, challenge: as they crossed the link. dialler_epoch, counter: of its
    Hello; acceptor_epoch: of its Challenge. waiting: the ticket of the host's answer that the handshake stands still
    for. joins: of a bulk link, the control link; bulk: of a control link, its bulk link. held: phase 2 waits for our
    workers.
    """

    link: LinkId
    lane: Lane
    role: Prover
    facts: LinkFacts
    started: Instant
    due: Instant = Instant(0)
    state: SessionState = "greeting"
    heard_at: Instant = Instant(0)
    pinged_at: Instant = Instant(0)
    ping: int = 0
    expected: NodeId = NOBODY
    certificate: str = ""
    claimed: NodeId = NOBODY
    peer: NodeId = NOBODY
    trust: tuple[TrustLevel, ...] = ()
    claimed_trust: tuple[TrustLevel, ...] = ()
    mode: AuthMode = "none"
    key: KeyId = KeyId("")
    public: bytes = b""
    own_key: KeyId = KeyId("")
    bundle_version: int = 0
    hello: bytes = b""
    challenge: bytes = b""
    dialler_epoch: int = 0
    acceptor_epoch: int = 0
    counter: int = 0
    session: SessionId = SessionId("")
    waiting: Ticket = Ticket(0)
    joins: LinkId = NO_LINK
    bulk: LinkId = NO_LINK
    held: bool = False
    ours: Side | None = None
    descriptor: NodeDescriptor | None = None
    theirs: Side | None = None
    agreement: Agreement | None = None
    plan: Plan | None = None

    @property
    def dialled(self) -> bool:
        """We opened the connection."""
        return self.role == "dialler"

    @property
    def other_role(self) -> Prover:
        """The peer's role."""
        return "acceptor" if self.role == "dialler" else "dialler"

    @property
    def server_certificate(self) -> str:
        """As this side saw it; "" without TLS."""
        return self.facts.tls.server_certificate if self.facts.tls else ""

    def sides(self) -> tuple[Side, Side]:
        """(dialler's, acceptor's); both are known from phase 3 on."""
        assert self.ours is not None and self.theirs is not None, "phase 3 is over"
        return (self.ours, self.theirs) if self.role == "dialler" else (self.theirs, self.ours)
