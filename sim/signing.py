"""Proofs in a simulated world: a MAC keyed by the name of the key (DESIGN §8, H1).

Law: a proof verifies exactly when it was made by who holds that key, over those bytes. So a forged, moved or replayed
proof fails as it would outside; nothing here is cryptography, and no real key ever comes near a simulation.
"""

import blake3

from zeitgeist.core.descriptors.node import NodeConfig
from zeitgeist.core.effects import Sign, Signed, Verified, Verify
from zeitgeist.core.formats.digest import content_digest
from zeitgeist.core.ids import KeyId
from zeitgeist.core.wire.messages import Reason

__all__ = ["Keyring", "key_of", "public_of"]

PROOF_BYTES = {"ed25519": 64, "token": 32}


def public_of(name: str) -> bytes:
    """The 32 bytes that stand for the public key of the simulated key called name."""
    return blake3.blake3(b"zg-sim public key\x00" + name.encode()).digest()


def key_of(name: str) -> KeyId:
    """Its fingerprint."""
    return KeyId(content_digest(public_of(name)))


def proof_of(mode: str, key: str, message: bytes) -> bytes:
    """The one proof of message by key."""
    secret = blake3.blake3(b"zg-sim secret key\x00" + key.encode()).digest()
    return blake3.blake3(message, key=secret).digest(length=PROOF_BYTES.get(mode, 32))


class Keyring:
    """The keys that one party can use: its own, and the tokens it was told."""

    def __init__(self, config: NodeConfig) -> None:
        self.held = {config.auth.key, *(token.key for token in config.auth.tokens)}

    def sign(self, call: Sign) -> Signed | Reason:
        """The proof, or that this party does not hold the key."""
        if not call.key or call.key not in self.held:
            return Reason(id="zg/host/no-such-key", detail=f"no key {call.key} here", field="key")
        return Signed(proof=proof_of(call.mode, call.key, call.message))

    def verify(self, call: Verify) -> Verified:
        """Whether proof is the one of message by key: of Ed25519 by the public key given, of a token by one we know."""
        if call.mode == "ed25519":
            key = content_digest(call.public)
        elif call.key in self.held:
            key = call.key
        else:
            return Verified(ok=False)
        return Verified(ok=call.proof == proof_of(call.mode, key, call.message))
