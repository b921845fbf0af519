"""The one table of what may be said: number → record, channel, machine that hears it, when, by whom (H2, DESIGN §3).

Law: parse and permission stand in one row. A kind that is not here is refused by number; a kind on another channel, in
a session state that does not allow it, or from a peer without one of its trust levels is refused before it is decoded.
Content beside a record is allowed only where the row says so. Numbers are never reused.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from zeitgeist.core.descriptors.trust import TrustLevel
from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.wire import messages as m
from zeitgeist.core.wire.frame import Channel

__all__ = ["CHUNK_KIND", "KINDS", "REGISTRY", "Machine", "Row", "SessionState"]

Machine = Literal["session", "transfer", "job", "call"]
SessionState = Literal[
    "greeting",
    "challenged",
    "proving",
    "describing",
    "modelling",
    "assessing",
    "finalizing",
    "ready",
    "draining",
    "closed",
]
"""Where a link stands; `session/states.py` says each in a sentence and holds the transitions."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One kind. states: of the link, empty for any open one; trust: any one of these is enough, empty for anyone
    (handshake records come before trust is known); content: bytes may follow the record."""

    kind: int
    record: type[Record]
    channels: tuple[Channel, ...]
    machine: Machine
    states: tuple[SessionState, ...]
    trust: tuple[TrustLevel, ...]
    content: bool = False


LIVE: tuple[SessionState, ...] = ("ready", "draining")
READY: tuple[SessionState, ...] = ("ready",)
EXECUTOR: tuple[TrustLevel, ...] = ("trusted_executor",)
CLIENT: tuple[TrustLevel, ...] = ("trusted_executor", "api_only_peer", "untrusted_client")
BULK: tuple[TrustLevel, ...] = ("trusted_executor", "trusted_cache_peer", "trusted_tensor_peer")
CONTROL = (Channel.CONTROL,)
CAPABILITY = (Channel.CAPABILITY,)
JOB = (Channel.JOB,)


def row(
    kind: int,
    record: type[Record],
    channels: tuple[Channel, ...],
    machine: Machine,
    states: tuple[SessionState, ...] = (),
    trust: tuple[TrustLevel, ...] = (),
    content: bool = False,
) -> Row:
    return Row(
        kind=kind, record=record, channels=channels, machine=machine, states=states, trust=trust, content=content
    )


ROWS = (
    # Phase 1 and the life of a link. A dialler waits in greeting, then proving; an acceptor in greeting, challenged.
    row(0x0001, m.Hello, CONTROL, "session", ("greeting",)),
    row(0x0002, m.Challenge, CONTROL, "session", ("greeting",)),
    row(0x0003, m.Proof, CONTROL, "session", ("challenged",)),
    row(0x0004, m.Welcome, CONTROL, "session", ("proving",)),
    row(0x0005, m.Refused, CONTROL, "session"),
    row(0x0006, m.Goodbye, CONTROL, "session", LIVE),
    row(0x0007, m.Ping, CONTROL, "session", LIVE),
    row(0x0008, m.Pong, CONTROL, "session", LIVE),
    # Phases 2 to 5.
    row(0x0010, m.Capabilities, CAPABILITY, "session", ("describing",)),
    row(0x0011, m.Models, CAPABILITY, "session", ("modelling",)),
    row(0x0012, m.Assessment, CAPABILITY, "session", ("assessing",)),
    row(0x0013, m.PlanProposal, CAPABILITY, "session", ("finalizing",)),
    row(0x0014, m.PlanAgreed, CAPABILITY, "session", ("finalizing",)),
    # Transfers. The chunk alone travels on a bulk connection.
    row(0x0020, m.Offer, CONTROL, "transfer", READY, BULK),
    row(0x0021, m.Accept, CONTROL, "transfer", LIVE, BULK),
    row(0x0022, m.Declined, CONTROL, "transfer", LIVE, BULK),
    row(0x0023, m.Credit, CONTROL, "transfer", LIVE, BULK),
    row(0x0024, m.Resend, CONTROL, "transfer", LIVE, BULK),
    row(0x0025, m.Received, CONTROL, "transfer", LIVE, BULK),
    row(0x0026, m.Withdraw, CONTROL, "transfer", LIVE, BULK),
    row(0x002F, m.ChunkHead, (Channel.TENSOR, Channel.CACHE), "transfer", LIVE, BULK, content=True),
    # Jobs: clients speak to owners, owners to executors and back.
    row(0x0030, m.Submit, JOB, "job", READY, CLIENT, content=True),
    row(0x0031, m.Admitted, JOB, "job", LIVE, EXECUTOR),
    row(0x0032, m.Rejected, JOB, "job", LIVE, EXECUTOR),
    row(0x0033, m.Assign, JOB, "job", READY, EXECUTOR, content=True),
    row(0x0034, m.Acknowledged, JOB, "job", LIVE, EXECUTOR),
    row(0x0035, m.Token, JOB, "job", LIVE, EXECUTOR, content=True),
    row(0x0036, m.TokenAck, JOB, "job", LIVE, CLIENT),
    row(0x0037, m.Finished, JOB, "job", LIVE, EXECUTOR),
    row(0x0038, m.CancelJob, JOB, "job", LIVE, CLIENT),
    # A worker's own: never heard on any link but a local one, where the other end was started by us.
    row(0x0101, m.Call, JOB, "call", READY, EXECUTOR, content=True),
    row(0x0102, m.CancelCall, JOB, "call", LIVE, EXECUTOR),
    row(0x0103, m.Reply, JOB, "call", LIVE, EXECUTOR, content=True),
)

REGISTRY: Mapping[int, Row] = {entry.kind: entry for entry in ROWS}
KINDS: Mapping[type[Record], Row] = {entry.record: entry for entry in ROWS}
CHUNK_KIND = KINDS[m.ChunkHead].kind
assert len(REGISTRY) == len(ROWS) == len(KINDS), "a number or a record stands twice"
