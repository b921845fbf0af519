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
from zeitgeist.core.ids import LinkId, NodeId, Ticket
from zeitgeist.core.wire.messages import Outcome

__all__ = [
    "HEARS",
    "BulkDialled",
    "BulkDown",
    "BulkUp",
    "ControlDialled",
    "Draining",
    "Fact",
    "LinkLost",
    "Listener",
    "PeerDown",
    "PeerUp",
    "WorkerReady",
    "WorkersSettled",
]

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


class LinkLost(Record, frozen=True, kw_only=True):
    """A connection went down, whatever it had become: ready, half-way through its handshake, or refused."""

    link: LinkId
    reason: str


class WorkerReady(Record, frozen=True, kw_only=True):
    """A worker of ours finished negotiation on link."""

    link: LinkId
    name: str


class WorkersSettled(Record, frozen=True, kw_only=True):
    """Each configured worker is ready or given up, so that what we declare is what we have. Told once in a boot."""


class ControlDialled(Record, frozen=True, kw_only=True):
    """A control connection was asked for under ticket. node: who must answer, "" for anyone known."""

    ticket: Ticket
    node: NodeId


class BulkDialled(Record, frozen=True, kw_only=True):
    """A bulk connection was asked for under ticket; it is to join the session whose control link is control."""

    ticket: Ticket
    control: LinkId


class Draining(Record, frozen=True, kw_only=True):
    """Start nothing new. peer "" means this node itself."""

    peer: NodeId
    reason: str


Fact: TypeAlias = (
    PeerUp
    | PeerDown
    | BulkUp
    | BulkDown
    | LinkLost
    | WorkerReady
    | WorkersSettled
    | ControlDialled
    | BulkDialled
    | Draining
)

HEARS: Mapping[type[Record], tuple[Listener, ...]] = {
    PeerUp: ("supervise", "transfer", "job"),
    PeerDown: ("supervise", "transfer", "job"),
    BulkUp: ("supervise", "transfer"),
    BulkDown: ("supervise", "transfer"),
    LinkLost: ("supervise",),
    WorkerReady: ("job",),
    WorkersSettled: ("session", "supervise"),
    ControlDialled: ("session",),
    BulkDialled: ("session",),
    Draining: ("session", "supervise", "transfer", "job"),
}
