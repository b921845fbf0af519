"""Proofs by the host's keys: Ed25519 signatures and HMAC-SHA-256 (H1). What is signed is the core's decision.

Law: a comparison of secrets takes the same time whatever it finds; an unusable public key or proof is a "no", not an
error.
"""

import hashlib
import hmac

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from zeitgeist.core.effects import Sign, Verify
from zeitgeist.core.errors import LocalProtocolError
from zeitgeist.host.keyring import Keyring

__all__ = ["prove", "verified"]


def prove(keyring: Keyring, call: Sign) -> bytes:
    """64 bytes of signature, or 32 of MAC. Error: `zg/host/no-such-key`."""
    match call.mode:
        case "ed25519":
            return Ed25519PrivateKey.from_private_bytes(keyring.secret("ed25519", call.key)).sign(call.message)
        case "token":
            return hmac.digest(keyring.secret("token", call.key), call.message, hashlib.sha256)
        case "mtls" | "none":
            raise LocalProtocolError("zg/host/no-such-key", f"mode {call.mode} proves by no key", "mode")


def verified(keyring: Keyring, call: Verify) -> bool:
    """Is it a proof? Error: `zg/host/no-such-key` for a token that this host does not hold."""
    match call.mode:
        case "ed25519":
            try:
                Ed25519PublicKey.from_public_bytes(call.public).verify(call.proof, call.message)
            except (InvalidSignature, ValueError):
                return False
            return True
        case "token":
            wanted = hmac.digest(keyring.secret("token", call.key), call.message, hashlib.sha256)
            return hmac.compare_digest(wanted, call.proof)
        case "mtls" | "none":
            return False
