"""What both sides prove: one transcript of the handshake (H1, DESIGN §3).

Law: a proof covers the prover's role, the exact bytes of Hello and Challenge, and the server's certificate as this
side saw it. Both nonces, the link's id, epoch, counter, lane, session, modes and node names are inside those bytes:
no proof can be moved to another link, role, lane, session or certificate, no word of either record can be changed.
"""

import hashlib
from typing import Literal

from zeitgeist.core.formats.canonical import Record, encode
from zeitgeist.core.ids import SessionId

__all__ = ["Prover", "Transcript", "message", "session_id"]

Prover = Literal["dialler", "acceptor"]

DOMAIN = b"zg-transcript\x00"
"""No other signature of a node starts so; a signature made for something else is no proof here."""

SESSION_CHARACTERS = 32


class Transcript(Record, frozen=True, kw_only=True):
    """prover: whose proof this is; hello, challenge: canonical bytes as they crossed the link; certificate: `sha256:`
    of the server's certificate, "" without TLS."""

    transcript_version: int = 1
    prover: Prover
    hello: bytes
    challenge: bytes
    certificate: str


def message(prover: Prover, hello: bytes, challenge: bytes, certificate: str) -> bytes:
    """The bytes to sign or to MAC."""
    return DOMAIN + encode(Transcript(prover=prover, hello=hello, challenge=challenge, certificate=certificate))


def session_id(hello: bytes, challenge: bytes, certificate: str) -> SessionId:
    """The name of the session: the start of the SHA-256 over what the acceptor proves. Both sides compute it."""
    return SessionId(
        hashlib.sha256(message("acceptor", hello, challenge, certificate)).hexdigest()[:SESSION_CHARACTERS]
    )
