"""The states of a transfer on both sides, and the one table of its moves (E4, C1). `docs/spec/transfers.md` draws it.

Law: a move that is not in `TRANSITIONS` does not happen: `next_state` refuses it by state, event and who. A state that
has no row of its own is final. This file knows no link, no payload and no time.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError
from zeitgeist.core.units import Nanoseconds

__all__ = [
    "CREDIT_UNSPENT_MAX",
    "DELIVERED_MAX",
    "EVENTS",
    "INCOMING_BYTES_FACTOR",
    "INCOMING_MAX",
    "LINK_WINDOW",
    "OFFERED_MAX",
    "OUTGOING_MAX",
    "REPEATED_MAX",
    "REPEAT_FACTOR",
    "RESUME_NS",
    "STALL_NS",
    "STATES",
    "TRANSITIONS",
    "EventName",
    "ReceiverState",
    "SenderState",
    "State",
    "is_final",
    "next_state",
]

STALL_NS: Final = Nanoseconds(10_000_000_000)
"""Silence of the whole bulk link after which a receiver asks again for what is missing; doubled at each repetition. A
chunk of 1 MiB takes 8.4 s at 1 Mbit/s, so that a slow link is not taken for a lossy one."""
RESUME_NS: Final = Nanoseconds(60_000_000_000)
"""How long either side waits for the other, or for a link, before it gives a transfer up: six re-dials at the longest
back-off, and BLAKE3 over the largest tensor (64 GiB at 3 GiB/s, 21 s)."""
OFFERED_MAX: Final = 16
"""Transfers of one session that a sender has under way; further ones queue."""
INCOMING_MAX: Final = 64
"""Transfers that a receiver has under way from all peers, interrupted ones among them."""
INCOMING_BYTES_FACTOR: Final = 4
"""Bytes promised to all that is under way are at most so many times the largest tensor taken."""
DELIVERED_MAX: Final = 1024
"""Received tensors that are remembered for `RESUME_NS`, so that a repeated offer does not deliver them again."""
OUTGOING_MAX: Final = 1024
"""Transfers that an application may have asked for and that have not ended."""
LINK_WINDOW: Final = 64
"""Chunks of all transfers in flight on one bulk link. Below it each takes its turn; a receiver that grants one transfer
1,024 chunks does not make the others wait for a gigabyte. At 1 MiB it covers 10 Gbit/s over 50 ms."""
REPEAT_FACTOR: Final = 8
REPEATED_MAX: Final = 1024
"""A transfer that carries more than 8 chunks for each one of the tensor, and 1,024 more, is given up: with every second
chunk damaged it takes 2. So a peer cannot make us send or receive for ever."""
CREDIT_UNSPENT_MAX: Final = 16 * 1024
"""Credit that a sender keeps: sixteen times the most that one message grants. More is nonsense."""

SenderState = Literal["queued", "offered", "sending", "sent", "suspended", "done", "declined", "withdrawn"]
ReceiverState = Literal["waiting", "receiving", "checking", "interrupted", "received", "abandoned"]
State: TypeAlias = SenderState | ReceiverState

EventName = Literal[
    "offer",
    "accept",
    "decline",
    "credit",
    "resend",
    "sent_all",
    "received",
    "bulk_up",
    "chunk",
    "all_chunks",
    "payload_ready",
    "payload_corrupt",
    "link_lost",
    "withdraw",
    "give_up",
]

STATES: Final[Mapping[State, str]] = {
    "queued": "The sender has the content, and no bulk link or no place among the offered ones.",
    "offered": "The sender has offered and waits for the answer.",
    "sending": "The sender has chunks left to send, credit permitting.",
    "sent": "The sender has sent every chunk and waits to hear that the whole is sound, or what to send again.",
    "suspended": "The sender has lost a link of the session and waits for another, to offer what is missing.",
    "done": "The receiver said that it has the whole; the content is released.",
    "declined": "The receiver said no; the content is released.",
    "withdrawn": "The sender's side of a transfer that was given up by either side.",
    "waiting": "The receiver wants the tensor and has no bulk link to receive it on.",
    "receiving": "The receiver has told its driver to expect the chunks, and granted credit.",
    "checking": "The receiver has every chunk; its driver digests the whole.",
    "interrupted": "The receiver has lost a link of the session and keeps what it has for a while.",
    "received": "The whole is sound and belongs to the application.",
    "abandoned": "The receiver's side of a transfer that was given up by either side; the memory is freed.",
}
"""Sender's states first, then the receiver's."""

EVENTS: Final[Mapping[EventName, str]] = {
    "offer": "`Offer`: sent, or heard again under another number",
    "accept": "`Accept` heard",
    "decline": "`Declined` heard",
    "credit": "`Credit` heard",
    "resend": "`Resend` heard",
    "sent_all": "the last chunk that was owed is sent",
    "received": "`Received` heard",
    "bulk_up": "a bulk link is there; the driver expects the chunks on it",
    "chunk": "a chunk of the transfer arrived",
    "all_chunks": "no chunk is missing any more",
    "payload_ready": "the driver found the whole sound; the receiver sends `Received`",
    "payload_corrupt": "the driver found another digest",
    "link_lost": "the control or the bulk link went down",
    "withdraw": "`Withdraw` heard",
    "give_up": "our own decision: a rule of the peer's broken, a limit, a deadline; `Withdraw` is sent where a link is",
}

TRANSITIONS: Final[Mapping[tuple[State, EventName], State]] = {
    # The sender.
    ("queued", "offer"): "offered",
    ("queued", "give_up"): "withdrawn",
    ("offered", "accept"): "sending",
    ("offered", "decline"): "declined",
    ("offered", "received"): "done",
    ("offered", "link_lost"): "suspended",
    ("offered", "withdraw"): "withdrawn",
    ("offered", "give_up"): "withdrawn",
    ("sending", "credit"): "sending",
    ("sending", "resend"): "sending",
    ("sending", "sent_all"): "sent",
    ("sending", "received"): "done",
    ("sending", "link_lost"): "suspended",
    ("sending", "withdraw"): "withdrawn",
    ("sending", "give_up"): "withdrawn",
    ("sent", "credit"): "sent",
    ("sent", "resend"): "sending",
    ("sent", "received"): "done",
    ("sent", "link_lost"): "suspended",
    ("sent", "withdraw"): "withdrawn",
    ("sent", "give_up"): "withdrawn",
    ("suspended", "offer"): "offered",
    ("suspended", "accept"): "suspended",
    ("suspended", "decline"): "declined",
    ("suspended", "credit"): "suspended",
    ("suspended", "resend"): "suspended",
    ("suspended", "received"): "done",
    ("suspended", "withdraw"): "withdrawn",
    ("suspended", "give_up"): "withdrawn",
    # The receiver. An offer that is declined never has a state here.
    ("waiting", "bulk_up"): "receiving",
    ("waiting", "offer"): "waiting",
    ("waiting", "payload_ready"): "received",
    ("waiting", "payload_corrupt"): "waiting",
    ("waiting", "link_lost"): "interrupted",
    ("waiting", "withdraw"): "abandoned",
    ("waiting", "give_up"): "abandoned",
    ("receiving", "chunk"): "receiving",
    ("receiving", "all_chunks"): "checking",
    ("receiving", "offer"): "waiting",
    ("receiving", "payload_ready"): "received",
    ("receiving", "payload_corrupt"): "receiving",
    ("receiving", "link_lost"): "interrupted",
    ("receiving", "withdraw"): "abandoned",
    ("receiving", "give_up"): "abandoned",
    ("checking", "chunk"): "checking",
    ("checking", "offer"): "waiting",
    ("checking", "payload_ready"): "received",
    ("checking", "payload_corrupt"): "receiving",
    ("checking", "link_lost"): "interrupted",
    ("checking", "withdraw"): "abandoned",
    ("checking", "give_up"): "abandoned",
    ("interrupted", "offer"): "waiting",
    ("interrupted", "bulk_up"): "receiving",
    ("interrupted", "payload_ready"): "received",
    ("interrupted", "payload_corrupt"): "interrupted",
    ("interrupted", "withdraw"): "abandoned",
    ("interrupted", "give_up"): "abandoned",
}
"""What was on its way when a link went still arrives: the peer's answers over the other link, the driver's verdict
about chunks that it had. So `suspended` hears the receiver; `receiving`, `waiting`, `interrupted` hear the driver."""

ALIVE: Final = frozenset(state for state, _ in TRANSITIONS)


def is_final(state: State) -> bool:
    """True when nothing can happen in state any more."""
    return state not in ALIVE


def next_state(state: State, event: EventName, who: str, peer_did: bool) -> State:
    """The state after event. who: `transfer 3, peer n2`; peer_did: a refusal is the peer's fault, else it is ours."""
    after = TRANSITIONS.get((state, event))
    if after is None:
        error = RemoteProtocolError if peer_did else LocalProtocolError
        raise error("zg/transfer/wrong-state", f"{event} is not allowed in {state} ({who})", "state")
    return after
