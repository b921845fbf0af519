"""Who may do what: trust levels, keys with their windows, and the bundle that lists them (H1–H3).

Law: a bundle holds public keys only; private keys and tokens never leave the host (DESIGN §1). Times are wall clock,
UTC nanoseconds, and decide expiry, nothing else.
"""

from typing import Literal

from zeitgeist.core.formats.canonical import Record
from zeitgeist.core.ids import KeyId, NodeId

__all__ = ["AUTH_MODES", "TRUST_LEVELS", "AuthConfig", "AuthMode", "Member", "MemberKey", "TrustBundle", "TrustLevel"]

AuthMode = Literal["none", "token", "ed25519", "mtls"]
AUTH_MODES: tuple[AuthMode, ...] = ("mtls", "ed25519", "token", "none")
"""Strongest first. `none` is for links that the kernel or the process itself vouches for: local workers, loopback."""

TrustLevel = Literal[
    "trusted_executor", "trusted_cache_peer", "trusted_tensor_peer", "api_only_peer", "untrusted_client"
]
TRUST_LEVELS: tuple[TrustLevel, ...] = (
    "trusted_executor",
    "trusted_cache_peer",
    "trusted_tensor_peer",
    "api_only_peer",
    "untrusted_client",
)
"""Roles, not a ladder: a peer holds any number of them, each is checked on every message (H2)."""


class MemberKey(Record, frozen=True, kw_only=True):
    """One key and its window. Two keys of one member whose windows overlap are a rotation under way (H3).

    public: the raw 32 bytes of Ed25519, empty for a token, whose KeyId is all that may be known of it.
    """

    key: KeyId
    public: bytes = b""
    from_utc_ns: int
    until_utc_ns: int


class Member(Record, frozen=True, kw_only=True):
    """One party: its keys and what it is trusted with. subject: the certificate's subject for mTLS, "" for none."""

    node: NodeId
    keys: tuple[MemberKey, ...]
    trust: tuple[TrustLevel, ...]
    subject: str = ""


class TrustBundle(Record, frozen=True, kw_only=True):
    """The members that a node believes in. bundle_version grows with each change; a node refuses by an expired one."""

    bundle_version: int
    cluster: str
    issued_utc_ns: int
    expires_utc_ns: int
    members: tuple[Member, ...]


class AuthConfig(Record, frozen=True, kw_only=True):
    """How this node proves itself and what it accepts.

    modes: accepted, in order of preference. key, public: own Ed25519 key. tokens: shared tokens known to the host, by
    fingerprint, newest last; token_trust: what a holder of one is trusted with; local_trust: the same for `none`.
    """

    modes: tuple[AuthMode, ...]
    key: KeyId = KeyId("")
    public: bytes = b""
    tokens: tuple[MemberKey, ...] = ()
    token_trust: tuple[TrustLevel, ...] = ()
    local_trust: tuple[TrustLevel, ...] = ()
