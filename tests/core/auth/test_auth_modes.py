"""Which modes work on which link, and which of two lists wins (H1)."""

import pytest

from tests.core.pair import CERTIFICATE, Pair, Party, boot_of, bundle_of, config_of, member_of, secret_of, token_of
from zeitgeist.core.auth.modes import choose, modes_allowed, require_tls
from zeitgeist.core.descriptors.link import LinkFacts, TlsFacts
from zeitgeist.core.descriptors.trust import AUTH_MODES
from zeitgeist.core.errors import RemoteProtocolError

pytestmark = pytest.mark.requirement("H1")

TLS = TlsFacts(version="TLSv1.3", server_certificate=CERTIFICATE, peer_subject="b.home")


def facts(loopback: bool, tls: TlsFacts | None = None) -> LinkFacts:
    return LinkFacts(transport="tcp", inbound=False, loopback=loopback, address="tcp:b:1", tls=tls)


@pytest.mark.parametrize("lane", ["control", "bulk"])
def test_off_loopback_a_link_without_tls_is_refused_in_every_mode(lane) -> None:
    """Before any mode is chosen; a worker's socket pair never leaves the host."""
    with pytest.raises(RemoteProtocolError, match="zg/auth/tls-required"):
        require_tls(lane, facts(False))
    require_tls(lane, facts(False, TLS))
    require_tls(lane, facts(True))
    require_tls("local", facts(False))


@pytest.mark.parametrize(
    ("lane", "where", "allowed"),
    [
        ("control", facts(True), ("ed25519", "token", "none")),
        ("control", facts(False, TLS), ("mtls", "ed25519", "token")),
        ("bulk", facts(True, TLS), ("mtls", "ed25519", "token", "none")),
        ("control", facts(False, TlsFacts(version="TLSv1.3", server_certificate=CERTIFICATE)), ("ed25519", "token")),
        ("local", facts(True), ("none",)),
    ],
)
def test_a_node_offers_only_what_it_can_carry_out(lane, where, allowed) -> None:
    """mtls needs a verified certificate of the peer, none needs loopback, a local link has none alone."""
    config = config_of("a", AUTH_MODES, tokens=(token_of("shared"),))
    assert modes_allowed(config, lane, where) == allowed


def test_a_mode_that_is_not_configured_is_never_allowed() -> None:
    """none is accepted on loopback only when the configuration lists it."""
    assert modes_allowed(config_of("a", ("ed25519",)), "control", facts(True, TLS)) == ("ed25519",)


@pytest.mark.parametrize(
    ("accepted", "offered", "chosen"),
    [
        (("token", "ed25519"), ("ed25519", "token"), "token"),
        (("ed25519", "token"), ("token", "ed25519"), "ed25519"),
        (("none", "token"), ("token", "none"), "token"),
        (("none",), ("ed25519", "none"), "none"),
    ],
)
def test_the_acceptors_preference_decides_and_none_comes_last(accepted, offered, chosen) -> None:
    """Whatever the dialler's order is."""
    assert choose(accepted, offered) == chosen


def test_no_common_mode_is_refused_with_both_lists() -> None:
    with pytest.raises(RemoteProtocolError, match=r"offers token; the acceptor takes ed25519.*no-common-mode"):
        choose(("ed25519",), ("token",))


@pytest.mark.parametrize(
    ("modes", "how"),
    [
        (("none",), {}),
        (("token",), {}),
        (("ed25519",), {}),
        (("mtls",), {"tls": True, "subjects": ("b.home", "a.home")}),
        (("token",), {"tls": True, "loopback": False}),
        (("ed25519",), {"tls": True, "loopback": False}),
        (("mtls",), {"tls": True, "loopback": False, "subjects": ("b.home", "a.home")}),
    ],
)
def test_each_mode_makes_a_session_where_it_may(modes, how) -> None:
    """Two parties that share the mode: both ready, one session, in that mode."""
    others = {"bundle": bundle_of(member_of("c"))} if modes[0] in ("none", "token") else {}
    a, b = (
        Party(boot_of(config_of(name, modes, tokens=(token_of("shared"),), **others)), secrets=("shared",))
        for name in "ab"
    )
    pair = Pair(a, b)
    here, there = pair.connect(**how)
    assert pair.ready(here, there), (a.refusals(), b.refusals())
    assert a.link(here).mode == b.link(there).mode == modes[0]
    assert not any(
        secret in frame.record for _, frame in pair.carried for secret in map(secret_of, ("shared", "a", "b"))
    )
