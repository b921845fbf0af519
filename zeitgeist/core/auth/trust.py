"""From a claim to a member: which key must prove it, whether it is in its window, what its holder may do (H1–H3).

Law: nobody is believed before the proof; this file only says what the proof must be made with. A key outside its
window, an expired bundle, a foreign cluster and an unknown key are refused by name. Expiry is decided by wall clock
within its error bound: refused is what surely lies outside.
"""

import msgspec

from zeitgeist.core.descriptors.link import Lane, LinkFacts
from zeitgeist.core.descriptors.node import NodeConfig
from zeitgeist.core.descriptors.trust import AuthMode, Member, MemberKey, TrustBundle, TrustLevel
from zeitgeist.core.errors import RemoteProtocolError, refuse
from zeitgeist.core.formats.canonical import Record, digest
from zeitgeist.core.ids import KeyId, NodeId
from zeitgeist.core.units import Instant

__all__ = ["CLOCK_ERROR_NS_MAX", "Claim", "Clock", "Identity", "identify", "own_key", "require_clock"]

CLOCK_ERROR_NS_MAX = 3_600_000_000_000
"""One hour: an operator's typo of a time zone is more, an unsynchronised clock after a month is seconds. A clock that
is less sure cannot say that a key is inside its window."""

LOCAL_TRUST: tuple[TrustLevel, ...] = ("trusted_executor",)
"""A worker and the node that started it: one party in two processes."""


class Clock(Record, frozen=True, kw_only=True):
    """Wall time as last told, and when in our own time that was."""

    utc_ns: int
    error_ns: int
    at: Instant

    def interval(self, now: Instant) -> tuple[int, int]:
        """(earliest, latest) UTC that it may be."""
        utc = self.utc_ns + now - self.at
        return utc - self.error_ns, utc + self.error_ns


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What Hello or Challenge says of its sender, and the mode that its proof will be in."""

    node: NodeId
    mode: AuthMode
    key: str
    token: str
    bundle_version: int
    bundle: str


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who it is if the proof holds: the key that must verify it ("" when nothing is signed in-band), and its levels."""

    key: KeyId = KeyId("")
    public: bytes = b""
    trust: tuple[TrustLevel, ...]


def identify(claim: Claim, config: NodeConfig, lane: Lane, facts: LinkFacts, wall: tuple[int, int] | None) -> Identity:
    """The identity that claim must prove; raises the refusal otherwise. wall: (earliest, latest) UTC, None when no
    clock is known."""
    if claim.mode == "none":
        if lane == "local":
            return Identity(trust=LOCAL_TRUST)
        require_unlisted(claim, config.bundle)
        return Identity(trust=config.auth.local_trust)
    wall = require_clock(wall, claim.mode)
    if claim.mode == "token":
        return token_identity(claim, config, wall)
    bundle = require_bundle(claim, config, wall)
    member = member_of(claim.node, bundle)
    if claim.mode == "mtls":
        subject = facts.tls.peer_subject if facts.tls else ""
        if member is None:
            raise unknown(claim, bundle, "node", claim.node)
        if not subject or member.subject != subject:
            raise refuse("zg/auth/wrong-subject", "tls.peer_subject", subject or "none", f"the subject of {claim.node}")
        return Identity(trust=member.trust)
    key = key_of(member, claim.key)
    if member is None or key is None or len(key.public) != 32:
        raise unknown(claim, bundle, "key", claim.key or "none")
    require_window(key, wall)
    return Identity(key=key.key, public=key.public, trust=member.trust)


def token_identity(claim: Claim, config: NodeConfig, wall: tuple[int, int]) -> Identity:
    """A token is bound to its node by the bundle, or shared by all whom the bundle does not list."""
    bundle = config.bundle
    member = member_of(claim.node, bundle) if bundle else None
    key = key_of(member, claim.token)
    if member is not None and key is not None and not key.public:
        require_bundle(claim, config, wall)
        require_window(key, wall)
        return Identity(key=key.key, trust=member.trust)
    require_unlisted(claim, bundle)
    for shared in config.auth.tokens:
        if shared.key == claim.token:
            require_window(shared, wall)
            return Identity(key=shared.key, trust=config.auth.token_trust)
    raise refuse("zg/auth/unknown-token", "token", claim.token or "none", "a token that this node holds")


def own_key(mode: AuthMode, config: NodeConfig, wall: tuple[int, int] | None) -> KeyId:
    """The key by which this node proves itself: its own, or the newest token that is inside its window for sure (""
    when there is none)."""
    if mode == "ed25519":
        return config.auth.key
    if mode == "token" and wall is not None:
        for token in reversed(config.auth.tokens):
            if token.from_utc_ns <= wall[0] and wall[1] <= token.until_utc_ns:
                return token.key
    return KeyId("")


def require_clock(wall: tuple[int, int] | None, mode: AuthMode) -> tuple[int, int]:
    """A mode with keys needs to know what time it is (`zg/auth/no-clock`)."""
    if wall is None:
        raise refuse("zg/auth/no-clock", "wall_clock", "none yet", f"UTC, to judge windows in mode {mode}")
    if wall[1] - wall[0] > 2 * CLOCK_ERROR_NS_MAX:
        raise refuse(
            "zg/auth/no-clock",
            "wall_clock",
            f"an error of {(wall[1] - wall[0]) // 2} ns",
            f"at most {CLOCK_ERROR_NS_MAX}",
        )
    return wall


def require_bundle(claim: Claim, config: NodeConfig, wall: tuple[int, int]) -> TrustBundle:
    """Our bundle, if it may still be believed, and is not another of the same number than theirs."""
    bundle = config.bundle
    if bundle is None:
        raise refuse("zg/auth/no-bundle", "bundle", "none", f"a trust bundle, to know {claim.node}")
    if bundle.cluster != config.cluster:
        raise refuse("zg/auth/wrong-cluster", "bundle.cluster", bundle.cluster, config.cluster)
    if wall[0] > bundle.expires_utc_ns:
        raise RemoteProtocolError(
            "zg/auth/bundle-expired",
            f"ours is version {bundle.bundle_version}, expired at {bundle.expires_utc_ns} ns UTC, it is {wall[0]}; "
            f"theirs is version {claim.bundle_version}",
            "bundle",
        )
    if claim.bundle_version == bundle.bundle_version and claim.bundle and claim.bundle != digest(bundle):
        raise refuse("zg/auth/bundle-conflict", "bundle", claim.bundle, f"{digest(bundle)}, ours of the same version")
    return bundle


def member_of(node: NodeId, bundle: TrustBundle | None) -> Member | None:
    """The bundle's entry for node."""
    return next((member for member in bundle.members if member.node == node), None) if bundle else None


def key_of(member: Member | None, key: str) -> MemberKey | None:
    """The member's key of this fingerprint."""
    return next((entry for entry in member.keys if entry.key == key), None) if member and key else None


def unknown(claim: Claim, bundle: TrustBundle, field: str, got: str) -> RemoteProtocolError:
    """Not in our bundle: because ours is old, or because it is nobody's."""
    if claim.bundle_version > bundle.bundle_version:
        return RemoteProtocolError(
            "zg/auth/stale-bundle",
            f"ours {bundle.bundle_version}, theirs {claim.bundle_version}: fetch the newer; "
            f"{field} {got} is not in ours",
            field,
        )
    return refuse("zg/auth/unknown-key", field, got, f"one that bundle {bundle.bundle_version} lists for {claim.node}")


def require_unlisted(claim: Claim, bundle: TrustBundle | None) -> None:
    """Whoever the bundle lists proves itself by what it lists: a shared token or loopback cannot speak for it."""
    if bundle and member_of(claim.node, bundle):
        raise refuse("zg/auth/identity-needs-key", "node", claim.node, f"a proof by its own key, not mode {claim.mode}")


def require_window(key: MemberKey, wall: tuple[int, int]) -> None:
    """Refuse a key whose window is surely over, or surely not yet open (`zg/auth/key-expired`, `key-not-yet`)."""
    if wall[0] > key.until_utc_ns:
        raise refuse("zg/auth/key-expired", "key", f"{key.key} at {wall[0]} ns UTC", f"until {key.until_utc_ns}")
    if wall[1] < key.from_utc_ns:
        raise refuse("zg/auth/key-not-yet", "key", f"{key.key} at {wall[1]} ns UTC", f"from {key.from_utc_ns}")
