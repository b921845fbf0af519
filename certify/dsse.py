"""DSSE envelopes with Ed25519 (W3): https://github.com/secure-systems-lab/dsse, version 1.

Law: what is signed is PAE(type, payload), never the JSON around it; the key id is SHA-256 of the raw public key.
"""

import base64
import binascii
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from zeitgeist.core.errors import LocalProtocolError, RemoteProtocolError
from zeitgeist.core.formats.canonical import Record

__all__ = [
    "PAYLOAD_TYPE",
    "Envelope",
    "Signature",
    "check_keys_once",
    "default_key_path",
    "key_id",
    "load_private",
    "load_public",
    "open_envelope",
    "public_of",
    "seal",
    "signature_holds",
]

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Signature(Record, frozen=True, kw_only=True):
    """Base64 signature and the id of the key."""

    keyid: str
    sig: str


class Envelope(Record, frozen=True, kw_only=True, rename={"payload_type": "payloadType"}):
    """One DSSE envelope; payload in base64."""

    payload: str
    payload_type: str
    signatures: tuple[Signature, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: lengths make type and payload unambiguous."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def key_id(public: bytes) -> str:
    """`sha256:` of the 32 raw bytes."""
    return "sha256:" + hashlib.sha256(public).hexdigest()


def default_key_path() -> Path:
    """Where the issuer's key lives: XDG_CONFIG_HOME or ~/.config, zeitgeist/keys/certify.pem."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "zeitgeist" / "keys" / "certify.pem"


def bad_key(path: Path, error: Exception) -> LocalProtocolError:
    """The refusal of a key file."""
    return LocalProtocolError("zg/certify/bad-key", f"{path}: {error}", "key")


def load_private(path: Path | None = None) -> bytes:
    """The 32-byte seed in a PKCS#8 PEM file; the default file is made on first use (mode 0600, folder 0700)."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    where = path or default_key_path()
    if path is None and not where.exists():
        make_key(where)
    try:
        key = serialization.load_pem_private_key(where.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise bad_key(where, error) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise bad_key(where, ValueError("not an Ed25519 key"))
    return key.private_bytes_raw()


def make_key(path: Path) -> None:
    """Write a new private key and, beside it, its public half (`.pub`). An existing file is never replaced."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(private)
        path.with_suffix(".pub").write_bytes(public)
    except OSError as error:
        raise bad_key(path, error) from error


def load_public(path: Path) -> bytes:
    """The 32 raw bytes of a public key in PEM (SubjectPublicKeyInfo), or of the public half of a private key file."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        body = path.read_bytes()
        if b"PRIVATE KEY" in body:
            return public_of(load_private(path))
        key = serialization.load_pem_public_key(body)
    except (OSError, ValueError) as error:
        raise bad_key(path, error) from error
    if not isinstance(key, Ed25519PublicKey):
        raise bad_key(path, ValueError("not an Ed25519 key"))
    return key.public_bytes_raw()


def public_of(private: bytes) -> bytes:
    """The public half."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def seal(payload: bytes, private: bytes) -> bytes:
    """The JSON of an envelope with one signature."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    sig = Ed25519PrivateKey.from_private_bytes(private).sign(pae(PAYLOAD_TYPE, payload))
    signature = Signature(keyid=key_id(public_of(private)), sig=base64.b64encode(sig).decode())
    envelope = Envelope(payload=base64.b64encode(payload).decode(), payload_type=PAYLOAD_TYPE, signatures=(signature,))
    return msgspec.json.format(msgspec.json.encode(envelope, order="sorted"), indent=1) + b"\n"


def check_keys_once(data: bytes, field: str) -> None:
    """Refuse JSON with a key twice in one object: readers differ in which of the two they take."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(found)
        if len(made) != len(found):
            twice = next(key for number, (key, _) in enumerate(found) if key in dict(found[:number]))
            raise RemoteProtocolError("zg/certify/tampered", f"key {twice[:80]!r} stands twice in one object", field)
        return made

    try:
        json.loads(data, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("zg/certify/tampered", f"not JSON: {error}", field) from error


def open_envelope(data: bytes) -> tuple[Envelope, bytes]:
    """(envelope, payload) after checks of form, nothing of it trusted yet."""
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RemoteProtocolError("zg/certify/bad-certificate", f"not a DSSE envelope: {error}", "envelope") from error
    check_keys_once(data, "envelope")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise RemoteProtocolError(
            "zg/certify/tampered", f"got {envelope.payload_type[:80]!r}, wanted {PAYLOAD_TYPE!r}", "payloadType"
        )
    if len(envelope.signatures) != 1:
        raise RemoteProtocolError(
            "zg/certify/tampered", f"got {len(envelope.signatures)} signatures, wanted 1", "signatures"
        )
    try:
        return envelope, base64.b64decode(envelope.payload, validate=True)
    except binascii.Error as error:
        raise RemoteProtocolError("zg/certify/tampered", f"not base64: {error}", "payload") from error


def signature_holds(envelope: Envelope, payload: bytes, public: bytes) -> bool:
    """Does the one signature verify under public? The key id is compared by the caller."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        sig = base64.b64decode(envelope.signatures[0].sig, validate=True)
        Ed25519PublicKey.from_public_bytes(public).verify(sig, pae(envelope.payload_type, payload))
    except (InvalidSignature, ValueError):
        return False
    return True
