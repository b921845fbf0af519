"""What machines tell one another, and the table that says who hears what (DESIGN §1).

Law: machines never import one another. A machine puts a fact into its outbox; the node hands it to the machines of its
row, in the order of the row, in the same step.
"""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from zeitgeist.core.descriptors.node import ModelOffer, NodeDescriptor
from zeitgeist.core.descriptors.plan import Plan
from zeitgeist.core.descriptors.trust import TrustLevel
from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.ids import LinkId, NodeId
from zeitgeist.core.wire.messages import Outcome

__all__ = ["HEARS", "BulkDown", "BulkUp", "Draining", "Fact", "Listener", "PeerDown", "PeerUp", "WorkerReady"]

Listener = Literal["session", "transfer", "job", "supervise"]


class PeerUp(Record, frozen=True, kw_only=True):
    """A session is ready. local: it is a worker of ours."""

    link: LinkId
    peer: NodeId
    local: bool
    dialled: bool
    outcome: Outcome
    trust: tuple[TrustLevel, ...]
    descriptor: NodeDescriptor
    models: tuple[ModelOffer, ...]
    plan: Plan


class PeerDown(Record, frozen=True, kw_only=True):
    """The session of link is over; nothing on its way will arrive."""

    link: LinkId
    peer: NodeId
    reason: str


class BulkUp(Record, frozen=True, kw_only=True):
    """link carries bulk for the session whose control link is control (the same link for a local session)."""

    link: LinkId
    control: LinkId
    peer: NodeId


class BulkDown(Record, frozen=True, kw_only=True):
    """That bulk link is gone; the session may get another."""

    link: LinkId
    control: LinkId
    peer: NodeId


class WorkerReady(Record, frozen=True, kw_only=True):
    """A worker of ours finished negotiation on link."""

    link: LinkId
    name: str


class Draining(Record, frozen=True, kw_only=True):
    """Start nothing new. peer "" means this node itself."""

    peer: NodeId
    reason: str


Fact: TypeAlias = PeerUp | PeerDown | BulkUp | BulkDown | WorkerReady | Draining

HEARS: Mapping[type[Record], tuple[Listener, ...]] = {
    PeerUp: ("supervise", "transfer", "job"),
    PeerDown: ("supervise", "transfer", "job"),
    BulkUp: ("transfer",),
    BulkDown: ("transfer",),
    WorkerReady: ("job",),
    Draining: ("session", "transfer", "job"),
}
