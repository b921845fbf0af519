"""Every record that crosses a link, by channel (A7, B1, C1, E4). Numbers, states and permissions are in `registry.py`.

Law: a record names what it is about; prompts, tokens, tensors and caches travel beside it as content, never in it.
Bounds on texts and tuples stand in the types, so that a decoder refuses them before anyone reads them.
"""

from typing import Annotated, Literal

from msgspec import Meta

from zeitgeist.core.descriptors.cache import Extension
from zeitgeist.core.descriptors.link import Lane
from zeitgeist.core.descriptors.node import ModelOffer, NodeDescriptor, SchemaVersions
from zeitgeist.core.descriptors.plan import Plan
from zeitgeist.core.descriptors.sampling import SamplingParams
from zeitgeist.core.descriptors.trust import AuthMode
from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.formats.tensor import TensorEnvelope
from zeitgeist.core.wire.chunks import ChunkHead

__all__ = [
    "Accept",
    "Acknowledged",
    "Admitted",
    "Assessment",
    "Assign",
    "Call",
    "CancelCall",
    "CancelJob",
    "Capabilities",
    "Challenge",
    "ChunkHead",
    "Conversion",
    "Credit",
    "Declined",
    "Finished",
    "Goodbye",
    "Hello",
    "Models",
    "Offer",
    "Outcome",
    "Phase",
    "Ping",
    "PlanAgreed",
    "PlanProposal",
    "Pong",
    "Proof",
    "Reason",
    "Received",
    "Refused",
    "Rejected",
    "Reply",
    "Resend",
    "Submit",
    "Token",
    "TokenAck",
    "Welcome",
    "Withdraw",
]

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$(?!\n)"
"""`$` alone would let a line end follow the name."""
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=NAME_PATTERN)]
Text = Annotated[str, Meta(max_length=1000)]
Short = Annotated[str, Meta(max_length=200)]
Counter = Annotated[int, Meta(ge=0)]
Duration = Annotated[int, Meta(ge=0, le=1 << 62)]
"""Nanoseconds, up to 146 years: an instant so far away still has 64 bits."""
Nonce = Annotated[bytes, Meta(min_length=32, max_length=32)]
ProofBytes = Annotated[bytes, Meta(max_length=64)]
DigestText = Annotated[str, Meta(max_length=80)]
Extensions = Annotated[dict[str, Extension], Meta(max_length=16)]

Phase = Literal["handshake", "runtime", "model", "execution", "plan"]
Outcome = Literal["compatible", "with_conversion", "api_only", "solo_only", "incompatible"]
"""B2, best first: fully compatible, compatible with conversion, API-only peer, solo serving only, incompatible."""


class Reason(Record, frozen=True, kw_only=True):
    """Why not: an id of the registry, what was got and wanted, the field (A10, B2)."""

    id: Short
    detail: Text
    field: Short = ""


class Conversion(Record, frozen=True, kw_only=True):
    """One conversion that working together would need. what: `cache k f16 to f32` …; exact: no number changes;
    cost: bytes read and written for each byte carried, rounded up."""

    what: Short
    exact: bool
    cost: Counter


# ---- control: the handshake (phase 1) and the life of a link


class Hello(Record, frozen=True, kw_only=True):
    """The dialler's first word. link: 16 bytes it chose, so that two links never share a transcript; (epoch, counter)
    grows with each hello of a node and is refused when it does not (H3). session: the one that a bulk link joins."""

    node: Name
    cluster: Annotated[str, Meta(max_length=64)]
    epoch: Counter
    counter: Counter
    lane: Lane
    session: Annotated[str, Meta(max_length=32)] = ""
    versions: SchemaVersions
    link: Annotated[bytes, Meta(min_length=16, max_length=16)]
    nonce: Nonce
    modes: Annotated[tuple[AuthMode, ...], Meta(max_length=8)]
    key: DigestText = ""
    token: DigestText = ""
    bundle_version: Counter = 0
    bundle: DigestText = ""
    transports: Annotated[tuple[Short, ...], Meta(max_length=16)] = ()
    compression: Annotated[tuple[Short, ...], Meta(max_length=8)] = ("none",)
    framing: Counter = 1
    extensions: Extensions = {}  # noqa: RUF012 - msgspec copies an empty default


class Challenge(Record, frozen=True, kw_only=True):
    """The acceptor's answer: the mode it chose and its own nonce. key: the key it will prove by."""

    node: Name
    cluster: Annotated[str, Meta(max_length=64)]
    epoch: Counter
    versions: SchemaVersions
    nonce: Nonce
    mode: AuthMode
    key: DigestText = ""
    token: DigestText = ""
    bundle_version: Counter = 0
    bundle: DigestText = ""
    compression: Short = "none"
    extensions: Extensions = {}  # noqa: RUF012


class Proof(Record, frozen=True, kw_only=True):
    """The dialler's signature or MAC over the transcript; empty in mode none and mtls."""

    proof: ProofBytes


class Welcome(Record, frozen=True, kw_only=True):
    """The acceptor's own proof, after it checked the dialler's. Ends phase 1."""

    proof: ProofBytes
    session: Annotated[str, Meta(min_length=32, max_length=32)]


class Refused(Record, frozen=True, kw_only=True):
    """Phase, outcome and every reason. The link is closed after it."""

    phase: Phase
    reasons: Annotated[tuple[Reason, ...], Meta(min_length=1, max_length=64)]


class Goodbye(Record, frozen=True, kw_only=True):
    """The sender drains: it starts nothing new and closes once its streams have ended."""

    reason: Short


class Ping(Record, frozen=True, kw_only=True):
    """Answered by a pong of the same number."""

    number: Counter


class Pong(Record, frozen=True, kw_only=True):
    """Answer to a ping."""

    number: Counter


# ---- capability: phases 2 to 5; the dialler speaks first in each, the acceptor answers in kind


class Capabilities(Record, frozen=True, kw_only=True):
    """Phase 2."""

    descriptor: NodeDescriptor
    extensions: Extensions = {}  # noqa: RUF012


class Models(Record, frozen=True, kw_only=True):
    """Phase 3: every model that the speaker holds ready."""

    models: Annotated[tuple[ModelOffer, ...], Meta(max_length=256)]


class Assessment(Record, frozen=True, kw_only=True):
    """Phase 4: what the speaker concludes. Both sides compute it from the same four records; a difference is refused.

    agreement: digest of the record that `negotiate` gave.
    """

    outcome: Outcome
    agreement: DigestText
    reasons: Annotated[tuple[Reason, ...], Meta(max_length=64)] = ()
    conversions: Annotated[tuple[Conversion, ...], Meta(max_length=64)] = ()


class PlanProposal(Record, frozen=True, kw_only=True):
    """Phase 5: how the dialler would use the session. agreement: the one it stands on."""

    agreement: DigestText
    plan: Plan


class PlanAgreed(Record, frozen=True, kw_only=True):
    """The digest of the plan that both keep to. Ends negotiation."""

    plan: DigestText


# ---- transfer control (control channel); chunks themselves go on tensor and cache, on the bulk connection


class Offer(Record, frozen=True, kw_only=True):
    """A tensor is ready to be sent as transfer. purpose: what it is for, in the sender's words. resumes: the number of
    the same tensor's earlier offer, when a lost link interrupted it; 0 for none."""

    transfer: Counter
    channel: Literal["tensor", "cache"]
    envelope: TensorEnvelope
    purpose: Short = ""
    resumes: Counter = 0


class Accept(Record, frozen=True, kw_only=True):
    """Send it. credit: chunks that may be in flight; have: (first, count) ranges already held and verified (resume)."""

    transfer: Counter
    credit: Annotated[int, Meta(ge=1, le=1024)]
    have: Annotated[tuple[tuple[int, int], ...], Meta(max_length=4096)] = ()


class Declined(Record, frozen=True, kw_only=True):
    """Not this one, and why."""

    transfer: Counter
    reasons: Annotated[tuple[Reason, ...], Meta(min_length=1, max_length=16)]


class Credit(Record, frozen=True, kw_only=True):
    """count more chunks may be sent."""

    transfer: Counter
    count: Annotated[int, Meta(ge=1, le=1024)]


class Resend(Record, frozen=True, kw_only=True):
    """These chunks came damaged or not at all; each is also a credit."""

    transfer: Counter
    indices: Annotated[tuple[int, ...], Meta(min_length=1, max_length=1024)]


class Received(Record, frozen=True, kw_only=True):
    """All chunks came and the whole has the envelope's digest. Ends the transfer."""

    transfer: Counter


class Withdraw(Record, frozen=True, kw_only=True):
    """Either side gives the transfer up."""

    transfer: Counter
    reason: Reason


# ---- job: content beside the record is the prompt (Submit, Assign) or the token (Token)


class Submit(Record, frozen=True, kw_only=True):
    """A client asks its node for a completion. Content: the prompt, UTF-8 text or little-endian int32 ids.

    model: a name or a model digest; deadline_ns: from admission, 0 for none; job is also the idempotency key.
    """

    job: Name
    model: Short
    prompt: Literal["text", "ids"]
    token_count_max: Annotated[int, Meta(ge=1, le=1 << 24)]
    params: SamplingParams = SamplingParams()
    stop_ids: Annotated[tuple[int, ...], Meta(max_length=64)] = ()
    deadline_ns: Duration = 0


class Admitted(Record, frozen=True, kw_only=True):
    """The owner took the job: its fence is (owner, owner_epoch, job, attempt)."""

    job: Name
    owner: Name
    owner_epoch: Counter


class Rejected(Record, frozen=True, kw_only=True):
    """The owner or the executor did not take the job; it surely did not start."""

    job: Name
    attempt: Counter = 0
    reasons: Annotated[tuple[Reason, ...], Meta(min_length=1, max_length=64)]
    retry_after_ns: Duration = 0


class Assign(Record, frozen=True, kw_only=True):
    """The owner gives one attempt of a job to an executor. plan: digest; window: tokens ahead of the owner's ack."""

    job: Name
    owner: Name
    owner_epoch: Counter
    attempt: Annotated[int, Meta(ge=1)]
    plan: DigestText
    model: DigestText
    prompt: Literal["text", "ids"]
    token_count_max: Annotated[int, Meta(ge=1, le=1 << 24)]
    params: SamplingParams = SamplingParams()
    stop_ids: Annotated[tuple[int, ...], Meta(max_length=64)] = ()
    window: Annotated[int, Meta(ge=1, le=4096)]
    deadline_ns: Duration = 0


class Acknowledged(Record, frozen=True, kw_only=True):
    """The executor took the attempt."""

    job: Name
    attempt: Annotated[int, Meta(ge=1)]


class Token(Record, frozen=True, kw_only=True):
    """Token index of an attempt. Content: id, bytes and log probability, which the core never reads."""

    job: Name
    attempt: Annotated[int, Meta(ge=1)]
    index: Counter


class TokenAck(Record, frozen=True, kw_only=True):
    """Every index below next has been taken; the sender may run a window past it."""

    job: Name
    attempt: Annotated[int, Meta(ge=1)]
    next: Counter


class Finished(Record, frozen=True, kw_only=True):
    """The last word of an attempt. token_count: tokens sent; a gap against it is a fault."""

    job: Name
    attempt: Annotated[int, Meta(ge=1)]
    outcome: Literal["stop", "length", "cancelled", "failed"]
    token_count: Counter
    reason: Reason | None = None


class CancelJob(Record, frozen=True, kw_only=True):
    """Stop the job; answered by Finished. attempt 0: whichever runs."""

    job: Name
    attempt: Counter = 0


# ---- local: a node or a suite and its worker; content is the request or the answer (`host/messages.py`)


class Call(Record, frozen=True, kw_only=True):
    """One request to the engine. Numbers grow from 1. Content: the request and its small arrays."""

    number: Annotated[int, Meta(ge=1)]


class CancelCall(Record, frozen=True, kw_only=True):
    """Stop call number at the next chunk. Has no reply of its own."""

    number: Annotated[int, Meta(ge=1)]


class Reply(Record, frozen=True, kw_only=True):
    """The answer of a call, or its refusal. Content: the value."""

    number: Annotated[int, Meta(ge=1)]
    refusal: Reason | None = None
