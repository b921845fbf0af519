"""Keys, windows, bundles, tokens: who is refused, by which name (H1, H2, H3)."""

import msgspec
import pytest

from tests.core.pair import (
    CERTIFICATE,
    DAY,
    UTC,
    Pair,
    Party,
    boot_of,
    bundle_of,
    config_of,
    key_of,
    member_of,
    prove,
    secret_of,
    token_of,
)
from zeitgeist.core.auth.trust import CLOCK_ERROR_NS_MAX
from zeitgeist.core.descriptors.node import DialTarget
from zeitgeist.core.descriptors.trust import TRUST_LEVELS
from zeitgeist.core.effects import WallClock
from zeitgeist.core.facts import PeerUp
from zeitgeist.core.trace import PeerRefused, PeerStale
from zeitgeist.core.units import Instant

pytestmark = pytest.mark.requirement("H1", "H3")


def meet(a: Party, b: Party, **how) -> tuple[Pair, bool]:
    pair = Pair(a, b)
    return pair, pair.ready(*pair.connect(**how))


def party(name: str, modes=("ed25519",), secrets=(), clock=True, **config) -> Party:
    return Party(boot_of(config_of(name, modes, **config)), secrets=secrets, clock=clock)


def refused(a: Party, b: Party, **how) -> list[str]:
    """Both hear the same reasons, and none has a session."""
    _, ready = meet(a, b, **how)
    assert not ready and not a.all(PeerUp) and not b.all(PeerUp)
    assert a.refusals() == b.refusals() and {e.ours for e in (*a.all(PeerRefused), *b.all(PeerRefused))} == {
        True,
        False,
    }
    return b.refusals()


# ---- keys and their windows


@pytest.mark.parametrize(
    ("first", "last", "reason"),
    [
        (UTC - DAY, UTC - DAY // 2, "auth/key-expired"),
        (UTC + DAY // 2, UTC + DAY, "auth/key-not-yet"),
        (UTC - DAY, UTC - 500_000_000, ""),  # inside the clock's error of a second
        (UTC + 500_000_000, UTC + DAY, ""),
    ],
)
def test_a_key_is_refused_when_it_is_surely_outside_its_window(first, last, reason) -> None:
    """By wall clock within its error bound, and by name."""
    bundle = bundle_of(member_of("a", key_of("a", first, last)), member_of("b"))
    a, b = party("a", bundle=bundle), party("b", bundle=bundle)
    if reason:
        assert refused(a, b) == [reason]
    else:
        assert meet(a, b)[1]


def test_wall_time_goes_on_by_our_own_clock() -> None:
    """A key that was valid when the clock was told is refused once its time has passed since."""
    bundle = bundle_of(member_of("a", key_of("a", UTC - DAY, UTC + 10_000_000_000)), member_of("b"))
    a, b = party("a", bundle=bundle), party("b", bundle=bundle)
    assert meet(a, b)[1]
    b.now = Instant(20_000_000_000)
    late = Party(boot_of(config_of("a", bundle=bundle), epoch=2))
    assert not meet(late, b)[1] and late.refusals() == ["auth/key-expired"]


def test_two_keys_with_overlapping_windows_are_a_rotation() -> None:
    """The same member proves itself by the old key and by the new one; after the window by the new one alone."""
    old, new = key_of("a", UTC - DAY, UTC + DAY // 2), key_of("a2", UTC - DAY // 2, UTC + DAY)
    bundle = bundle_of(member_of("a", old, new), member_of("b"))
    for own in ("a", "a2"):
        assert meet(party("a", key=own, secrets=("a2",), bundle=bundle), party("b", bundle=bundle))[1]
    late = WallClock(utc_ns=UTC + 3 * DAY // 4, error_ns=0)
    for own, ready in (("a", False), ("a2", True)):
        a, b = party("a", key=own, secrets=("a2",), bundle=bundle), party("b", bundle=bundle)
        a.told(late)
        b.told(late)
        assert meet(a, b)[1] is ready
        assert ready or b.refusals() == ["auth/key-expired"]


def test_two_tokens_with_overlapping_windows_are_a_rotation() -> None:
    """The dialler uses the newest that is surely valid; an acceptor that has both takes either, none outside."""
    old, new = token_of("old", UTC - DAY, UTC + DAY // 2), token_of("new", UTC - DAY // 2, UTC + DAY)
    alone = bundle_of(member_of("c"))

    def node(name: str, *tokens, when: int = UTC) -> Party:
        made = party(name, ("token",), secrets=("old", "new"), tokens=tokens, bundle=alone)
        made.told(WallClock(utc_ns=when, error_ns=0))
        return made

    assert meet(node("a", old), node("b", old, new))[1]
    assert meet(node("a", old, new), node("b", old, new))[1]
    assert meet(node("a", new), node("b", old, new))[1]
    assert refused(node("a", new), node("b", old)) == ["auth/unknown-token"]
    assert refused(node("a", old), node("b", old, new, when=UTC + 3 * DAY // 4)) == ["auth/key-expired"]
    assert refused(node("a", new), node("b", old, new, when=UTC - 3 * DAY // 4)) == ["auth/key-not-yet"]


@pytest.mark.parametrize("mode", ["ed25519", "token", "mtls"])
@pytest.mark.parametrize("who", ["dialler", "acceptor"])
def test_no_mode_with_keys_works_before_the_clock_is_told(mode, who) -> None:
    """Neither side judges a window without a time; the refusal names what is missing. A clock that is unsure by more
    than the limit is none."""
    how = {"tls": True, "subjects": ("b.home", "a.home")} if mode == "mtls" else {}
    for told in (None, WallClock(utc_ns=UTC, error_ns=CLOCK_ERROR_NS_MAX + 1)):
        a = party("a", (mode,), ("shared",), clock=who != "dialler", tokens=(token_of("shared"),))
        b = party("b", (mode,), ("shared",), clock=who != "acceptor", tokens=(token_of("shared"),))
        if told:
            (a if who == "dialler" else b).told(told)
        assert refused(a, b, **how) == ["auth/no-clock"]


# ---- bundles


def test_an_unknown_key_is_refused() -> None:
    """A node of our bundle with another key, and a node that is not in it."""
    assert refused(party("a", key="mallory", secrets=("mallory",)), party("b")) == ["auth/unknown-key"]
    assert refused(party("c"), party("b")) == ["auth/unknown-key"]


def test_a_stale_bundle_is_refused_with_a_diagnosis() -> None:
    """Ours does not list the peer, and the peer's is newer: the reason names both versions and what to do; an event
    tells the operator of each side."""
    newer = bundle_of(member_of("a"), member_of("b"), member_of("c"), version=5)
    c, b = party("c", bundle=newer), party("b")
    assert refused(c, b) == ["auth/stale-bundle"]
    said = b.all(PeerRefused)[0].reasons[0]
    assert "ours 3, theirs 5: fetch the newer" in said.detail
    assert b.all(PeerStale) == [PeerStale(peer="c", ours=3, theirs=5)]


def test_different_bundle_versions_are_told_to_both_even_when_all_is_known() -> None:
    """Both sides know each other; the older side hears that it is."""
    a, b = party("a", bundle=bundle_of(version=4)), party("b")
    assert meet(a, b)[1]
    assert a.all(PeerStale) == [PeerStale(peer="b", ours=4, theirs=3)]
    assert b.all(PeerStale) == [PeerStale(peer="a", ours=3, theirs=4)]


@pytest.mark.parametrize("who", ["a", "b"])
def test_an_expired_bundle_is_refused_with_both_versions(who) -> None:
    """By whoever holds it, as dialler or acceptor."""
    old = bundle_of(expires=UTC - DAY, version=2)
    a, b = party("a", bundle=old if who == "a" else None), party("b", bundle=old if who == "b" else None)
    assert refused(a, b) == ["auth/bundle-expired"]
    (reason,) = a.all(PeerRefused)[0].reasons
    assert "version 2" in reason.detail and "theirs is version 3" in reason.detail


def test_two_bundles_of_one_version_that_differ_are_refused() -> None:
    a = party("a", bundle=bundle_of(member_of("a"), member_of("b"), member_of("mallory")))
    assert refused(a, party("b")) == ["auth/bundle-conflict"]


def test_a_bundle_of_another_cluster_and_a_node_of_another_cluster_are_refused() -> None:
    """The names are compared before any key is looked up."""
    assert refused(party("a", cluster="away"), party("b")) == ["auth/wrong-cluster"]
    assert refused(party("a"), party("b", bundle=bundle_of(cluster="away"))) == ["auth/wrong-cluster"]


def test_a_node_without_a_bundle_offers_no_mode_that_needs_one() -> None:
    """It cannot judge anybody, so that it does not begin."""
    boot = boot_of(msgspec.structs.replace(config_of("a"), bundle=None))
    a, b = Party(boot), party("b")
    meet(a, b)
    assert a.refusals() == b.refusals() == ["auth/no-mode"]


# ---- tokens


def test_a_guessed_token_is_refused() -> None:
    """The fingerprint is public, the token is not: a MAC made with another secret does not verify."""
    alone = bundle_of(member_of("c"))
    b = party("b", ("token",), ("shared",), tokens=(token_of("shared"),), bundle=alone)

    class Guesser(Party):
        def host(self, call):
            return msgspec.structs.replace(super().host(call), proof=prove("token", secret_of("guess"), call.message))

    a = Guesser(boot_of(config_of("a", ("token",), tokens=(token_of("shared"),), bundle=alone)), secrets=("shared",))
    assert refused(a, b) == ["auth/bad-proof"]


def test_an_unknown_token_is_refused_before_anything_is_proven() -> None:
    alone = bundle_of(member_of("c"))
    a = party("a", ("token",), ("mine",), tokens=(token_of("mine"),), bundle=alone)
    b = party("b", ("token",), ("shared",), tokens=(token_of("shared"),), bundle=alone)
    assert refused(a, b) == ["auth/unknown-token"]


def test_a_token_holder_cannot_speak_for_a_member_with_a_key() -> None:
    """Node a is in the bundle with an Ed25519 key: whoever holds the shared token is not a."""
    tokens = {"tokens": (token_of("shared"),), "secrets": ("shared",)}
    assert refused(party("a", ("token",), **tokens), party("b", ("ed25519", "token"), **tokens)) == [
        "auth/identity-needs-key"
    ]


def test_loopback_without_proof_cannot_speak_for_a_member() -> None:
    assert refused(party("a", ("none",)), party("b", ("ed25519", "none"))) == ["auth/identity-needs-key"]


def test_a_token_that_the_bundle_ties_to_a_node_gives_that_nodes_trust() -> None:
    """And only that node may use it."""
    tied = bundle_of(
        member_of("a", token_of("mine"), trust=("api_only_peer",)),
        member_of("b", token_of("mine"), trust=("trusted_cache_peer",)),
    )
    tokens = {"tokens": (token_of("mine"),), "secrets": ("mine",), "bundle": tied}
    a, b = party("a", ("token",), **tokens), party("b", ("token",), **tokens)
    assert meet(a, b)[1]
    assert b.all(PeerUp)[0].trust == ("api_only_peer",)
    assert a.all(PeerUp)[0].trust == ("trusted_cache_peer",)


# ---- certificates


@pytest.mark.parametrize("subjects", [("b.home", "c.home"), ("b.home", ""), ("c.home", "a.home")])
def test_a_certificate_of_another_subject_is_refused(subjects) -> None:
    """In mode mtls the subject that TLS verified has to be the one that the bundle ties to the node, on both sides."""
    a, b = party("a", ("mtls",)), party("b", ("mtls",))
    _, ready = meet(a, b, tls=True, subjects=subjects)
    assert not ready and set(a.refusals()) <= {"auth/wrong-subject", "auth/no-common-mode"}
    assert a.refusals() == b.refusals() != []


def test_another_certificate_than_the_join_line_names_is_refused() -> None:
    """The driver pins it too; here the facts are compared again."""
    for pinned, ready in ((CERTIFICATE, True), ("sha256:" + "66" * 32, False)):
        target = DialTarget(address="address", node="b", certificate=pinned)
        a, b = party("a", dial=(target,)), party("b")
        assert meet(a, b, tls=True)[1] is ready
        assert ready or a.refusals() == b.refusals() == ["auth/wrong-certificate"]


def test_another_node_than_the_one_that_was_dialled_is_refused() -> None:
    """Even a trusted one."""
    bundle = bundle_of(member_of("a"), member_of("b"), member_of("c"))
    assert refused(party("a", bundle=bundle), party("b", bundle=bundle), node="c") == ["auth/wrong-node"]


# ---- trust levels


@pytest.mark.requirement("H2")
@pytest.mark.parametrize("level", TRUST_LEVELS)
def test_each_side_grants_what_its_own_bundle_says(level) -> None:
    """The gate asks for these levels on every message; nobody grants them to itself."""
    bundle = bundle_of(member_of("a", trust=(level,)), member_of("b", trust=()))
    a, b = party("a", bundle=bundle), party("b", bundle=bundle)
    pair = Pair(a, b)
    here, there = pair.connect()
    assert b.all(PeerUp)[0].trust == b.sessions.standing(there).trust == (level,)
    assert a.all(PeerUp)[0].trust == a.sessions.standing(here).trust == ()


@pytest.mark.requirement("H2")
def test_nobody_has_trust_before_its_proof() -> None:
    """At every frame of the handshake, on both sides: no peer and no trust until phase 1 is over."""
    seen = []

    def look(sender, receiver, frame):
        for link in receiver.sessions.book.links.values():
            standing = receiver.sessions.standing(link.link)
            proven = standing.state not in ("greeting", "challenged", "proving")
            seen.append(proven)
            assert bool(standing.peer) == bool(standing.trust) == proven
        return (frame,)

    pair = Pair(party("a"), party("b"), look)
    assert pair.ready(*pair.connect()) and set(seen) == {True, False}
