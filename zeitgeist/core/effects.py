"""The door's two sides: what a node is told, and what it wants done (DESIGN §2).

Law: `Input` and `Effects` are closed. The list of `(now, input)` is the recording; replaying it gives every `Effects`
again, byte for byte. Effects are honoured in order: persist, payloads, send, close, calls, events, wake_at. What may
only be sent after a sync persist is sent by the step that hears `Persisted`, so a driver orders nothing by itself.
The core is content-blind: a payload is a handle, a length and a digest; bytes stay in the driver.
"""

from typing import Literal, TypeAlias

from zeitgeist.core.descriptors.backend import BackendDescriptor
from zeitgeist.core.descriptors.link import Lane, LinkFacts
from zeitgeist.core.descriptors.node import ModelOffer, NodeConfig
from zeitgeist.core.descriptors.trust import AuthMode
from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.formats.tensor import TensorEnvelope
from zeitgeist.core.ids import Digest, Handle, JobId, KeyId, LinkId, Ticket, TransferId
from zeitgeist.core.trace import Event
from zeitgeist.core.units import Instant
from zeitgeist.core.wire.messages import Assign, Reason, Submit

__all__ = [
    "Boot",
    "Call",
    "CallDone",
    "CallFailed",
    "CancelCommand",
    "ChunkArrived",
    "Close",
    "Command",
    "Compute",
    "Computed",
    "Dial",
    "Dialled",
    "DrainCommand",
    "Durable",
    "Effects",
    "Expect",
    "FrameArrived",
    "FrameRefused",
    "Input",
    "Interrupt",
    "KillWorker",
    "LinkDown",
    "LinkUp",
    "Measured",
    "PayloadCorrupt",
    "PayloadOp",
    "PayloadReady",
    "PayloadRef",
    "Persist",
    "PersistFailed",
    "Persisted",
    "PlanCall",
    "Planned",
    "Release",
    "Result",
    "Send",
    "SendChunk",
    "SendCommand",
    "Sending",
    "Sign",
    "Signed",
    "StartWorker",
    "SubmitCommand",
    "TakenCommand",
    "TimerFired",
    "TokenOut",
    "Verified",
    "Verify",
    "WallClock",
]


class PayloadRef(Record, frozen=True, kw_only=True):
    """Content that the driver holds: length in bytes, digest over the bytes (`content_digest`)."""

    handle: Handle
    length: int
    digest: Digest


# ---- commands: what an operator or an application of this process asks


class SubmitCommand(Record, frozen=True, kw_only=True, tag="submit"):
    """Run a job, here or through the peers. content: the prompt."""

    submit: Submit
    content: PayloadRef


class CancelCommand(Record, frozen=True, kw_only=True, tag="cancel"):
    """Stop a job submitted here."""

    job: JobId


class TakenCommand(Record, frozen=True, kw_only=True, tag="taken"):
    """The application took every token of job below next: credit for the stream (backpressure end to end)."""

    job: JobId
    next: int


class SendCommand(Record, frozen=True, kw_only=True, tag="send"):
    """Send a tensor that the driver holds to peer, over its bulk connection."""

    peer: str
    channel: Literal["tensor", "cache"]
    envelope: TensorEnvelope
    content: PayloadRef
    purpose: str = ""


class DrainCommand(Record, frozen=True, kw_only=True, tag="drain"):
    """Say goodbye to all, finish what runs, start nothing."""

    reason: str


Command: TypeAlias = SubmitCommand | CancelCommand | TakenCommand | SendCommand | DrainCommand


# ---- results of calls


class Signed(Record, frozen=True, kw_only=True, tag="signed"):
    """A signature of 64 bytes, or a MAC of 32."""

    proof: bytes


class Verified(Record, frozen=True, kw_only=True, tag="verified"):
    """The verdict about a proof."""

    ok: bool


class Planned(Record, frozen=True, kw_only=True, tag="planned"):
    """A plan, canonical bytes of `Plan` or of `Refusal`, and the digest of the snapshot it was made from."""

    snapshot: Digest
    plan: bytes


class Dialled(Record, frozen=True, kw_only=True, tag="dialled"):
    """The connection or the worker is there; `LinkUp` with this link came before or comes next."""

    link: LinkId


class TokenOut(Record, frozen=True, kw_only=True):
    """One job's part of a decode step. last: why no more follows, "" when more may."""

    job: JobId
    content: PayloadRef | None = None
    last: Literal["", "stop", "length", "failed"] = ""
    refusal: Reason | None = None


class Computed(Record, frozen=True, kw_only=True, tag="computed"):
    """What the engine gave: an answer (request), a prompt's token count (prompt), tokens (decode); or its refusal."""

    content: PayloadRef | None = None
    prompt_count: int = 0
    tokens: tuple[TokenOut, ...] = ()
    refusal: Reason | None = None


Result: TypeAlias = Signed | Verified | Planned | Dialled | Computed


# ---- inputs


class Durable(Record, frozen=True, kw_only=True):
    """One record that was persisted: the last value under key."""

    key: str
    value: bytes


class Boot(Record, frozen=True, kw_only=True, tag="boot"):
    """First, and once. core: digest of the core's sources; epoch: grows with each boot of this node; seed: 32 bytes,
    from which every draw of this boot is derived by what it is about. backends, models: what this process itself holds,
    which is a worker's; a node learns them from its workers."""

    core: Digest
    config: NodeConfig
    epoch: int
    seed: bytes
    durable: tuple[Durable, ...] = ()
    backends: tuple[BackendDescriptor, ...] = ()
    models: tuple[ModelOffer, ...] = ()


class LinkUp(Record, frozen=True, kw_only=True, tag="link_up"):
    """A connection stands. ticket: of the dial or worker start that made it, 0 when the other side dialled."""

    link: LinkId
    lane: Lane
    facts: LinkFacts
    ticket: Ticket = Ticket(0)


class LinkDown(Record, frozen=True, kw_only=True, tag="link_down"):
    """The connection is gone."""

    link: LinkId
    reason: str


class FrameArrived(Record, frozen=True, kw_only=True, tag="frame"):
    """A whole frame with sound checksums; record undecoded, content in the driver's hands."""

    link: LinkId
    channel: int
    kind: int
    flags: int
    stream: int
    sequence: int
    record: bytes
    content: PayloadRef | None = None


class ChunkArrived(Record, frozen=True, kw_only=True, tag="chunk"):
    """A frame on tensor or cache, and the driver's verdict about its chunk by `Assembler.accept`. reason: of a verdict
    that is neither accepted nor duplicate."""

    link: LinkId
    channel: int
    stream: int
    sequence: int
    index: int
    length: int
    verdict: Literal["accepted", "duplicate", "corrupt", "unexpected", "refused"]
    reason: Reason | None = None


class FrameRefused(Record, frozen=True, kw_only=True, tag="frame_refused"):
    """The decoder refused the link's bytes; nothing more can be read from it."""

    link: LinkId
    reason: Reason


class PayloadReady(Record, frozen=True, kw_only=True, tag="payload_ready"):
    """All chunks of an expected payload are there, and the whole has the envelope's digest."""

    content: PayloadRef


class PayloadCorrupt(Record, frozen=True, kw_only=True, tag="payload_corrupt"):
    """All chunks were there and the whole has another digest; the driver forgot them all."""

    handle: Handle
    reason: Reason


class TimerFired(Record, frozen=True, kw_only=True, tag="timer"):
    """The instant of `wake_at` has come."""


class Persisted(Record, frozen=True, kw_only=True, tag="persisted"):
    """The record of ticket survives a crash."""

    ticket: Ticket


class PersistFailed(Record, frozen=True, kw_only=True, tag="persist_failed"):
    """It does not."""

    ticket: Ticket
    reason: str


class CallDone(Record, frozen=True, kw_only=True, tag="call_done"):
    """A call's result."""

    ticket: Ticket
    result: Result


class CallFailed(Record, frozen=True, kw_only=True, tag="call_failed"):
    """A call could not be done."""

    ticket: Ticket
    reason: Reason


class WallClock(Record, frozen=True, kw_only=True, tag="wall_clock"):
    """UTC now, give or take error_ns. Decides expiry only; told at boot and whenever the driver's clock is set."""

    utc_ns: int
    error_ns: int


class Measured(Record, frozen=True, kw_only=True, tag="measured"):
    """One number about this host or a link that the core may weigh: `link_bytes_per_s` of `3` …"""

    name: str
    subject: str
    value: int


Input: TypeAlias = (
    Boot
    | LinkUp
    | LinkDown
    | FrameArrived
    | ChunkArrived
    | FrameRefused
    | PayloadReady
    | PayloadCorrupt
    | TimerFired
    | Persisted
    | PersistFailed
    | CallDone
    | CallFailed
    | WallClock
    | Measured
    | SubmitCommand
    | CancelCommand
    | TakenCommand
    | SendCommand
    | DrainCommand
)


# ---- effects


class Persist(Record, frozen=True, kw_only=True):
    """Write value under key. sync: answer `Persisted` once it survives a crash; lazy: when convenient, no answer.
    An empty value lets the key go."""

    ticket: Ticket
    sync: bool
    key: str
    value: bytes


class Expect(Record, frozen=True, kw_only=True, tag="expect"):
    """Chunks of stream on link belong to this envelope: take memory, judge each, say when whole. The same handle on
    another link goes on with what it holds (resume). An envelope of no chunks is whole at once."""

    handle: Handle
    link: LinkId
    stream: TransferId
    envelope: TensorEnvelope


class Release(Record, frozen=True, kw_only=True, tag="release"):
    """Nobody needs this payload any more, once what this step sends is sent."""

    handle: Handle


PayloadOp: TypeAlias = Expect | Release


class Send(Record, frozen=True, kw_only=True, tag="frame"):
    """Put a frame on link: record as it is, then content when there is any."""

    link: LinkId
    channel: int
    kind: int
    stream: int
    sequence: int
    record: bytes
    flags: int = 0
    content: PayloadRef | None = None


class SendChunk(Record, frozen=True, kw_only=True, tag="chunk"):
    """Put chunk index of the payload behind handle on link: the driver cuts it by envelope, and checksums it."""

    link: LinkId
    channel: int
    stream: int
    sequence: int
    handle: Handle
    envelope: TensorEnvelope
    index: int


Sending: TypeAlias = Send | SendChunk


class Close(Record, frozen=True, kw_only=True):
    """Close link after what was sent on it."""

    link: LinkId
    reason: str


class Sign(Record, frozen=True, kw_only=True, tag="sign"):
    """Prove message by a key of the host: a signature in mode ed25519, HMAC-SHA-256 in mode token."""

    ticket: Ticket
    mode: AuthMode
    key: KeyId
    message: bytes


class Verify(Record, frozen=True, kw_only=True, tag="verify"):
    """Is proof a proof of message by key? public: of Ed25519; empty for a token, which the host knows by key."""

    ticket: Ticket
    mode: AuthMode
    key: KeyId
    public: bytes
    message: bytes
    proof: bytes


class PlanCall(Record, frozen=True, kw_only=True, tag="plan"):
    """Run `plan.planner.plan` on snapshot (canonical bytes), off the loop."""

    ticket: Ticket
    snapshot: bytes


class Dial(Record, frozen=True, kw_only=True, tag="dial"):
    """Open a connection. certificate: fingerprint that the server must show, "" when the CA decides."""

    ticket: Ticket
    address: str
    lane: Lane
    certificate: str = ""


class StartWorker(Record, frozen=True, kw_only=True, tag="start_worker"):
    """Start the worker of this name in the configuration; its socket comes up as a local link."""

    ticket: Ticket
    name: str


class KillWorker(Record, frozen=True, kw_only=True, tag="kill_worker"):
    """End the worker behind link, whatever it does. Not answered: its link goes down."""

    ticket: Ticket
    link: LinkId


class Compute(Record, frozen=True, kw_only=True, tag="compute"):
    """A worker's engine, one at a time. op `request`: answer content (a `Call`'s); `prompt`: open and prefill job with
    content as assign says; `decode`: one step for jobs, one batch; `close`: free jobs."""

    ticket: Ticket
    op: Literal["request", "prompt", "decode", "close"]
    jobs: tuple[JobId, ...] = ()
    assign: Assign | None = None
    content: PayloadRef | None = None


class Interrupt(Record, frozen=True, kw_only=True, tag="interrupt"):
    """Stop the compute of this ticket at the next chunk. Not answered by itself: the compute still is."""

    ticket: Ticket


Call: TypeAlias = Sign | Verify | PlanCall | Dial | StartWorker | KillWorker | Compute | Interrupt


class Effects(Record, frozen=True, kw_only=True):
    """What one step wants done, in this order. wake_at: when to be called again at the latest; None for never."""

    persist: tuple[Persist, ...] = ()
    payloads: tuple[PayloadOp, ...] = ()
    send: tuple[Sending, ...] = ()
    close: tuple[Close, ...] = ()
    calls: tuple[Call, ...] = ()
    events: tuple[Event, ...] = ()
    wake_at: Instant | None = None
