"""The words of a trace: what a node says happened, for checkers, timelines and applications (DESIGN §2, V3).

Law: an event is a record of its own, says who and what, and holds digests and handles where content would stand. Events
are part of `Effects`, so a replay compares them too.
"""

from typing import TypeAlias

from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.ids import Digest, Handle, JobId, LinkId, NodeId, TransferId
from zeitgeist.core.wire.messages import Outcome, Phase, Reason

__all__ = [
    "Drained",
    "Event",
    "JobEnded",
    "JobMoved",
    "MessageRefused",
    "PeerGone",
    "PeerJoined",
    "PeerRefused",
    "PeerStale",
    "SessionMoved",
    "TokenDelivered",
    "TransferEnded",
    "TransferMoved",
    "WorkerChanged",
]


class SessionMoved(Record, frozen=True, kw_only=True, tag="session_moved"):
    """A link's session changed its state by an event."""

    link: LinkId
    peer: NodeId
    before: str
    event: str
    after: str


class PeerJoined(Record, frozen=True, kw_only=True, tag="peer_joined"):
    """Negotiation ended well. trust: what the peer may do; agreement, plan: digests that both sides hold."""

    link: LinkId
    peer: NodeId
    outcome: Outcome
    agreement: Digest
    plan: Digest
    trust: tuple[str, ...]


class PeerRefused(Record, frozen=True, kw_only=True, tag="peer_refused"):
    """Negotiation ended badly. ours: we refused; else the peer did."""

    link: LinkId
    peer: NodeId
    phase: Phase
    ours: bool
    reasons: tuple[Reason, ...]


class PeerStale(Record, frozen=True, kw_only=True, tag="peer_stale"):
    """One side's trust bundle is older than the other's (H3)."""

    peer: NodeId
    ours: int
    theirs: int


class PeerGone(Record, frozen=True, kw_only=True, tag="peer_gone"):
    """The last control link of peer is down."""

    link: LinkId
    peer: NodeId
    reason: str


class MessageRefused(Record, frozen=True, kw_only=True, tag="message_refused"):
    """A frame was refused: bad record, wrong channel or state, or a role that the peer does not hold (H2)."""

    link: LinkId
    peer: NodeId
    kind: int
    reason: Reason


class TransferMoved(Record, frozen=True, kw_only=True, tag="transfer_moved"):
    """A transfer changed its state by an event."""

    peer: NodeId
    transfer: TransferId
    before: str
    event: str
    after: str


class TransferEnded(Record, frozen=True, kw_only=True, tag="transfer_ended"):
    """Received whole (reason None), or not. handle: the receiver's bytes; chunks: carried, resent among them."""

    peer: NodeId
    transfer: TransferId
    tensor: str
    length: int
    handle: Handle
    chunks: int
    resent: int
    reason: Reason | None = None


class JobMoved(Record, frozen=True, kw_only=True, tag="job_moved"):
    """A job changed its state by an event."""

    job: JobId
    attempt: int
    before: str
    event: str
    after: str


class TokenDelivered(Record, frozen=True, kw_only=True, tag="token_delivered"):
    """The owner's or the client's application may take token index; content is behind handle."""

    job: JobId
    attempt: int
    index: int
    handle: Handle
    digest: Digest


class JobEnded(Record, frozen=True, kw_only=True, tag="job_ended"):
    """The job is over for this node: outcome `stop`, `length`, `cancelled`, `failed` or `rejected`."""

    job: JobId
    attempt: int
    outcome: str
    token_count: int
    reason: Reason | None = None


class WorkerChanged(Record, frozen=True, kw_only=True, tag="worker_changed"):
    """A worker was started, is ready, died, was given up; reason says why."""

    name: str
    state: str
    reason: str = ""


class Drained(Record, frozen=True, kw_only=True, tag="drained"):
    """What ran when the drain began has ended, and every link is closed."""

    reason: str


Event: TypeAlias = (
    Drained
    | SessionMoved
    | PeerJoined
    | PeerRefused
    | PeerStale
    | PeerGone
    | MessageRefused
    | TransferMoved
    | TransferEnded
    | JobMoved
    | TokenDelivered
    | JobEnded
    | WorkerChanged
)
