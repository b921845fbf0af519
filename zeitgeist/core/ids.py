"""Names that cross functions in the core. A bare str or int does not (STYLE: Values)."""

from typing import NewType

__all__ = [
    "CheckId",
    "Digest",
    "ErrorId",
    "Handle",
    "JobId",
    "KeyId",
    "LinkId",
    "NodeId",
    "Real",
    "SessionId",
    "Ticket",
    "TokenId",
    "TransferId",
]

Digest = NewType("Digest", str)
"""`"sha256:<64 hex>"` for records, `"blake3:<64 hex>"` for content. The prefix is part of the value."""

ErrorId = NewType("ErrorId", str)
"""`zg/<area>/<kebab>`: listed in `core/errors.py`, never reused (A10)."""

CheckId = NewType("CheckId", str)
"""`<family>-<kebab>`, for instance `V-round-trip`."""

TokenId = NewType("TokenId", int)

Real = NewType("Real", str)
"""A real number as text: the shortest decimal that reads back as the same float32, printed as Python prints a float.

Digested records hold no floats (DESIGN §3): two encoders may print one float in two ways, a text has one form."""

NodeId = NewType("NodeId", str)
"""Who a party is, over restarts: 1 to 64 of `a-z 0-9 . _ -`. With signed identity the trust bundle ties it to keys."""

KeyId = NewType("KeyId", str)
"""The fingerprint of a key: `blake3:` of the raw public key; for a shared token, of its MAC over a domain."""

SessionId = NewType("SessionId", str)
"""32 hex digits: the start of the digest of the handshake's transcript, so both sides compute the same."""

JobId = NewType("JobId", str)
"""Chosen by who submits; also the idempotency key. 1 to 64 of `a-z 0-9 . _ -`."""

LinkId = NewType("LinkId", int)
"""One connection of this node, numbered by its driver from 1, never reused within a boot."""

Ticket = NewType("Ticket", int)
"""A call or a persist of this node, numbered by the core from 1; its answer carries it."""

Handle = NewType("Handle", int)
"""A payload in the driver's hands. Even ones are named by the core (`Expect`), odd ones by the driver."""

TransferId = NewType("TransferId", int)
"""One bulk transfer of a session, numbered by the side that offers: dialler odd, acceptor even. It is the stream of
its frames."""
